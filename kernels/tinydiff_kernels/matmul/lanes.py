"""The micro-kernel on NEON, whose products take one lane of a register: 16 bytes of a row serve four steps.

A tile is `[8, 16]` in two halves of 8 x 8. Of the 32 registers 16 hold sums, eight the rows, and the others weights on
their way. A tile of 4 x 16 needs as many for its sums, but loads a quarter more, and whatever takes a weight apart or
widens it (int4, halves) serves four rows instead of eight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinydiff_kernels._numba import types
from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.matmul.descriptor import STEPS, TAP_COUNT, TAPS, WEIGHTS
from tinydiff_kernels.matmul.tiles import eight_addresses, eight_products
from tinydiff_kernels.simd import Vector, composed, i64, load, store, zero

Function = Callable[..., Any]


@composed(lambda *_: types.UniTuple(types.int64, 8))
def moved(rows: Any, distance: int) -> Any:
    """Addresses in a tap. From these one index serves all rows; otherwise LLVM moves eight addresses a step."""
    a0, a1, a2, a3, a4, a5, a6, a7 = rows
    return (
        a0 + distance,
        a1 + distance,
        a2 + distance,
        a3 + distance,
        a4 + distance,
        a5 + distance,
        a6 + distance,
        a7 + distance,
    )


def eight_zeros(kind: Any) -> Function:
    @composed(lambda *_: types.UniTuple(kind, 8))
    def zeros() -> Any:
        return zero(kind), zero(kind), zero(kind), zero(kind), zero(kind), zero(kind), zero(kind), zero(kind)

    return zeros


def eight_loads(kind: Any) -> Function:
    """`loads(rows, at)`: a vector of each of eight rows."""

    @composed(lambda *_: types.UniTuple(kind, 8))
    def loads(rows: Any, at: int) -> Any:
        a0, a1, a2, a3, a4, a5, a6, a7 = rows
        return (
            load(kind, a0, at),
            load(kind, a1, at),
            load(kind, a2, at),
            load(kind, a3, at),
            load(kind, a4, at),
            load(kind, a5, at),
            load(kind, a6, at),
            load(kind, a7, at),
        )

    return loads


def eight_rows_by_lane(kind: Any, accumulate: Function) -> Function:
    """`step(rows, sums, weights)`: `accumulate(sums, row, weights)` for eight rows that are in registers."""

    @composed(lambda *_: types.UniTuple(kind, 8))
    def step(rows: Any, sums: Any, w: Vector) -> Any:
        r0, r1, r2, r3, r4, r5, r6, r7 = rows
        c0, c1, c2, c3, c4, c5, c6, c7 = sums
        return (
            accumulate(c0, r0, w),
            accumulate(c1, r1, w),
            accumulate(c2, r2, w),
            accumulate(c3, r3, w),
            accumulate(c4, r4, w),
            accumulate(c5, r5, w),
            accumulate(c6, r6, w),
            accumulate(c7, r7, w),
        )

    return step


def quads_by_lane(kind: Any, quad: Any, four: Sequence[Function], weights_of: Function, size: int) -> Function:
    """`multiply(rows, whole, sums, b)`: four steps, 16 bytes of each row, at a time; the sums and where weights go on.

    `four[i](sums, row, weights)` multiplies by lane i of the row; `size` is that of half a step. Weights are loaded a
    step ahead.
    """
    quads = eight_loads(quad)
    first, second, third, fourth = (eight_rows_by_lane(kind, lane) for lane in four)

    @composed(lambda *_: types.Tuple((types.UniTuple(kind, 8), types.int64)))
    def multiply(rows: Any, whole: int, sums: Any, b: int) -> Any:
        for at in range(0, whole, 16):
            r, w0, w1 = quads(rows, at), weights_of(b), weights_of(b + 2 * size)
            sums, w2 = first(r, sums, w0), weights_of(b + 4 * size)
            sums, w3 = second(r, sums, w1), weights_of(b + 6 * size)
            sums = fourth(r, third(r, sums, w2), w3)
            b += 8 * size
        return sums, b

    return multiply


def by_lane(kind: Any, quads: Function, one: Function, weights_of: Function, size: int) -> Function:
    """`multiply(desc, tile, panel, panels, scratch)` as in `tiles.py`: `quads` (quads_by_lane or quads_ahead) as far as
    they go, then single steps by `one`, an `accumulate`. `size` is that of half a step."""
    zeros, single = eight_zeros(kind), eight_products(kind, one)

    @composed(nothing)
    def multiply(desc: int, tile: int, panel: int, panels: int, scratch: int) -> None:
        rows = eight_addresses(desc, tile)
        taps, tap_count, steps = load(i64, desc, TAPS), load(i64, desc, TAP_COUNT), load(i64, desc, STEPS)
        whole = 16 * (steps // 4)
        for half in range(2):
            b = load(i64, desc, WEIGHTS) + 2 * size * steps * tap_count * panel + size * half
            sums = zeros()
            for t in range(tap_count):
                inputs = moved(rows, load(i64, taps, 8 * t))
                sums, b = quads(inputs, whole, sums, b)
                for at in range(whole, 4 * steps, 4):
                    sums = single(inputs, sums, at, weights_of(b))
                    b += 2 * size
            c0, c1, c2, c3, c4, c5, c6, c7 = sums
            place = scratch + 32 * half
            store(place, 0, c0)
            store(place, 64, c1)
            store(place, 128, c2)
            store(place, 192, c3)
            store(place, 256, c4)
            store(place, 320, c5)
            store(place, 384, c6)
            store(place, 448, c7)

    return multiply
