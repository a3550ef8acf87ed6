"""matmul_i8 on 64-bit ARM without dot products (Cortex-A53, A72): products in 16 bits, added in pairs.

As `int8.py`, with the same packed weights. smull and smlal multiply a step of four channels and the next one into one
register of 16-bit sums, which is exact: 2 * 128 * 127 fits, and packed weights are never -128. sadalp adds neighbours
into 32-bit sums, two for each column, which become one when the tile is done. The tile is two halves of 4 x 8: eight
channels are 32 smull and smlal, 16 sadalp and 12 loads.
"""

from __future__ import annotations

from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.matmul.blocks import tiled
from tinydiff_kernels.matmul.descriptor import INPUT, ROWS, STEPS, TAP_COUNT, TAPS, WEIGHTS
from tinydiff_kernels.matmul.epilogue import dequantised_value, finisher
from tinydiff_kernels.simd import (
    Vector,
    add_pairs,
    combine,
    composed,
    even_lanes,
    high_half,
    i8x32,
    i32x16,
    i64,
    load,
    load_group,
    low_half,
    mul_high,
    mul_low,
    odd_lanes,
    store,
    zero,
)


@composed(lambda sums, *_: sums)
def two_steps(sums: Vector, address: int, offset: int, now: Vector, after: Vector) -> Vector:
    """Eight channels of one row times eight columns; sums are those of channels 0, 1 and of 2, 3, of each column."""
    x, y = load_group(i8x32, address, offset), load_group(i8x32, address, offset + 4)
    first = add_pairs(low_half(sums), mul_low(x, now) + mul_low(y, after))
    second = add_pairs(high_half(sums), mul_high(x, now) + mul_high(y, after))
    return combine(first, second)


@composed(nothing)
def store_columns(sums: Vector, place: int) -> None:
    first, second = low_half(sums), high_half(sums)
    store(place, 0, even_lanes(first, second) + odd_lanes(first, second))


@composed(nothing)
def multiply(desc: int, tile: int, panel: int, panels: int, scratch: int) -> None:
    """`[4, 16]` int32 in scratch."""
    base, rows = load(i64, desc, INPUT), load(i64, desc, ROWS) + 32 * tile
    a0, a1 = base + load(i64, rows, 0), base + load(i64, rows, 8)
    a2, a3 = base + load(i64, rows, 16), base + load(i64, rows, 24)
    taps, tap_count, steps = load(i64, desc, TAPS), load(i64, desc, TAP_COUNT), load(i64, desc, STEPS)
    for half in range(0, 64, 32):
        b = load(i64, desc, WEIGHTS) + 64 * steps * tap_count * panel + half
        c0, c1, c2, c3 = zero(i32x16), zero(i32x16), zero(i32x16), zero(i32x16)
        for t in range(tap_count):
            start = load(i64, taps, 8 * t)
            for at in range(start, start + 4 * steps, 8):
                now, after = load(i8x32, b, 0), load(i8x32, b, 64)
                c0 = two_steps(c0, a0, at, now, after)
                c1 = two_steps(c1, a1, at, now, after)
                c2 = two_steps(c2, a2, at, now, after)
                c3 = two_steps(c3, a3, at, now, after)
                b += 128
        store_columns(c0, scratch + half)
        store_columns(c1, scratch + half + 64)
        store_columns(c2, scratch + half + 128)
        store_columns(c3, scratch + half + 192)


# beside a second epilogue LLVM copies registers in the inner loop: 91 instructions in place of 77
_run = tiled(multiply, finisher(dequantised_value, plain=False), 4, 1)


def matmul_i8_pairs(desc: int, counter: int, cancel: int) -> None:
    """Signed activations, tile 4 x 16."""
    _run(desc, counter, cancel)
