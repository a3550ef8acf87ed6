"""The inner loop of `lanes.py` for int8, kind to cores that execute in order: what it reads was asked for long before.

Weights are loaded a step ahead, and each row's next 16 bytes right after the last product with those before: 16 sums,
eight rows and two steps of weights are 28 of the 32 registers. Weights stay where they are loaded here, each by itself
(`load_in_order`): an ldp of 32 bytes holds up the products behind it. The last 16 bytes of a row are apart, so that
nothing behind them is read. By LLVM's models 64 sdot take 77 cycles on A55 (95 without all this), 32 on A76 (35), 36 on
Neoverse N1 (35).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinydiff_kernels._numba import types
from tinydiff_kernels.matmul.lanes import eight_loads, eight_rows_by_lane
from tinydiff_kernels.simd import composed

Function = Callable[..., Any]


def quads_ahead(kind: Any, quad: Any, four: Sequence[Function], weights_of: Function, size: int) -> Function:
    """`multiply(rows, whole, sums, b)`, as `lanes.quads_by_lane`. `weights_of` loads in order too."""
    quads = eight_loads(quad)
    first, second, third, fourth = (eight_rows_by_lane(kind, lane) for lane in four)

    @composed(lambda *_: types.Tuple((types.UniTuple(kind, 8), types.int64)))
    def multiply(rows: Any, whole: int, sums: Any, b: int) -> Any:
        if whole > 0:
            r, w0 = quads(rows, 0), weights_of(b)
            for at in range(16, whole, 16):
                w1 = weights_of(b + 2 * size)
                sums, w2 = first(r, sums, w0), weights_of(b + 4 * size)
                sums, w3 = second(r, sums, w1), weights_of(b + 6 * size)
                sums, w0 = third(r, sums, w2), weights_of(b + 8 * size)
                sums, r = fourth(r, sums, w3), quads(rows, at)
                b += 8 * size
            sums = first(r, sums, w0)
            sums = second(r, sums, weights_of(b + 2 * size))
            sums = third(r, sums, weights_of(b + 4 * size))
            sums = fourth(r, sums, weights_of(b + 6 * size))
            b += 8 * size
        return sums, b

    return multiply
