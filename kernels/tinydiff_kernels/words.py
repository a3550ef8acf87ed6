"""Descriptors: what a kernel is told, as int64 words in memory.

A kernel reads fields at fixed byte offsets (`load(i64, desc, INPUT)`), each a module constant next to its explanation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def filled(count: int, values: Mapping[int, int | NDArray[Any]]) -> NDArray[np.int64]:
    """`count` words with these values at these byte offsets, the rest zero. An array stands for its address.

    Every array that words point to must outlive the kernel's call.
    """
    words = np.zeros(count, np.int64)
    for offset, value in values.items():
        words[offset // 8] = value.ctypes.data if isinstance(value, np.ndarray) else value
    return words


def float_bits(value: float) -> int:
    """A float32 as a word; kernels read it with `load(f32, desc, FIELD)`."""
    return int(np.float32(value).view(np.int32)) & 0xFFFFFFFF
