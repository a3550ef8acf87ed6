"""matmul_i8 on i8mm: pairs of rows times pairs of columns, eight channels at a time (smmla).

As `int8.py`, with the same packed weights: the four channels of two steps are brought together by zip1 and zip2, which
makes registers of two columns each. A row pair takes the 16 bytes (row, next row). The sums are twenty-four registers
of 2x2 blocks, taken apart when the tile is done; four columns at a time leave registers for three row pairs and two of
weights. A step of eight channels is 24 smmla, 8 zip and 14 loads for 6 x 16.
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


@composed(lambda *_: i8x32)
def row_pair(first: int, second: int, offset: int) -> Vector:
    """Eight bytes of each of two rows, in every 16 bytes."""
    pair = combine(load(i8x8, first, offset), load(i8x8, second, offset))
    return combine(pair, pair)


@composed(lambda *_: i8x32)
def four_columns(address: int, offset: int) -> Vector:
    """Two steps of weights: in the first 16 bytes eight channels of two columns, in the next those of two more."""
    even, odd = load(i32x4, address, offset), load(i32x4, address, offset + 64)
    return reinterpret(i8x32, combine(zip_low(even, odd), zip_high(even, odd)))


@composed(nothing)
def store_rows(blocks: Vector, scratch: int, place: int) -> None:
    """2x2 blocks of four columns, as they are: first row, second row, and again."""
    store(scratch, BLOCKS, blocks)
    store(scratch, place, load(i64, scratch, BLOCKS))
    store(scratch, place + 64, load(i64, scratch, BLOCKS + 8))
    store(scratch, place + 8, load(i64, scratch, BLOCKS + 16))
    store(scratch, place + 72, load(i64, scratch, BLOCKS + 24))


@composed(nothing)
def store_pair(first: Vector, second: Vector, third: Vector, fourth: Vector, scratch: int, place: int) -> None:
    """The sixteen columns of a row pair."""
    store_rows(first, scratch, place)
    store_rows(second, scratch, place + 16)
    store_rows(third, scratch, place + 32)
    store_rows(fourth, scratch, place + 48)


@composed(nothing)
def multiply(desc: int, tile: int, panel: int, panels: int, scratch: int) -> None:
    """`[6, 16]` int32 in scratch. Sums are named by row pair and by four columns."""
    base, rows = load(i64, desc, INPUT), load(i64, desc, ROWS) + 48 * tile
    a0, a1, a2 = base + load(i64, rows, 0), base + load(i64, rows, 8), base + load(i64, rows, 16)
    a3, a4, a5 = base + load(i64, rows, 24), base + load(i64, rows, 32), base + load(i64, rows, 40)
    taps, tap_count, steps = load(i64, desc, TAPS), load(i64, desc, TAP_COUNT), load(i64, desc, STEPS)
    b = load(i64, desc, WEIGHTS) + 64 * steps * tap_count * panel
    c00, c01, c02, c03 = zero(i32x8), zero(i32x8), zero(i32x8), zero(i32x8)
    c10, c11, c12, c13 = zero(i32x8), zero(i32x8), zero(i32x8), zero(i32x8)
    c20, c21, c22, c23 = zero(i32x8), zero(i32x8), zero(i32x8), zero(i32x8)
    for t in range(tap_count):
        start = load(i64, taps, 8 * t)
        for at in range(start, start + 4 * steps, 8):
            p0, p1, p2 = row_pair(a0, a1, at), row_pair(a2, a3, at), row_pair(a4, a5, at)
            w = four_columns(b, 0)
            c00, c10, c20 = outer_dot(c00, p0, w), outer_dot(c10, p1, w), outer_dot(c20, p2, w)
            w = four_columns(b, 16)
            c01, c11, c21 = outer_dot(c01, p0, w), outer_dot(c11, p1, w), outer_dot(c21, p2, w)
            w = four_columns(b, 32)
            c02, c12, c22 = outer_dot(c02, p0, w), outer_dot(c12, p1, w), outer_dot(c22, p2, w)
            w = four_columns(b, 48)
            c03, c13, c23 = outer_dot(c03, p0, w), outer_dot(c13, p1, w), outer_dot(c23, p2, w)
            b += 128
    store_pair(c00, c01, c02, c03, scratch, 0)
    store_pair(c10, c11, c12, c13, scratch, 128)
    store_pair(c20, c21, c22, c23, scratch, 256)


_run = tiled(multiply, finisher(dequantised_value), 6, 1)


def matmul_i8_outer(desc: int, counter: int, cancel: int) -> None:
    """Signed activations, tile 6 x 16 in 2x2 blocks."""
    _run(desc, counter, cancel)
