"""The inner loop of `lanes.py` on cores that execute in order: whatever it reads was asked for long before.

Weights are loaded a step ahead, and each row's next 16 bytes right after the last product with those before: 16 sums,
eight rows and two steps of weights are 28 of the 32 registers. The loads stay where they are written, each by itself
(`load_in_order`): an ldp of 32 bytes holds up the products behind it. The last 16 bytes of a row are apart, so that
nothing behind them is read. By LLVM's models 64 sdot take 77 cycles on A55 (95 without all this), 32 on A76 (35), 36 on
Neoverse N1 (35).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinydiff_kernels._numba import types
from tinydiff_kernels.matmul.lanes import eight_loads, eight_rows_by_lane
from tinydiff_kernels.simd import Vector, composed, load_in_order

Function = Callable[..., Any]


def products_then_loads(kind: Any, quad: Any, accumulate: Function) -> Function:
    """`step(addresses, rows, sums, weights, at)`: as `eight_rows_by_lane`, each row followed by its next load."""

    @composed(lambda *_: types.Tuple((types.UniTuple(kind, 8), types.UniTuple(quad, 8))))
    def step(addresses: Any, rows: Any, sums: Any, w: Vector, at: int) -> Any:
        a0, a1, a2, a3, a4, a5, a6, a7 = addresses
        r0, r1, r2, r3, r4, r5, r6, r7 = rows
        c0, c1, c2, c3, c4, c5, c6, c7 = sums
        c0, r0 = accumulate(c0, r0, w), load_in_order(quad, a0, at)
        c1, r1 = accumulate(c1, r1, w), load_in_order(quad, a1, at)
        c2, r2 = accumulate(c2, r2, w), load_in_order(quad, a2, at)
        c3, r3 = accumulate(c3, r3, w), load_in_order(quad, a3, at)
        c4, r4 = accumulate(c4, r4, w), load_in_order(quad, a4, at)
        c5, r5 = accumulate(c5, r5, w), load_in_order(quad, a5, at)
        c6, r6 = accumulate(c6, r6, w), load_in_order(quad, a6, at)
        c7, r7 = accumulate(c7, r7, w), load_in_order(quad, a7, at)
        return (c0, c1, c2, c3, c4, c5, c6, c7), (r0, r1, r2, r3, r4, r5, r6, r7)

    return step


def quads_ahead(kind: Any, quad: Any, four: Sequence[Function], weights_of: Function, size: int) -> Function:
    """`multiply(rows, whole, sums, b)`, as `lanes.quads_by_lane`. `weights_of` loads in order too."""
    quads = eight_loads(quad)
    first, second, third, fourth = (eight_rows_by_lane(kind, lane) for lane in four)
    last = products_then_loads(kind, quad, four[3])

    @composed(lambda *_: types.Tuple((types.UniTuple(kind, 8), types.int64)))
    def multiply(rows: Any, whole: int, sums: Any, b: int) -> Any:
        if whole > 0:
            r, w0 = quads(rows, 0), weights_of(b)
            for at in range(16, whole, 16):
                w1 = weights_of(b + 2 * size)
                sums, w2 = first(r, sums, w0), weights_of(b + 4 * size)
                sums, w3 = second(r, sums, w1), weights_of(b + 6 * size)
                sums, w0 = third(r, sums, w2), weights_of(b + 8 * size)
                sums, r = last(rows, r, sums, w3, at)
                b += 8 * size
            sums = first(r, sums, w0)
            sums = second(r, sums, weights_of(b + 2 * size))
            sums = third(r, sums, weights_of(b + 4 * size))
            sums = fourth(r, sums, weights_of(b + 6 * size))
            b += 8 * size
        return sums, b

    return multiply
