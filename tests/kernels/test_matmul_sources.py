"""The matmul kernels of all paths, ARM's too, compiled for this machine, every address checked: the bits of its own.

tests/neon runs ARM's on emulated cores, at full speed and unchecked.
"""

from __future__ import annotations

from typing import Any

import kernel_builds
import matmul_calls as calls
import pytest

from tinydiff_kernels import aot, checked, cpu, dispatch

SIGNATURE = "void(int64, int64, int64)"


@pytest.fixture
def kernels(library: tuple[aot.Loaded, dict[str, str]]) -> dict[str, Any]:
    """ "module:function" -> kernel, for each one that some path runs; checked."""
    loaded, symbols = library
    checked.attach_address(loaded.address(checked.SYMBOL), loaded)
    return {where: loaded.function(symbol, 3) for where, symbol in symbols.items()}


@pytest.fixture(scope="module")
def library() -> tuple[aot.Loaded, dict[str, str]]:
    """All of them compiled together, and the symbol of each."""
    sources = {
        dispatch.find(name, dispatch.BY_NAME[path])[1]: dispatch.source(name, dispatch.BY_NAME[path])
        for name in calls.KINDS
        for path in dispatch.BY_NAME
    }
    symbols = {where: where.split(":")[1] for where in sources}
    machine = aot.Machine.of(dispatch.available()[0], cpu.this_cpu().arch, checked=True)
    made = aot.compile_object({symbols[where]: (source, SIGNATURE) for where, source in sources.items()}, machine)
    return aot.Loaded(made.object, [*symbols.values(), checked.SYMBOL]), symbols


@pytest.fixture(scope="module")
def expected() -> dict[str, list[bytes]]:
    made, signed = (
        kernel_builds.library(tuple(calls.KINDS), kernel_builds.PATHS[0]),
        dispatch.available()[0].signed_bytes,
    )
    return {name: [result.tobytes() for result in calls.results(name, made[name], signed=signed)] for name in made}


@pytest.mark.parametrize("path", dispatch.BY_NAME)
@pytest.mark.parametrize("name", calls.KINDS)
def test_same_bits(name: str, path: str, kernels: dict[str, Any], expected: dict[str, list[bytes]]) -> None:
    kernel = kernels[dispatch.find(name, dispatch.BY_NAME[path])[1]]
    signed = dispatch.BY_NAME[path].signed_bytes
    made = [result.tobytes() for result in calls.results(name, kernel, signed=signed)]
    assert [i for i, (x, y) in enumerate(zip(made, expected[name], strict=True)) if x != y] == []
