"""Weights in the order in which the micro-kernel reads them, the same on every machine.

    float32, half   [panels of 16 outputs][taps][channels][16]
    int8            [panels of 16 outputs][taps][channels / 4][16][4], channels padded to a multiple of 8
    int4            [panels of 16 outputs][taps][channels / 8][16][4], channels padded to a multiple of 32; a byte has
                    channels 8i + j in its low half and 8i + 4 + j in its high half, j = 0..3
      group scales  [panels of 16 outputs][taps][channels / 32][16]

Each step of the inner loop reads the next 64 bytes (32 of halves): AVX-512 as one vector, AVX2 as two, NEON's sdot as
four. Missing outputs and channels are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.matmul.descriptor import PANEL
from tinydiff_kernels.ref.quantised_weights import GROUP, quantise_i4, quantise_i8

Float32 = NDArray[np.float32]
Kind = Literal["f32", "f16", "i8", "i8_limited", "i4"]
CHANNEL_MULTIPLE = 8  # of channels with int8 weights: smmla takes eight at once
CACHE_LINE = 64  # bytes
GATE_WIDTH = 8  # a panel of a gated layer holds 8 values, then their 8 gates


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight ready for the kernels. `outputs` counts columns of the result (values only, where `gated`)."""

    kind: Kind
    data: NDArray[Any]
    taps: int
    steps: int  # of 4 bytes of A in one tap
    outputs: int
    gated: bool = False
    scales: Float32 | None = None  # [panels * 16], of int8 and int4
    sums: NDArray[np.int32] | None = None  # [panels * 16], sums of the integers of a column
    group_scales: NDArray[np.uint8] | None = None  # int4

    @property
    def panels(self) -> int:
        return len(self.data)

    @property
    def panel_bytes(self) -> int:
        return self.data.nbytes // max(self.panels, 1)


def aligned(x: NDArray[Any]) -> NDArray[Any]:
    """A contiguous copy that begins on a cache line, so that no step of the inner loop reads from two."""
    room = np.empty(x.nbytes + CACHE_LINE, np.uint8)
    start = -room.ctypes.data % CACHE_LINE
    copy = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def pad_columns(x: NDArray[Any]) -> NDArray[Any]:
    """The last axis up to whole panels, with zeros."""
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % PANEL)])


