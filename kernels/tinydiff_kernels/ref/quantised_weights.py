"""Weights as 8-bit integers: one scale per output channel, symmetric.

    w[n, k] ~ scale[n] * q[n, k],   |q| <= 127,   |q[2i]| + |q[2i + 1]| <= 128 for neighbouring input channels

The second bound lets AVX2 multiply with vpmaddubsw, which adds two products in 16 bits: 255 * 128 fits, 255 * 254 does
not. Bounding pairs costs less than bounding each weight by 64, since two large weights seldom meet.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PAIR_LIMIT = 128
LARGEST = 127


def pair_sums(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """|w[2i]| + |w[2i + 1]| along axis 1 (input channels) of `[out, in, ...]`; an odd last channel stands alone."""
    size = np.abs(weight)
    if size.shape[1] % 2:
        size = np.concatenate([size, np.zeros_like(size[:, :1])], axis=1)
    return np.asarray(size[:, 0::2] + size[:, 1::2], np.float32)


def quantise_i8(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """`[out, in, ...]` -> (int8 of the same shape, float32 scales `[out]`).

    The scale is the smallest that keeps both bounds: pairs may reach 127 before rounding, which adds at most one.
    A channel of zeros gets scale 1. Not-a-number or infinite weights quantise to 0 with scale NaN.
    """
    axes = tuple(range(1, weight.ndim))
    pairs = pair_sums(weight).max(axes, initial=0)
    with np.errstate(invalid="ignore", over="ignore"):
        scale = (pairs / np.float32(LARGEST)).astype(np.float32)
        scale = np.where(scale > 0, scale, np.where(np.isnan(scale), np.nan, 1)).astype(np.float32)
        q = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
    finite = np.isfinite(scale)
    q[~finite] = 0
    return q.astype(np.int8), np.where(finite, scale, np.float32(np.nan))


def dequantise_i8(q: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(q * scale.reshape(-1, *[1] * (q.ndim - 1)), np.float32)
