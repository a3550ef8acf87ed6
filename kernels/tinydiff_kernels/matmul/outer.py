"""matmul_i8 on i8mm: pairs of rows times pairs of columns, eight channels at a time (smmla).

As `int8.py`, with the same packed weights: the four channels of two steps are brought together by zip1 and zip2, which
makes eight registers of two columns each. A row pair takes the 16 bytes (row, next row); twelve registers of sums are
2x2 blocks, taken apart when the tile is done. A step of eight channels is 24 smmla, 8 zip and 14 loads for 6 x 16.
"""

from __future__ import annotations

from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.matmul.descriptor import INPUT, ROWS, STEPS, TAP_COUNT, TAPS, WEIGHTS
from tinydiff_kernels.matmul.epilogue import dequantised_value, finisher, tiled
from tinydiff_kernels.simd import (
    Vector,
    combine,
    composed,
    i8x8,
    i8x64,
    i8x128,
    i32x16,
    i32x32,
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


@composed(lambda *_: i8x128)
def row_pair(first: int, second: int, offset: int) -> Vector:
    """Eight bytes of each of two rows, in every 16 bytes."""
    pair = combine(load(i8x8, first, offset), load(i8x8, second, offset))
    twice = combine(pair, pair)
    four = combine(twice, twice)
    return combine(four, four)


@composed(lambda address: i8x128)
def column_pairs(address: int) -> Vector:
    """Two steps of weights: in every 16 bytes eight channels of one column, then of the next."""
    even, odd = load(i32x16, address, 0), load(i32x16, address, 64)
    return combine(reinterpret(i8x64, zip_low(even, odd)), reinterpret(i8x64, zip_high(even, odd)))


@composed(nothing)
def store_rows(blocks: Vector, scratch: int, row: int) -> None:
    """2x2 blocks of 16 columns to two rows of scratch."""
    store(scratch, BLOCKS, blocks)
    for pair in range(8):
        store(scratch, 64 * row + 8 * pair, load(i64, scratch, BLOCKS + 16 * pair))
        store(scratch, 64 * row + 64 + 8 * pair, load(i64, scratch, BLOCKS + 16 * pair + 8))


@composed(nothing)
def multiply(desc: int, tile: int, panel: int, panels: int, scratch: int) -> None:
    """`[6, 16]` int32 in scratch."""
    base, rows = load(i64, desc, INPUT), load(i64, desc, ROWS) + 48 * tile
    a0, a1, a2 = base + load(i64, rows, 0), base + load(i64, rows, 8), base + load(i64, rows, 16)
    a3, a4, a5 = base + load(i64, rows, 24), base + load(i64, rows, 32), base + load(i64, rows, 40)
    taps, tap_count, steps = load(i64, desc, TAPS), load(i64, desc, TAP_COUNT), load(i64, desc, STEPS)
    b = load(i64, desc, WEIGHTS) + 64 * steps * tap_count * panel
    c0, c1, c2 = zero(i32x32), zero(i32x32), zero(i32x32)
    for t in range(tap_count):
        start = load(i64, taps, 8 * t)
        for at in range(start, start + 4 * steps, 8):
            w = column_pairs(b)
            c0 = outer_dot(c0, row_pair(a0, a1, at), w)
            c1 = outer_dot(c1, row_pair(a2, a3, at), w)
            c2 = outer_dot(c2, row_pair(a4, a5, at), w)
            b += 128
    store_rows(c0, scratch, 0)
    store_rows(c1, scratch, 2)
    store_rows(c2, scratch, 4)


_run = tiled(multiply, finisher(dequantised_value), 6, 1)


def matmul_i8_outer(desc: int, counter: int, cancel: int) -> None:
    """Signed activations, tile 6 x 16 in 2x2 blocks."""
    _run(desc, counter, cancel)
