"""Kernels compiled ahead of time for every path of this CPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tinydiff_kernels import aot, checked, cpu, dispatch

PATHS = [path.name for path in dispatch.available()]
SIGNATURE = "void(int64, int64, int64)"


def exports(names: tuple[str, ...], path: str) -> dict[str, Any]:
    return {name: (dispatch.source(name, dispatch.BY_NAME[path]), SIGNATURE) for name in names}


def library(names: tuple[str, ...], path: str, is_checked: bool = False) -> dict[str, Any]:
    """Name -> kernel, all compiled together for a path, checked (for the running test: see conftest) or not."""
    loaded = _compiled(names, path, is_checked)
    if is_checked:
        checked.attach_address(loaded.address(checked.SYMBOL), loaded)
    return {name: loaded.function(name, 3) for name in names}


@lru_cache(maxsize=32)
def _compiled(names: tuple[str, ...], path: str, is_checked: bool) -> aot.Loaded:
    machine = aot.Machine.of(dispatch.BY_NAME[path], cpu.this_cpu().arch, checked=is_checked)
    made = aot.compile_object(exports(names, path), machine)
    assert made.undefined == []
    assert not any(f in made.assembly for f in ("memset", "memcpy", "memmove"))  # not there without libc
    return aot.Loaded(made.object, [*names, *([checked.SYMBOL] if is_checked else [])])
