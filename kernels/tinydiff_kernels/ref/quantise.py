"""Activations in 8 bits: u8 with a zero point, one scale for each row or each image.

    x ~ scale * (q - zero)          scale float32, zero and q in 0..255

The range [lo, hi] always holds 0, so that 0 (a convolution's border, a matmul's padding) is exact: Jacob et al. 2017,
arXiv:1712.05877, section 2.1. All arithmetic is float32, one rounding an operation, and the kernels' to the bit.

Data with NaN, infinity or a range beyond float32's has scale NaN and every q 0: what is computed from it is NaN, and a
watchdog sees it. A range whose scale would be below the smallest normal number (all zeros, for one) has scale 1.

Paths with signed dot products keep q ^ 0x80, read as int8, and zero - 128 (`flip`): the difference is the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.ref.activation import activate
from tinydiff_kernels.rows import Array

Float32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
RECORD = np.dtype([("scale", np.float32), ("zero", np.int32)])  # how scales and zeros lie beside the data
SMALLEST_SCALE = np.float32(2.0**-126)
FLIP = 0x80
# Where an activation that falls before it rises has its minimum, and how deep that is.
DIPS: dict[str | None, tuple[float, float]] = {
    "silu": (-1.2784645427610738, -0.27846454276107380),
    "gelu": (-0.75179153136301500, -0.16997120747990369),
    "quick_gelu": (-0.751154255441289, -0.1636101896363536),
}


def record(lo: Float32, hi: Float32, flip: int = 0) -> NDArray[np.void]:
    """Ranges, float32 of any shape -> their records. lo and hi are widened to hold 0."""
    low, high = np.minimum(lo, np.float32(0)), np.maximum(hi, np.float32(0))
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.asarray((high - low) / np.float32(255), np.float32)
        scale = np.where(scale < SMALLEST_SCALE, np.float32(1), scale)
        scale = np.where(np.isfinite(scale), scale, np.float32(np.nan))
        zero = np.clip(np.rint(np.where(np.isnan(scale), 0, -low / scale)), 0, 255)
    made = np.zeros(np.shape(scale), RECORD)
    made["scale"], made["zero"] = scale, zero.astype(np.int32) - flip
    return made


def quantise(x: Float32, records: NDArray[np.void], flip: int = 0) -> U8:
    """clamp(round(x * (1 / scale)) + zero, 0, 255), rounded half to even; `records` broadcast against x."""
    inverse = np.float32(1) / records["scale"]
    zero = (records["zero"] + flip).astype(np.float32)
    steps = np.rint(x * inverse)
    with np.errstate(invalid="ignore"):
        q = np.clip(np.where(np.isnan(steps), -zero, steps), -zero, 255 - zero) + zero
    return np.asarray(q, np.uint8) ^ np.uint8(flip)


def dequantise(q: U8, records: NDArray[np.void], flip: int = 0) -> Float32:
    """scale * (q - zero)."""
    steps = (q ^ np.uint8(flip)).astype(np.int32) - (records["zero"] + flip)
    return np.asarray(records["scale"] * steps.astype(np.float32), np.float32)


def rows_records(x: Float32, flip: int = 0) -> NDArray[np.void]:
    """One record for each row of x `[rows, channels]`: `[rows, 1]`."""
    return record(x.min(1, keepdims=True, initial=0), x.max(1, keepdims=True, initial=0), flip)


def activated_range(lo: Array, hi: Array, activation: str | None) -> tuple[Array, Array]:
    """A range that covers the activation of all numbers in [lo, hi], and exceeds it at a dip between them at most."""
    left, right = activate(lo, activation), activate(hi, activation)
    bottom = np.minimum(left, right)
    if activation in DIPS:
        where, depth = DIPS[activation]
        bottom = np.where((lo < where) & (where < hi), lo.dtype.type(depth), bottom)
    return bottom, np.maximum(left, right)
