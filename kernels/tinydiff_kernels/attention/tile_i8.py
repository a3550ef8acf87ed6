"""The micro-kernel of attention in 8-bit integers: `tile.py` with groups of four bytes in place of floats.

Of four bytes of a row broadcast and a vector of four bytes a query, one side has no sign and stays below 128: of scores
the keys, of values the weights. vpdpbusd multiplies and adds 64 such pairs, vpmaddubsw, vpmaddwd and vpaddd 32, sdot,
which takes both with signs, 16. `descriptor_i8.py` has the bounds; tile and registers are those of `tile.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels._numba import types
from tinydiff_kernels.simd import Vector, add_pairs, composed, dot, dot_limited, load, load_group, pair_products, zero

Function = Callable[..., Any]


def keys_unsigned(unsigned: Any, signed: Any) -> Function:
    """`multiply(sums, a, at, b)`: four channels of one key times those of the queries."""

    @composed(lambda sums, *_: sums)
    def multiply(sums: Vector, a: int, at: int, b: int) -> Vector:
        return dot_limited(sums, load_group(unsigned, a, at), load(signed, b, 0))

    return multiply


def weights_unsigned(unsigned: Any, signed: Any) -> Function:
    """`multiply(sums, a, at, b)`: four keys' values in one channel times the queries' weights of them."""

    @composed(lambda sums, *_: sums)
    def multiply(sums: Vector, a: int, at: int, b: int) -> Vector:
        return dot_limited(sums, load(unsigned, b, 0), load_group(signed, a, at))

    return multiply


def all_signed(signed: Any) -> Function:
    """`multiply(sums, a, at, b)`: either, on ARM."""

    @composed(lambda sums, *_: sums)
    def multiply(sums: Vector, a: int, at: int, b: int) -> Vector:
        return dot(sums, load_group(signed, a, at), load(signed, b, 0))

    return multiply


def key_pairs(unsigned: Any, signed: Any, size: int) -> Function:
    """`multiply(sums, a, at, step, b)`: `keys_unsigned` of two groups, whose sums fit 16 bits."""

    @composed(lambda sums, *_: sums)
    def multiply(sums: Vector, a: int, at: int, step: int, b: int) -> Vector:
        first = pair_products(load_group(unsigned, a, at), load(signed, b, 0))
        return add_pairs(sums, first + pair_products(load_group(unsigned, a, at + step), load(signed, b, size)))

    return multiply


def value_pairs(unsigned: Any, signed: Any, size: int) -> Function:
    """`multiply(sums, a, at, step, b)`: `weights_unsigned` of two groups."""

    @composed(lambda sums, *_: sums)
    def multiply(sums: Vector, a: int, at: int, step: int, b: int) -> Vector:
        first = pair_products(load(unsigned, b, 0), load_group(signed, a, at))
        return add_pairs(sums, first + pair_products(load(unsigned, b, size), load_group(signed, a, at + step)))

    return multiply


def six_rows_of_pairs(kind: Any, size: int, pairs: Function, multiply: Function) -> Function:
    """`six_rows` two groups at a time, an odd last one by itself."""

    @composed(lambda *_: types.UniTuple(kind, 6))
    def rows(a: int, row: int, last: int, step: int, depth: int, b: int) -> tuple[Vector, ...]:
        a0, a1, a2 = a, a + row * min(1, last), a + row * min(2, last)
        a3, a4, a5 = a + row * min(3, last), a + row * min(4, last), a + row * min(5, last)
        c0, c1, c2 = zero(kind), zero(kind), zero(kind)
        c3, c4, c5 = zero(kind), zero(kind), zero(kind)
        at = 0
        for _ in range(depth // 2):
            c0 = pairs(c0, a0, at, step, b)
            c1 = pairs(c1, a1, at, step, b)
            c2 = pairs(c2, a2, at, step, b)
            c3 = pairs(c3, a3, at, step, b)
            c4 = pairs(c4, a4, at, step, b)
            c5 = pairs(c5, a5, at, step, b)
            at += 2 * step
            b += 2 * size
        if depth % 2 == 1:
            c0 = multiply(c0, a0, at, b)
            c1 = multiply(c1, a1, at, b)
            c2 = multiply(c2, a2, at, b)
            c3 = multiply(c3, a3, at, b)
            c4 = multiply(c4, a4, at, b)
            c5 = multiply(c5, a5, at, b)
        return c0, c1, c2, c3, c4, c5

    return rows


def six_rows(kind: Any, size: int, multiply: Function) -> Function:
    """`rows(a, row, last, step, depth, b)`: sums over k of a[r, k] * b[k, :] for r = 0 to 5.

    a[r, k] are the four bytes at a + r * row + k * step; b is vectors of `size` bytes one after the other. Rows after
    `last` are the last one again, so that nothing beyond it is read.
    """

    @composed(lambda *_: types.UniTuple(kind, 6))
    def rows(a: int, row: int, last: int, step: int, depth: int, b: int) -> tuple[Vector, ...]:
        a0, a1, a2 = a, a + row * min(1, last), a + row * min(2, last)
        a3, a4, a5 = a + row * min(3, last), a + row * min(4, last), a + row * min(5, last)
        c0, c1, c2 = zero(kind), zero(kind), zero(kind)
        c3, c4, c5 = zero(kind), zero(kind), zero(kind)
        at = 0
        for _ in range(depth):
            c0 = multiply(c0, a0, at, b)
            c1 = multiply(c1, a1, at, b)
            c2 = multiply(c2, a2, at, b)
            c3 = multiply(c3, a3, at, b)
            c4 = multiply(c4, a4, at, b)
            c5 = multiply(c5, a5, at, b)
            at += step
            b += size
        return c0, c1, c2, c3, c4, c5

    return rows
