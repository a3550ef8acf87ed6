"""Arrays for kernels: at odd addresses, with canaries around them. Imports no Numba: emulated ARM uses them too."""

from __future__ import annotations

from typing import Any

import numpy as np

CANARY = 0xA5


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


def framed(values: Any, gap: int = 0) -> Framed:
    return Framed(values.shape, values.dtype, gap).with_values(values)


def one_nan(x: Any) -> Any:
    """All NaN alike: their sign and payload are not promised, so they must not be hashed."""
    return np.where(np.isnan(x), np.float32(np.nan), x)
