"""Weights in the order in which the micro-kernel reads them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.matmul.descriptor import PANEL

Float32 = NDArray[np.float32]


def pack_f32(weight: Float32) -> Float32:
    """`[out, in]` or `[out, in, kh, kw]` -> `[panels of 16 outputs, taps, in, 16]`, missing outputs zero.

    Every step of the inner loop reads the next 64 bytes.
    """
    outputs, inputs = weight.shape[:2]
    taps = weight.reshape(outputs, inputs, -1).transpose(2, 1, 0)  # [taps, in, out]
    padded = np.zeros((*taps.shape[:2], -(-outputs // PANEL) * PANEL), np.float32)
    padded[:, :, :outputs] = taps
    panels = padded.reshape(*taps.shape[:2], -1, PANEL).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(panels)


def unpack_f32(packed: Float32, outputs: int, shape: tuple[int, ...] = ()) -> Float32:
    """The inverse: `[out, in, *shape]`, where shape is () or (kh, kw)."""
    panels, taps, inputs, _ = packed.shape
    weight = packed.transpose(0, 3, 2, 1).reshape(panels * PANEL, inputs, taps)[:outputs]
    return np.ascontiguousarray(weight.reshape(outputs, inputs, *shape))


def pad_table(table: Float32) -> Float32:
    """`[rows, out]` -> `[rows, out up to whole panels]` with zeros."""
    return np.pad(table, ((0, 0), (0, -table.shape[1] % PANEL))).astype(np.float32, copy=False)
