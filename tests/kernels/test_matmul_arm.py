"""ARM's matmul kernels compiled for this machine, every address checked: the bits of this machine's own kernels.

tests/neon runs them on emulated cores, at full speed and unchecked.
"""

from __future__ import annotations

from typing import Any

import matmul_calls as calls
import pytest

from tinydiff_kernels import aot, checked, cpu, dispatch

SIGNATURE = "void(int64, int64, int64)"
PATHS = ("i8mm", "dotprod", "neon")


@pytest.fixture
def kernels(library: tuple[aot.Loaded, dict[str, str]]) -> dict[str, Any]:
    """ "module:function" -> kernel, for each one that some ARM path runs; checked."""
    loaded, symbols = library
    checked.attach_address(loaded.address(checked.SYMBOL), loaded)
    return {where: loaded.function(symbol, 3) for where, symbol in symbols.items()}


@pytest.fixture(scope="module")
def library() -> tuple[aot.Loaded, dict[str, str]]:
    """All of them compiled together, and the symbol of each."""
    sources = {
        dispatch.find(name, dispatch.BY_NAME[path])[1]: dispatch.source(name, dispatch.BY_NAME[path])
        for name in calls.KINDS
        for path in PATHS
    }
    symbols = {where: where.split(":")[1] for where in sources}
    machine = aot.Machine.of(dispatch.available()[0], cpu.this_cpu().arch, checked=True)
    made = aot.compile_object({symbols[where]: (source, SIGNATURE) for where, source in sources.items()}, machine)
    return aot.Loaded(made.object, [*symbols.values(), checked.SYMBOL]), symbols


@pytest.fixture(scope="module")
def expected() -> dict[str, list[bytes]]:
    best = dispatch.available()[0]
    exports = {name: (dispatch.source(name, best), SIGNATURE) for name in calls.KINDS}
    loaded = aot.Loaded(aot.compile_object(exports, aot.Machine.of(best, cpu.this_cpu().arch)).object, list(exports))
    signed = best.signed_bytes
    return {
        name: [result.tobytes() for result in calls.results(name, loaded.function(name, 3), signed=signed)]
        for name in calls.KINDS
    }


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", calls.KINDS)
def test_same_bits(name: str, path: str, kernels: dict[str, Any], expected: dict[str, list[bytes]]) -> None:
    kernel = kernels[dispatch.find(name, dispatch.BY_NAME[path])[1]]
    made = [result.tobytes() for result in calls.results(name, kernel, signed=True)]
    assert [i for i, (x, y) in enumerate(zip(made, expected[name], strict=True)) if x != y] == []
