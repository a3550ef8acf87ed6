"""`tile_i8.py` on 64-bit ARM without dot products (Cortex-A53, A72): products and sums of four in 16 bits.

smull and three smlal put the products of four groups one above the other, 4 * 127 * 63 at most; sadalp adds neighbours
into two 32-bit sums for each query, which become one at the end. The tile is 3 rows x 8 queries: twelve registers of
sums, eight of queries' bytes, two of products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels._numba import types
from tinydiff_kernels.simd import (
    Vector,
    add_pairs,
    combine,
    composed,
    even_lanes,
    high_half,
    load,
    load_group,
    low_half,
    mul_high,
    mul_low,
    odd_lanes,
    vector,
    zero,
)

Function = Callable[..., Any]


def six_rows(lanes: int) -> Function:
    """`rows(a, step, depth, b)` as in `tile_i8.py`, in two halves."""
    size, signed, kind, pairs = 4 * lanes, vector("i8", 4 * lanes), vector("i32", lanes), vector("i32", 2 * lanes)

    @composed(lambda sums, *_: sums)
    def four(sums: Vector, a: int, step: int, b: int) -> Vector:
        x0, x1 = load_group(signed, a, 0), load_group(signed, a, step)
        x2, x3 = load_group(signed, a, 2 * step), load_group(signed, a, 3 * step)
        y0, y1, y2, y3 = load(signed, b, 0), load(signed, b, size), load(signed, b, 2 * size), load(signed, b, 3 * size)
        low = mul_low(x0, y0) + mul_low(x1, y1) + mul_low(x2, y2) + mul_low(x3, y3)
        high = mul_high(x0, y0) + mul_high(x1, y1) + mul_high(x2, y2) + mul_high(x3, y3)
        return combine(add_pairs(low_half(sums), low), add_pairs(high_half(sums), high))

    @composed(lambda sums, *_: sums)
    def one(sums: Vector, a: int, b: int) -> Vector:
        x, y = load_group(signed, a, 0), load(signed, b, 0)
        return combine(add_pairs(low_half(sums), mul_low(x, y)), add_pairs(high_half(sums), mul_high(x, y)))

    @composed(lambda sums: kind)
    def joined(sums: Vector) -> Vector:
        first, second = low_half(sums), high_half(sums)
        return even_lanes(first, second) + odd_lanes(first, second)

    @composed(lambda *_: types.UniTuple(kind, 3))
    def three(a: int, step: int, depth: int, b: int) -> tuple[Vector, ...]:
        c0, c1, c2 = zero(pairs), zero(pairs), zero(pairs)
        for _ in range(depth // 4):
            c0, c1, c2 = four(c0, a, step, b), four(c1, a + 4, step, b), four(c2, a + 8, step, b)
            a += 4 * step
            b += 4 * size
        for _ in range(depth % 4):
            c0, c1, c2 = one(c0, a, b), one(c1, a + 4, b), one(c2, a + 8, b)
            a += step
            b += size
        return joined(c0), joined(c1), joined(c2)

    @composed(lambda *_: types.UniTuple(kind, 6))
    def rows(a: int, step: int, depth: int, b: int) -> tuple[Vector, ...]:
        c0, c1, c2 = three(a, step, depth, b)
        c3, c4, c5 = three(a + 12, step, depth, b)
        return c0, c1, c2, c3, c4, c5

    return rows
