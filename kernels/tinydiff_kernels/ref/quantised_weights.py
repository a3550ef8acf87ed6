"""Weights as 8-bit integers: one scale per output channel, symmetric.

    w[n, k] ~ scale[n] * q[n, k],   |q| <= 127
    limited:   |q[2i]| + |q[2i + 1]| <= 128 as well, for neighbouring input channels

The second bound lets AVX2 multiply with vpmaddubsw, which adds two products in 16 bits: 255 * 128 fits, 255 * 254 does
not. It is a choice of whoever quantises. Bounding pairs costs less than bounding each weight by 64 where large weights
are rare and seldom meet; evenly spread weights lose the same 6 dB.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def quantise_i8(weight: NDArray[np.float32], *, limited: bool = False) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """`[out, in, ...]` -> (int8 of the same shape, float32 scales `[out]`).

    The scale is the smallest that keeps the bounds: pairs may reach 127 before rounding, which adds at most one.
    A channel of zeros gets scale 1. Not-a-number or infinite weights quantise to 0 with scale NaN.
    """
    axes = tuple(range(1, weight.ndim))
    largest = (pair_sums(weight) if limited else np.abs(weight)).max(axes, initial=0)
    with np.errstate(invalid="ignore", over="ignore"):
        scale = (largest / np.float32(LARGEST)).astype(np.float32)
        scale = np.where(scale > 0, scale, np.where(np.isnan(scale), np.nan, 1)).astype(np.float32)
        q = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
    finite = np.isfinite(scale)
    q[~finite] = 0
    return q.astype(np.int8), np.where(finite, scale, np.float32(np.nan))


def dequantise_i8(q: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(q * scale.reshape(-1, *[1] * (q.ndim - 1)), np.float32)


# ---- 4 bits ---------------------------------------------------------------------------------------------------------

GROUP = 32
LARGEST_4 = 7
LARGEST_GROUP_SCALE = 63
SUM_LIMIT = 2**31 - 1
CLIPPED = tuple(np.float32(share) for share in (0.95, 0.9, 0.85, 1.05))  # of the range that clips nothing


@dataclass(frozen=True, eq=False)
class Int4:
    """w[n, k] ~ scales[n] * group_scales[n, k's group] * q[n, k], |q| <= 7; groups are 32 input channels of one tap.

    Group scales are integers, so that whole sums stay integers: of 6 bits, and fewer where a layer is so deep that a
    sum of 255 * 7 * group scale could leave 32 bits.
    """

    q: NDArray[np.int8]  # [out, taps, channels padded to whole groups]
    group_scales: NDArray[np.uint8]  # [out, taps, groups]
    scales: NDArray[np.float32]  # [out]


def quantise_i4(weight: NDArray[np.float32]) -> Int4:
    """`[out, in, ...]` -> groups. Channels of zeros get scale 1; not-a-number or infinity gives q 0 and scale NaN.

    A group's scale is the one of a few that leaves the least squared error. Few of 32 weights are near the largest, and
    a finer step for the many is worth clipping the few: half a decibel of evenly or normally spread weights.
    """
    outputs, inputs = weight.shape[:2]
    by_tap = weight.reshape(outputs, inputs, -1).transpose(0, 2, 1)
    by_tap = np.pad(by_tap, ((0, 0), (0, 0), (0, -inputs % GROUP)))
    groups = by_tap.reshape(outputs, by_tap.shape[1], -1, GROUP)
    depth = by_tap.shape[1] * by_tap.shape[2]
    most = min(LARGEST_GROUP_SCALE, SUM_LIMIT // (255 * LARGEST_4 * depth))
    ideal = np.abs(groups).max(3) / np.float32(LARGEST_4)
    with np.errstate(invalid="ignore", over="ignore"):
        scales = (ideal.max((1, 2)) / np.float32(most)).astype(np.float32)
        finite = np.isfinite(scales)
        scales = np.where(scales > 0, scales, np.float32(1))
        units = scales[:, None, None]
        steps = np.clip(np.rint(ideal / units), 1, most)
        least = _squared_error(groups, units * steps)
        for share in CLIPPED:
            other = np.clip(np.rint(share * ideal / units), 1, most)
            error = _squared_error(groups, units * other)
            better = error < least
            steps, least = np.where(better, other, steps), np.where(better, error, least)
        q = _rounded(groups, units * steps)
    q[~finite] = steps[~finite] = 0
    return Int4(
        q.astype(np.int8).reshape(by_tap.shape),
        np.maximum(steps, 1).astype(np.uint8),
        np.where(finite, scales, np.float32(np.nan)),
    )


def _rounded(groups: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Integers of `[..., GROUP]`."""
    return np.asarray(np.clip(np.rint(groups / scales[..., None]), -LARGEST_4, LARGEST_4), np.float32)


def _squared_error(groups: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each group. Added by halves, so that every machine comes to the same sum and the same choice."""
    error = np.square(_rounded(groups, scales) * scales[..., None] - groups)
    while error.shape[-1] > 1:
        half = error.shape[-1] // 2
        error = error[..., :half] + error[..., half:]
    return np.asarray(error[..., 0], np.float32)


def dequantise_i4(packed: Int4, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The weight `[out, in, ...]` that the integers mean."""
    steps = np.repeat(packed.group_scales, GROUP, axis=2).astype(np.float32)
    by_tap = (packed.q * steps * packed.scales[:, None, None])[:, :, : shape[1]]
    return np.ascontiguousarray(by_tap.transpose(0, 2, 1).reshape(shape), np.float32)
