"""The micro-kernel of attention in 8-bit integers: `tile.py` with groups of four bytes in place of floats.

Of four bytes of a row broadcast and a vector of four bytes a query, one side has no sign and stays below 128: of scores
the keys, of values the weights. vpdpbusd multiplies and adds 64 such pairs, vpmaddubsw, vpmaddwd and vpaddd 32, sdot,
which takes both with signs, 16. `descriptor_i8.py` has the bounds; tile and registers are those of `tile.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels._numba import types
from tinydiff_kernels.simd import (
    Vector,
    add_pairs,
    composed,
    dot_limited,
    load,
    load_group,
    pair_products,
    zero,
)

Function = Callable[..., Any]


def keys_unsigned(unsigned: Any, signed: Any) -> Function:
    """`multiply(sums, a, b)`: four channels of one key times those of the queries."""

    @composed(lambda sums, *_: sums)
    def multiply(sums: Vector, a: int, b: int) -> Vector:
        return dot_limited(sums, load_group(unsigned, a, 0), load(signed, b, 0))

    return multiply


def weights_unsigned(unsigned: Any, signed: Any) -> Function:
    """`multiply(sums, a, b)`: four keys' values in one channel times the queries' weights of them."""

    @composed(lambda sums, *_: sums)
    def multiply(sums: Vector, a: int, b: int) -> Vector:
        return dot_limited(sums, load(unsigned, b, 0), load_group(signed, a, 0))

    return multiply


def six_rows(kind: Any, size: int, multiply: Function) -> Function:
    """`rows(a, step, depth, b)`: sums over k of a[k, r] * b[k, :] for r = 0 to 5.

    a[k, r] are the four bytes at a + k * step + 4 * r; b is vectors of `size` bytes one after the other.
    """

    @composed(lambda *_: types.UniTuple(kind, 6))
    def rows(a: int, step: int, depth: int, b: int) -> tuple[Vector, ...]:
        c0, c1, c2 = zero(kind), zero(kind), zero(kind)
        c3, c4, c5 = zero(kind), zero(kind), zero(kind)
        for _ in range(depth):
            c0, c1, c2 = multiply(c0, a, b), multiply(c1, a + 4, b), multiply(c2, a + 8, b)
            c3, c4, c5 = multiply(c3, a + 12, b), multiply(c4, a + 16, b), multiply(c5, a + 20, b)
            a += step
            b += size
        return c0, c1, c2, c3, c4, c5

    return rows


def key_pairs(unsigned: Any, signed: Any, size: int) -> Function:
    """`multiply(sums, a, step, b)`: `keys_unsigned` of two groups, whose sums fit 16 bits."""

    @composed(lambda sums, *_: sums)
    def multiply(sums: Vector, a: int, step: int, b: int) -> Vector:
        first = pair_products(load_group(unsigned, a, 0), load(signed, b, 0))
        return add_pairs(sums, first + pair_products(load_group(unsigned, a, step), load(signed, b, size)))

    return multiply


def value_pairs(unsigned: Any, signed: Any, size: int) -> Function:
    """`multiply(sums, a, step, b)`: `weights_unsigned` of two groups."""

    @composed(lambda sums, *_: sums)
    def multiply(sums: Vector, a: int, step: int, b: int) -> Vector:
        first = pair_products(load(unsigned, b, 0), load_group(signed, a, 0))
        return add_pairs(sums, first + pair_products(load(unsigned, b, size), load_group(signed, a, step)))

    return multiply


def six_rows_of_pairs(kind: Any, size: int, pairs: Function, one: Function) -> Function:
    """`six_rows` two groups at a time, an odd last one by itself."""

    @composed(lambda *_: types.UniTuple(kind, 6))
    def rows(a: int, step: int, depth: int, b: int) -> tuple[Vector, ...]:
        c0, c1, c2 = zero(kind), zero(kind), zero(kind)
        c3, c4, c5 = zero(kind), zero(kind), zero(kind)
        for _ in range(depth // 2):
            c0, c1, c2 = pairs(c0, a, step, b), pairs(c1, a + 4, step, b), pairs(c2, a + 8, step, b)
            c3, c4, c5 = pairs(c3, a + 12, step, b), pairs(c4, a + 16, step, b), pairs(c5, a + 20, step, b)
            a += 2 * step
            b += 2 * size
        if depth % 2 == 1:
            c0, c1, c2 = one(c0, a, b), one(c1, a + 4, b), one(c2, a + 8, b)
            c3, c4, c5 = one(c3, a + 12, b), one(c4, a + 16, b), one(c5, a + 20, b)
        return c0, c1, c2, c3, c4, c5

    return rows
