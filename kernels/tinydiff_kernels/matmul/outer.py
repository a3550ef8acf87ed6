"""matmul_i8 on i8mm: pairs of rows times pairs of columns, eight channels at a time (smmla).

As `int8.py`, with the same packed weights: the four channels of two steps are brought together by zip1 and zip2 into
registers of two columns each. A row pair takes the 16 bytes (row, next row). Sums are 2x2 blocks, taken apart when the
tile is done. The tile is two halves of 8 x 8, four columns at a time: eight channels are 16 smmla, 4 zip and 12 loads,
and nothing is spilled. A tile of 6 x 16 needs fewer zips, but 24 registers for sums.
"""

from __future__ import annotations

from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.matmul.blocks import tiled
from tinydiff_kernels.matmul.descriptor import INPUT, ROWS, STEPS, TAP_COUNT, TAPS, WEIGHTS
from tinydiff_kernels.matmul.epilogue import dequantised_value, finisher
from tinydiff_kernels.simd import (
    Vector,
    combine,
    composed,
    i8x8,
    i8x32,
    i32x4,
    i32x8,
    i64,
    load,
    outer_dot,
    reinterpret,
    store,
    zero,
    zip_high,
    zip_low,
)

BLOCKS = 512  # bytes into scratch: sums as 2x2 blocks, before they become rows


@composed(lambda first, second: i8x32)
def both_rows(first: Vector, second: Vector) -> Vector:
    """Eight bytes of each of two rows, in every 16 bytes."""
    pair = combine(first, second)
    return combine(pair, pair)


@composed(lambda *_: i8x32)
def four_columns(address: int, offset: int) -> Vector:
    """Two steps of weights: in the first 16 bytes eight channels of two columns, in the next those of two more."""
    even, odd = load(i32x4, address, offset), load(i32x4, address, offset + 64)
    return reinterpret(i8x32, combine(zip_low(even, odd), zip_high(even, odd)))


@composed(nothing)
def store_rows(first: Vector, second: Vector, scratch: int, place: int) -> None:
    """2x2 blocks of eight columns to two rows of scratch; `place` is where the first begins."""
    store(scratch, BLOCKS, combine(first, second))
    for pair in range(4):
        store(scratch, place + 8 * pair, load(i64, scratch, BLOCKS + 16 * pair))
        store(scratch, place + 64 + 8 * pair, load(i64, scratch, BLOCKS + 16 * pair + 8))


@composed(nothing)
def multiply(desc: int, tile: int, panel: int, panels: int, scratch: int) -> None:
    """`[8, 16]` int32 in scratch. Sums are named by row pair and by four columns."""
    base, rows = load(i64, desc, INPUT), load(i64, desc, ROWS) + 64 * tile
    a0, a1, a2 = base + load(i64, rows, 0), base + load(i64, rows, 8), base + load(i64, rows, 16)
    a3, a4, a5 = base + load(i64, rows, 24), base + load(i64, rows, 32), base + load(i64, rows, 40)
    a6, a7 = base + load(i64, rows, 48), base + load(i64, rows, 56)
    taps, tap_count, steps = load(i64, desc, TAPS), load(i64, desc, TAP_COUNT), load(i64, desc, STEPS)
    for half in range(0, 64, 32):
        b = load(i64, desc, WEIGHTS) + 64 * steps * tap_count * panel + half
        c00, c10, c20, c30 = zero(i32x8), zero(i32x8), zero(i32x8), zero(i32x8)
        c01, c11, c21, c31 = zero(i32x8), zero(i32x8), zero(i32x8), zero(i32x8)
        for t in range(tap_count):
            start = load(i64, taps, 8 * t)
            for at in range(start, start + 4 * steps, 8):
                p0 = both_rows(load(i8x8, a0, at), load(i8x8, a1, at))
                p1 = both_rows(load(i8x8, a2, at), load(i8x8, a3, at))
                p2 = both_rows(load(i8x8, a4, at), load(i8x8, a5, at))
                p3 = both_rows(load(i8x8, a6, at), load(i8x8, a7, at))
                w = four_columns(b, 0)
                c00, c10, c20, c30 = (
                    outer_dot(c00, p0, w),
                    outer_dot(c10, p1, w),
                    outer_dot(c20, p2, w),
                    outer_dot(c30, p3, w),
                )
                w = four_columns(b, 16)
                c01, c11, c21, c31 = (
                    outer_dot(c01, p0, w),
                    outer_dot(c11, p1, w),
                    outer_dot(c21, p2, w),
                    outer_dot(c31, p3, w),
                )
                b += 128
        store_rows(c00, c01, scratch, half)
        store_rows(c10, c11, scratch, half + 128)
        store_rows(c20, c21, scratch, half + 256)
        store_rows(c30, c31, scratch, half + 384)


_run = tiled(multiply, finisher(dequantised_value), 8, 1)


def matmul_i8_outer(desc: int, counter: int, cancel: int) -> None:
    """Signed activations, tile 8 x 16 in 2x2 blocks."""
    _run(desc, counter, cancel)
