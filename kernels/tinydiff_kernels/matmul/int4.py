"""matmul_i4: the indirect matmul on quantised activations and int4 weights in groups, exact in 32-bit integers.

    sum[m, n] = sum over groups g of scale[g, n] * (sum over the 32 channels k of g of q[m, k] * w[k, n])

Everything else as `int8.py`. Group scales are integers of 6 bits (`ref/quantised_weights.py`), so the result is
exact. A group's sums live in registers; they are scaled and added to the tile in scratch when the group is done. A
step reads 64 bytes of B, which are 8 channels of 16 columns: low halves are the first four, high halves the next. NaN
and scales of zero as there.

    sums in 32 bits    vpdpbusd, sdot: one instruction for four channels, one multiplication for a group; sdot by lane
                       (`int4_lanes.py`)
    sums in 16 bits    AVX2 (`int4_narrow.py`) and NEON without dot products (`int4_pairs.py`)
    8 rows, 32 columns AVX-512 (`int4_wide.py`)
"""

from __future__ import annotations

from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.matmul.blocks import tiled
from tinydiff_kernels.matmul.descriptor import GROUP_SCALES, INPUT, ROWS, STEPS, TAP_COUNT, TAPS, WEIGHTS
from tinydiff_kernels.matmul.epilogue import dequantised_value, finisher
from tinydiff_kernels.simd import (
    Vector,
    composed,
    dot,
    i8x64,
    i16x32,
    i32x16,
    i64,
    load,
    load_group,
    reinterpret,
    shift_left,
    shift_right,
    store,
    u8x16,
    u8x64,
    widen,
    zero,
)


@composed(lambda address: i8x64)
def low_weights(address: int) -> Vector:
    """The low halves of 64 bytes as signed numbers: shifted up within 16 bits, then down within 8."""
    words = load(i16x32, address, 0)
    return shift_right(reinterpret(i8x64, shift_left(words, 4)), 4)


@composed(lambda address: i8x64)
def high_weights(address: int) -> Vector:
    return shift_right(load(i8x64, address, 0), 4)


@composed(lambda sums, *_: sums)
def unsigned_dot(sums: Vector, address: int, offset: int, weights: Vector) -> Vector:
    return dot(sums, load_group(u8x64, address, offset), weights)


@composed(lambda address: i32x16)
def wide_scales(address: int) -> Vector:
    return widen(i32x16, load(u8x16, address, 0))


@composed(nothing)
def add_scaled(sums: Vector, scales: Vector, place: int) -> None:
    store(place, 0, load(i32x16, place, 0) + sums * scales)


@composed(nothing)
def multiply(desc: int, tile: int, panel: int, panels: int, scratch: int) -> None:
    """`[6, 16]` int32 in scratch."""
    base, rows = load(i64, desc, INPUT), load(i64, desc, ROWS) + 48 * tile
    a0, a1, a2 = base + load(i64, rows, 0), base + load(i64, rows, 8), base + load(i64, rows, 16)
    a3, a4, a5 = base + load(i64, rows, 24), base + load(i64, rows, 32), base + load(i64, rows, 40)
    taps, tap_count, steps = load(i64, desc, TAPS), load(i64, desc, TAP_COUNT), load(i64, desc, STEPS)
    b = load(i64, desc, WEIGHTS) + 32 * steps * tap_count * panel
    scale = load(i64, desc, GROUP_SCALES) + 2 * steps * tap_count * panel
    for row in range(6):
        store(scratch, 64 * row, zero(i32x16))
    for t in range(tap_count):
        start = load(i64, taps, 8 * t)
        for group in range(start, start + 4 * steps, 32):
            c0, c1, c2 = zero(i32x16), zero(i32x16), zero(i32x16)
            c3, c4, c5 = zero(i32x16), zero(i32x16), zero(i32x16)
            for at in range(group, group + 32, 8):
                w = low_weights(b)
                c0 = unsigned_dot(c0, a0, at, w)
                c1 = unsigned_dot(c1, a1, at, w)
                c2 = unsigned_dot(c2, a2, at, w)
                c3 = unsigned_dot(c3, a3, at, w)
                c4 = unsigned_dot(c4, a4, at, w)
                c5 = unsigned_dot(c5, a5, at, w)
                w = high_weights(b)
                c0 = unsigned_dot(c0, a0, at + 4, w)
                c1 = unsigned_dot(c1, a1, at + 4, w)
                c2 = unsigned_dot(c2, a2, at + 4, w)
                c3 = unsigned_dot(c3, a3, at + 4, w)
                c4 = unsigned_dot(c4, a4, at + 4, w)
                c5 = unsigned_dot(c5, a5, at + 4, w)
                b += 64
            s = wide_scales(scale)
            add_scaled(c0, s, scratch)
            add_scaled(c1, s, scratch + 64)
            add_scaled(c2, s, scratch + 128)
            add_scaled(c3, s, scratch + 192)
            add_scaled(c4, s, scratch + 256)
            add_scaled(c5, s, scratch + 320)
            scale += 16


_run = tiled(multiply, finisher(dequantised_value), 6, 1, 32)


def matmul_i4(desc: int, counter: int, cancel: int) -> None:
    """Unsigned activations, sums in 32 bits."""
    _run(desc, counter, cancel)
