"""matmul_i4 on 64-bit ARM without dot products (Cortex-A53, A72): a group's products are summed in 16 bits.

As `int4.py`, with the same packed weights. A weight is at most 8, so eight products of smlal fit 16 bits: those of the
32 channels of a group, in four lanes for each column. saddlp and an addition of neighbours make them one sum, which is
scaled and added to the tile in scratch. The tile is two halves of 4 x 8.
"""

from __future__ import annotations

from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.matmul.blocks import tiled
from tinydiff_kernels.matmul.descriptor import GROUP_SCALES, INPUT, ROWS, STEPS, TAP_COUNT, TAPS, WEIGHTS
from tinydiff_kernels.matmul.epilogue import dequantised_value, finisher
from tinydiff_kernels.simd import (
    Vector,
    add_pairs,
    combine,
    composed,
    even_lanes,
    high_half,
    i8x32,
    i16x16,
    i16x32,
    i32x8,
    i32x16,
    i64,
    load,
    load_group,
    low_half,
    mul_high,
    mul_low,
    odd_lanes,
    reinterpret,
    shift_left,
    shift_right,
    store,
    u8x8,
    widen,
    zero,
)


@composed(lambda sums, *_: sums)
def eight_channels(sums: Vector, address: int, offset: int, low: Vector, high: Vector) -> Vector:
    """One row times eight columns: four sums for each column."""
    x, y = load_group(i8x32, address, offset), load_group(i8x32, address, offset + 4)
    first = low_half(sums) + mul_low(x, low) + mul_low(y, high)
    second = high_half(sums) + mul_high(x, low) + mul_high(y, high)
    return combine(first, second)


@composed(nothing)
def add_scaled(sums: Vector, scales: Vector, place: int) -> None:
    first, second = add_pairs(zero(i32x8), low_half(sums)), add_pairs(zero(i32x8), high_half(sums))
    total = even_lanes(first, second) + odd_lanes(first, second)
    store(place, 0, load(i32x8, place, 0) + total * scales)


@composed(nothing)
def multiply(desc: int, tile: int, panel: int, panels: int, scratch: int) -> None:
    """`[4, 16]` int32 in scratch."""
    base, rows = load(i64, desc, INPUT), load(i64, desc, ROWS) + 32 * tile
    a0, a1 = base + load(i64, rows, 0), base + load(i64, rows, 8)
    a2, a3 = base + load(i64, rows, 16), base + load(i64, rows, 24)
    taps, tap_count, steps = load(i64, desc, TAPS), load(i64, desc, TAP_COUNT), load(i64, desc, STEPS)
    for row in range(4):
        store(scratch, 64 * row, zero(i32x16))
    for half in range(0, 64, 32):
        b = load(i64, desc, WEIGHTS) + 32 * steps * tap_count * panel + half
        scale = load(i64, desc, GROUP_SCALES) + 2 * steps * tap_count * panel + half // 4
        for t in range(tap_count):
            start = load(i64, taps, 8 * t)
            for group in range(start, start + 4 * steps, 32):
                c0, c1, c2, c3 = zero(i16x32), zero(i16x32), zero(i16x32), zero(i16x32)
                for at in range(group, group + 32, 8):
                    words = load(i16x16, b, 0)
                    low = shift_right(reinterpret(i8x32, shift_left(words, 4)), 4)
                    high = shift_right(reinterpret(i8x32, words), 4)
                    c0 = eight_channels(c0, a0, at, low, high)
                    c1 = eight_channels(c1, a1, at, low, high)
                    c2 = eight_channels(c2, a2, at, low, high)
                    c3 = eight_channels(c3, a3, at, low, high)
                    b += 64
                scales = widen(i32x8, load(u8x8, scale, 0))
                add_scaled(c0, scales, scratch + half)
                add_scaled(c1, scales, scratch + half + 64)
                add_scaled(c2, scales, scratch + half + 128)
                add_scaled(c3, scales, scratch + half + 192)
                scale += 16


_run = tiled(multiply, finisher(dequantised_value), 4, 1, 32)


def matmul_i4_pairs(desc: int, counter: int, cancel: int) -> None:
    """Signed activations, tile 4 x 16."""
    _run(desc, counter, cancel)
