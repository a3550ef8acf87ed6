"""The micro-kernel: a few rows of A times one or two panels of B, held in registers. Every matmul kernel is made of it.

`accumulate(sums, address, offset, weights)` is one step of the inner loop for one row: an fma of one float32, or a dot
product of four bytes. `weights_of(address)` reads the 16 columns of one step, `step_bytes` of packed B. What differs
between float32, half and int8 weights is in these two; what differs between machines is the shape of the tile:

    6 x 16    twelve 256-bit accumulators of AVX2's sixteen registers
    8 x 32    sixteen 512-bit accumulators: AVX-512 starts two fma a cycle that take four, so it needs eight at least;
              and eight row addresses, for which there are registers
    8 x 8     twice, on NEON: `lanes.py`

Every output is one chain over taps and channels in their order, so the bits depend on neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels._numba import types
from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.matmul.descriptor import INPUT, ROWS, STEPS, TAP_COUNT, TAPS, WEIGHTS
from tinydiff_kernels.simd import Vector, combine, composed, i64, load, store, zero

Function = Callable[..., Any]


def six_rows(kind: Any, accumulate: Function, weights_of: Function, step_bytes: int) -> Function:
    """`multiply(desc, tile, panel, panels, scratch)`: the tile's sums as `[6, 16]` of `kind` in scratch."""

    @composed(nothing)
    def multiply(desc: int, tile: int, panel: int, panels: int, scratch: int) -> None:
        base, rows = load(i64, desc, INPUT), load(i64, desc, ROWS) + 48 * tile
        a0, a1, a2 = base + load(i64, rows, 0), base + load(i64, rows, 8), base + load(i64, rows, 16)
        a3, a4, a5 = base + load(i64, rows, 24), base + load(i64, rows, 32), base + load(i64, rows, 40)
        taps, tap_count, steps = load(i64, desc, TAPS), load(i64, desc, TAP_COUNT), load(i64, desc, STEPS)
        b = load(i64, desc, WEIGHTS) + step_bytes * steps * tap_count * panel
        c0, c1, c2, c3, c4, c5 = zero(kind), zero(kind), zero(kind), zero(kind), zero(kind), zero(kind)
        for t in range(tap_count):
            start = load(i64, taps, 8 * t)
            for at in range(start, start + 4 * steps, 4):
                w = weights_of(b)
                c0 = accumulate(c0, a0, at, w)
                c1 = accumulate(c1, a1, at, w)
                c2 = accumulate(c2, a2, at, w)
                c3 = accumulate(c3, a3, at, w)
                c4 = accumulate(c4, a4, at, w)
                c5 = accumulate(c5, a5, at, w)
                b += step_bytes
        store(scratch, 0, c0)
        store(scratch, 64, c1)
        store(scratch, 128, c2)
        store(scratch, 192, c3)
        store(scratch, 256, c4)
        store(scratch, 320, c5)

    return multiply


@composed(lambda *_: types.UniTuple(types.int64, 8))
def eight_addresses(desc: int, tile: int) -> Any:
    """Where the eight rows of a tile begin."""
    base, offsets = load(i64, desc, INPUT), load(i64, desc, ROWS) + 64 * tile
    return (
        base + load(i64, offsets, 0),
        base + load(i64, offsets, 8),
        base + load(i64, offsets, 16),
        base + load(i64, offsets, 24),
        base + load(i64, offsets, 32),
        base + load(i64, offsets, 40),
        base + load(i64, offsets, 48),
        base + load(i64, offsets, 56),
    )


def eight_products(kind: Any, accumulate: Function) -> Function:
    """`step(rows, sums, at, weights)`: one step of the inner loop for eight rows."""

    @composed(lambda *_: types.UniTuple(kind, 8))
    def step(rows: Any, sums: Any, at: int, w: Vector) -> Any:
        a0, a1, a2, a3, a4, a5, a6, a7 = rows
        c0, c1, c2, c3, c4, c5, c6, c7 = sums
        return (
            accumulate(c0, a0, at, w),
            accumulate(c1, a1, at, w),
            accumulate(c2, a2, at, w),
            accumulate(c3, a3, at, w),
            accumulate(c4, a4, at, w),
            accumulate(c5, a5, at, w),
            accumulate(c6, a6, at, w),
            accumulate(c7, a7, at, w),
        )

    return step


def eight_rows(kind: Any, accumulate: Function, weights_of: Function, step_bytes: int) -> Function:
    """The same for `[8, 32]`: two panels side by side. A last odd panel is multiplied twice, and stored once.

    Two steps are written out: eight addresses to move after each would cost as much as the loads.
    """
    step = eight_products(kind, accumulate)

    @composed(nothing)
    def multiply(desc: int, tile: int, panel: int, panels: int, scratch: int) -> None:
        rows = eight_addresses(desc, tile)
        taps, tap_count, steps = load(i64, desc, TAPS), load(i64, desc, TAP_COUNT), load(i64, desc, STEPS)
        panel_bytes = step_bytes * steps * tap_count
        b = load(i64, desc, WEIGHTS) + panel_bytes * panel
        beside = panel_bytes * min(1, panels - 1 - panel)
        sums = (zero(kind), zero(kind), zero(kind), zero(kind), zero(kind), zero(kind), zero(kind), zero(kind))
        for t in range(tap_count):
            start = load(i64, taps, 8 * t)
            end = start + 4 * steps
            for at in range(start, end - 4, 8):
                sums = step(rows, sums, at, combine(weights_of(b), weights_of(b + beside)))
                b += step_bytes
                sums = step(rows, sums, at + 4, combine(weights_of(b), weights_of(b + beside)))
                b += step_bytes
            if steps % 2 == 1:
                sums = step(rows, sums, end - 4, combine(weights_of(b), weights_of(b + beside)))
                b += step_bytes
        c0, c1, c2, c3, c4, c5, c6, c7 = sums
        store(scratch, 0, c0)
        store(scratch, 128, c1)
        store(scratch, 256, c2)
        store(scratch, 384, c3)
        store(scratch, 512, c4)
        store(scratch, 640, c5)
        store(scratch, 768, c6)
        store(scratch, 896, c7)

    return multiply
