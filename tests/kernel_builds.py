"""Kernels compiled ahead of time for every path of this CPU, and arrays that show a byte written beside them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tinydiff_kernels import aot, checked, cpu, dispatch

PATHS = [path.name for path in dispatch.available()]
SIGNATURE = "void(int64, int64, int64)"
CANARY = 0xA5


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


class Framed:
    """An unaligned array with room around it and between its rows, all filled with canaries."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, gap: int = 0) -> None:
        """`gap` bytes follow the last axis each time (each row or pixel); outer axes lie close."""
        kind = np.dtype(dtype)
        step = shape[-1] * kind.itemsize + gap
        strides = [kind.itemsize]
        for axis in range(len(shape) - 2, -1, -1):
            strides.insert(0, step if len(strides) == 1 else strides[0] * shape[axis + 1])
        self._make = lambda raw: np.ndarray(shape, kind, raw, 67, tuple(strides))
        self._raw = np.full(67 + 67 + max(1, int(np.prod(shape[:-1]))) * step, CANARY, np.uint8)
        self._canary = np.frombuffer(bytes([CANARY]) * kind.itemsize, kind)[0]
        self.array: Any = self._make(self._raw)

    def with_values(self, values: Any) -> Framed:
        self.array[...] = values
        return self

    def untouched_around(self) -> bool:
        copy = self._raw.copy()
        self._make(copy)[...] = self._canary
        return bool((copy == CANARY).all())