def interleave_gates(weight: NDArray[Any]) -> NDArray[Any]:
    """Rows v0 .. vn-1, g0 .. gn-1 -> 8 values, their 8 gates, the next 8 values, ...; zeros fill the last panel."""
    half = len(weight) // 2
    padded = -(-half // GATE_WIDTH) * GATE_WIDTH
    rows = np.zeros((2, padded, *weight.shape[1:]), weight.dtype)
    rows[0, :half], rows[1, :half] = weight[:half], weight[half:]
    blocks = rows.reshape(2, -1, GATE_WIDTH, *weight.shape[1:])
    return np.ascontiguousarray(blocks.swapaxes(0, 1)).reshape(2 * padded, *weight.shape[1:])


def _by_tap(weight: NDArray[Any]) -> NDArray[Any]:
    """`[out, in]` or `[out, in, kh, kw]` -> `[taps, in, out padded to whole panels]`."""
    outputs, inputs = weight.shape[:2]
    return pad_columns(weight.reshape(outputs, inputs, -1).transpose(2, 1, 0))


def _panels_first(by_tap: NDArray[Any]) -> NDArray[Any]:
    taps, inputs, columns = by_tap.shape
    panels = by_tap.reshape(taps, inputs, columns // PANEL, PANEL).transpose(2, 0, 1, 3)
    return aligned(panels)


def pack_float(weight: Float32, kind: Literal["f32", "f16"] = "f32", *, gated: bool = False) -> Packed:
    """`[out, in]` or `[out, in, kh, kw]`; halves are rounded to nearest."""
    rows = interleave_gates(weight) if gated else weight
    dtype = np.float16 if kind == "f16" else np.float32
    data = _panels_first(_by_tap(rows.astype(dtype, copy=False)))
    return Packed(kind, data, data.shape[1], data.shape[2], len(weight) // (2 if gated else 1), gated)


def pack_i8(weight: Float32, *, gated: bool = False, limited: bool = False) -> Packed:
    """Quantise and pack."""
    q, scales = quantise_i8(interleave_gates(weight) if gated else weight, limited=limited)
    return pack_integers(q, scales, len(weight) // (2 if gated else 1), gated=gated, limited=limited)


def pack_integers(
    q: NDArray[np.int8], scales: Float32, outputs: int, *, gated: bool = False, limited: bool = False
) -> Packed:
    """int8 `[out, in, ...]` that keep the bounds of `ref/quantised_weights.py`."""
    by_tap = _by_tap(q)
    taps, inputs, columns = by_tap.shape
    by_tap = np.pad(by_tap, ((0, 0), (0, -inputs % CHANNEL_MULTIPLE), (0, 0)))
    groups = by_tap.reshape(taps, -1, 4, columns // PANEL, PANEL).transpose(3, 0, 1, 4, 2)
    data = aligned(groups)
    sums = by_tap.sum((0, 1), dtype=np.int32)
    return Packed(
        "i8_limited" if limited else "i8", data, taps, data.shape[2], outputs, gated, pad_columns(scales), sums
    )


def pack_i4(weight: Float32, *, gated: bool = False) -> Packed:
    """Quantise and pack."""
    made = quantise_i4(interleave_gates(weight) if gated else weight)
    count = len(made.q)
    q = np.pad(made.q, ((0, -count % PANEL), (0, 0), (0, 0)))
    steps = np.pad(made.group_scales, ((0, -count % PANEL), (0, 0), (0, 0)), constant_values=1)
    columns, taps, channels = q.shape
    pairs = q.reshape(columns // PANEL, PANEL, taps, channels // 8, 2, 4).transpose(4, 0, 2, 3, 1, 5)
    data = (pairs[0] & 0xF).astype(np.uint8) | (pairs[1].astype(np.uint8) << 4)
    scaled = q.reshape(columns, taps, -1, GROUP).sum(3, dtype=np.int32) * steps
    group_scales = steps.reshape(columns // PANEL, PANEL, taps, -1).transpose(0, 2, 3, 1)
    return Packed(
        "i4",
        aligned(data),
        taps,
        channels // 4,
        len(weight) // (2 if gated else 1),
        gated,
        pad_columns(made.scales),
        scaled.sum((1, 2), dtype=np.int32),
        np.ascontiguousarray(group_scales),
    )


def unpack_float(packed: Packed, shape: tuple[int, ...]) -> Float32:
    """The inverse of `pack_float`: `shape` is the weight's `[out, in, ...]`."""
    by_tap = packed.data.transpose(1, 2, 0, 3).reshape(packed.taps, shape[1], -1)
    return _weight_of(by_tap, shape, gated=packed.gated).astype(np.float32)


def unpack_integers(packed: Packed, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """The inverse of `pack_integers`."""
    by_tap = packed.data.transpose(1, 2, 4, 0, 3).reshape(packed.taps, 4 * packed.steps, -1)[:, : shape[1]]
    return np.asarray(_weight_of(by_tap, shape, gated=packed.gated), np.int8)


def _weight_of(by_tap: NDArray[Any], shape: tuple[int, ...], *, gated: bool) -> NDArray[Any]:
    rows = by_tap.transpose(2, 1, 0)
    if gated:
        half = shape[0] // 2
        values = rows.reshape(-1, 2, GATE_WIDTH, *rows.shape[1:]).swapaxes(0, 1).reshape(2, -1, *rows.shape[1:])
        rows = np.concatenate([values[0, :half], values[1, :half]])
    return np.ascontiguousarray(rows[: shape[0]]).reshape(shape)
