"""Activations in 16 bits between strips: a float32 scale for each row, x ~ scale * q, q in -32767..32767.

A row is `BLOCK` channels of a pixel (all where they make no whole blocks): fewer share their largest magnitude, of
which the error is at most 1 / 65534, and float32's roundings. Not fp16: SDXL's autoencoder leaves its range. A row with
NaN or infinity has scale NaN, so that all of it is NaN again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.ref.quantise import SMALLEST_SCALE

Float32 = NDArray[np.float32]
LARGEST = 32767.0
BLOCK = 16


def block_of(channels: int) -> int:
    """Channels that share a scale."""
    return channels if channels % BLOCK else BLOCK


def scale_bytes(channels: int) -> int:
    """Of a pixel's scales."""
    return 4 * (channels // block_of(channels))


def shorten(x: Float32) -> tuple[NDArray[np.int16], Float32]:
    """`[rows, BLOCK]` -> (q, `[rows]` scales). Float32 arithmetic, one rounding an operation."""
    with np.errstate(invalid="ignore"):
        scale = np.abs(x).max(1, initial=0) / np.float32(LARGEST)
        scale = np.where(scale < SMALLEST_SCALE, np.float32(1), scale)
        scale = np.where(np.isfinite(scale), scale, np.float32(np.nan)).astype(np.float32)
        steps = np.rint(x * (np.float32(1) / scale)[:, None])
        steps = np.where(np.isnan(steps), -LARGEST, steps)
    return np.clip(steps, -LARGEST, LARGEST).astype(np.int16), scale


def widen(q: NDArray[np.int16], scale: Float32) -> Float32:
    return q.astype(np.float32) * scale[:, None]
