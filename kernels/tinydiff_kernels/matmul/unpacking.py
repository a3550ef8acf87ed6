"""From packed weights back to the numbers they mean: for the reference backend, and to measure what packing lost."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.matmul.packing import GATE_WIDTH, Packed
from tinydiff_kernels.ref.quantised_weights import GROUP

Float32 = NDArray[np.float32]

# Three taps of an axis from the sums of its classes, w0, w1 + w2 and w0 + w1, w2: the pseudoinverse, in exact quarters.
SHARES = np.array([[3, -1, 1, 1], [-2, 2, 2, -2], [1, 1, -1, 3]], np.float32) / np.float32(4)


def dequantise(packed: Packed, shape: tuple[int, ...]) -> Float32:
    """The weight `[out, in, ...]` of `shape`, float32. Of an upsampled convolution's class: `[out, in, 2, 2]`."""
    by_output = _columns(packed)[:, :, : shape[1]]  # [columns, taps, channels]
    rows = _without_gates(by_output, shape[0]) if packed.gated else by_output[: shape[0]]
    return np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(shape)


def _columns(packed: Packed) -> Float32:
    """`[columns, taps, channels]` in the order of the panels, with their padding."""
    data, taps = packed.data, packed.taps
    if packed.kind in ("f32", "f16"):
        return data.transpose(0, 3, 1, 2).reshape(-1, taps, data.shape[2]).astype(np.float32)
    assert packed.scales is not None
    if packed.group_scales is None:
        values = data.transpose(0, 3, 1, 2, 4).reshape(-1, taps, 4 * packed.steps).astype(np.float32)
    else:
        low, high = (data << 4).view(np.int8) >> 4, data.view(np.int8) >> 4
        both = np.stack([low, high]).transpose(1, 4, 2, 3, 0, 5)  # [panels, 16, taps, channels / 8, half, 4]
        steps = packed.group_scales.transpose(0, 3, 1, 2).reshape(-1, taps, packed.group_scales.shape[2])
        values = both.reshape(-1, taps, 4 * packed.steps) * np.repeat(steps, GROUP, axis=2).astype(np.float32)
    return np.asarray(values * packed.scales[:, None, None], np.float32)


def _without_gates(rows: Float32, outputs: int) -> Float32:
    """8 values, their 8 gates, ... -> all values, all gates."""
    pairs = rows.reshape(-1, 2, GATE_WIDTH, *rows.shape[1:]).swapaxes(0, 1).reshape(2, -1, *rows.shape[1:])
    return np.concatenate([pairs[0, : outputs // 2], pairs[1, : outputs // 2]])


def merge_classes(classes: Mapping[tuple[int, int], Float32]) -> Float32:
    """Four `[out, in, 2, 2]` of an upsampled convolution -> the `[out, in, 3, 3]` that explains them best.

    Each class sums taps of the 3x3 kernel (`geometry.upsample_weights`): sixteen sums of nine numbers, so the kernel
    follows by least squares, exactly where the classes are exact. Axis by axis, since the sums are a product of both;
    and without matrix products, which give each CPU bits of its own.
    """
    rows = [np.concatenate([classes[a, 0], classes[a, 1]], axis=3) for a in (0, 1)]
    sums = np.concatenate(rows, axis=2)  # [out, in, 4, 4]
    tall = np.stack([_weighted(sums, shares, 2) for shares in SHARES], axis=2)  # [out, in, 3, 4]
    return np.stack([_weighted(tall, shares, 3) for shares in SHARES], axis=3)


def _weighted(values: Float32, shares: Float32, axis: int) -> Float32:
    a, b, c, d = (share * part for share, part in zip(shares, np.moveaxis(values, axis, 0), strict=True))
    return np.asarray(((a + b) + c) + d, np.float32)
