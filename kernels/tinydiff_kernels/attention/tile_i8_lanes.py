"""`tile_i8.py` on ARM with dot products: sdot takes one lane of a register, so that 24 bytes of rows are two loads.

Both sides have signs; tile 6 x 16: a step is 24 sdot and four loads, of 24 registers of sums, two of rows, four of
queries. None is joined into an ldp: by LLVM's models that takes 35 cycles on A55 (42 joined), 12 on A76 (13).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels._numba import types
from tinydiff_kernels.simd import (
    Vector,
    combine,
    composed,
    dot,
    i8x32,
    i8x64,
    i32x4,
    i32x16,
    load_in_order,
    reinterpret,
    splat_lane,
    zero,
)

Function = Callable[..., Any]


def lane_of_rows(lane: int) -> Function:
    """`multiply(sums, rows, b)` by one of the four rows in a register."""

    @composed(lambda sums, *_: sums)
    def multiply(sums: Vector, rows: Vector, b: Vector) -> Vector:
        group = splat_lane(rows, lane)
        half = reinterpret(i8x32, combine(group, group))
        return dot(sums, b, combine(half, half))

    return multiply


_first, _second, _third, _fourth = (lane_of_rows(lane) for lane in range(4))


@composed(lambda *_: types.UniTuple(i32x16, 6))
def six_rows(a: int, step: int, depth: int, b: int) -> tuple[Vector, ...]:
    """As in `tile_i8.py`. The second load of rows begins with the third."""
    c0, c1, c2 = zero(i32x16), zero(i32x16), zero(i32x16)
    c3, c4, c5 = zero(i32x16), zero(i32x16), zero(i32x16)
    for _ in range(depth):
        low, high = load_in_order(i32x4, a, 0), load_in_order(i32x4, a, 8)
        lanes = load_in_order(i8x64, b, 0)
        c0, c1, c2 = _first(c0, low, lanes), _second(c1, low, lanes), _third(c2, low, lanes)
        c3, c4, c5 = _fourth(c3, low, lanes), _third(c4, high, lanes), _fourth(c5, high, lanes)
        a += step
        b += 64
    return c0, c1, c2, c3, c4, c5
