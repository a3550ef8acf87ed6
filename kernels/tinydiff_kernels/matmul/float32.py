"""matmul_f32: the indirect matmul in float32. `ref/matmul.py` and `ref/conv.py` are its specification.

C[m, n] = act(sum A * B + table + residual); fields and layouts in `descriptor.py`.

Tile: 6 rows x 16 columns in twelve 256-bit registers (six 512-bit ones, twenty-four of NEON), two more hold a row of B,
one a broadcast element of A: fifteen of AVX2's sixteen. Each step reads 64 bytes of B and 24 of A for 192 flops, so
that the multipliers and not the loads are the limit. Every output is one chain of fma over taps and channels in
their order: the bits depend neither on the path nor on the number of threads.
"""

from __future__ import annotations

from typing import Any

from tinydiff_kernels._numba import types
from tinydiff_kernels.matmul.descriptor import (
    ACTIVATION,
    BLOCK_PANELS,
    BLOCK_TILES,
    COLUMNS,
    DEPTH,
    INPUT,
    NEXT_WORKER,
    OUTPUT,
    OUTPUT_ROWS,
    RESIDUAL,
    ROW_COUNT,
    ROWS,
    SCRATCH,
    SCRATCH_BYTES,
    TABLE,
    TABLE_ROWS,
    TAP_COUNT,
    TAPS,
    WEIGHTS,
)
from tinydiff_kernels.simd import (
    Vector,
    composed,
    f32,
    f32x8,
    f32x16,
    fetch_add,
    fma,
    full_like,
    gelu,
    i64,
    load,
    load_acquire,
    load_splat,
    maximum,
    quick_gelu,
    silu,
    soft_clip,
    store,
    zero,
)


def nothing(*_arguments: Any) -> Any:
    return types.void


@composed(nothing)
def multiply_tile(desc: int, tile: int, panel: int, scratch: int) -> None:
    """Six rows times one panel into scratch, `[6, 16]` float32."""
    base, rows = load(i64, desc, INPUT), load(i64, desc, ROWS) + 48 * tile
    a0, a1, a2 = base + load(i64, rows, 0), base + load(i64, rows, 8), base + load(i64, rows, 16)
    a3, a4, a5 = base + load(i64, rows, 24), base + load(i64, rows, 32), base + load(i64, rows, 40)
    taps, tap_count, depth = load(i64, desc, TAPS), load(i64, desc, TAP_COUNT), load(i64, desc, DEPTH)
    b = load(i64, desc, WEIGHTS) + 64 * depth * tap_count * panel
    c0, c1, c2 = zero(f32x16), zero(f32x16), zero(f32x16)
    c3, c4, c5 = zero(f32x16), zero(f32x16), zero(f32x16)
    for t in range(tap_count):
        start = load(i64, taps, 8 * t)
        for at in range(start, start + 4 * depth, 4):
            row = load(f32x16, b, 0)
            c0 = fma(load_splat(f32x16, a0, at), row, c0)
            c1 = fma(load_splat(f32x16, a1, at), row, c1)
            c2 = fma(load_splat(f32x16, a2, at), row, c2)
            c3 = fma(load_splat(f32x16, a3, at), row, c3)
            c4 = fma(load_splat(f32x16, a4, at), row, c4)
            c5 = fma(load_splat(f32x16, a5, at), row, c5)
            b += 64
    store(scratch, 0, c0)
    store(scratch, 64, c1)
    store(scratch, 128, c2)
    store(scratch, 192, c3)
    store(scratch, 256, c4)
    store(scratch, 320, c5)


@composed(lambda x, activation: x)
def activate(x: Vector, activation: int) -> Vector:
    """By a number that is the same for the whole call, so that the branch is free."""
    if activation == 1:
        return silu(x)
    if activation == 2:
        return gelu(x)
    if activation == 3:
        return quick_gelu(x)
    if activation == 4:
        return maximum(x, full_like(x, 0.0))
    if activation == 5:
        return soft_clip(x)
    return x


@composed(nothing)
def copy_floats(source: int, target: int, count: int) -> None:
    for i in range(count):
        store(target, 4 * i, load(f32, source, 4 * i))


@composed(nothing)
def finish_tile(desc: int, tile: int, panel: int, scratch: int) -> None:
    """Epilogue: add the table and the residual, apply the activation, store what lies inside the matrix."""
    rows = min(6, load(i64, desc, ROW_COUNT) - 6 * tile)
    columns = min(16, load(i64, desc, COLUMNS) - 16 * panel)
    output, residual = load(i64, desc, OUTPUT), load(i64, desc, RESIDUAL)
    activation = load(i64, desc, ACTIVATION)
    output_rows = load(i64, desc, OUTPUT_ROWS) + 48 * tile
    table, table_rows = load(i64, desc, TABLE), load(i64, desc, TABLE_ROWS) + 48 * tile
    edge = scratch + 384
    for r in range(rows):
        place = load(i64, output_rows, 8 * r) + 64 * panel
        added = table + load(i64, table_rows, 8 * r) + 64 * panel
        target, remembered = output + place, residual + place
        if columns < 16:  # a part of a panel goes through scratch: no byte beyond the row is touched
            target = edge
            if residual != 0:
                copy_floats(remembered, edge, columns)
                remembered = edge
        for half in range(0, 64, 32):
            x = load(f32x8, scratch, 64 * r + half) + load(f32x8, added, half)
            if residual != 0:
                x = x + load(f32x8, remembered, half)
            store(target, half, activate(x, activation))
        if columns < 16:
            copy_floats(edge, output + place, columns)


def matmul_f32(desc: int, counter: int, cancel: int) -> None:
    """Take blocks of tiles until none is left; within a block a panel of weights serves all its rows."""
    scratch = load(i64, desc, SCRATCH) + SCRATCH_BYTES * fetch_add(counter + NEXT_WORKER, 1)
    tiles, panels = (load(i64, desc, ROW_COUNT) + 5) // 6, (load(i64, desc, COLUMNS) + 15) // 16
    block_tiles, block_panels = load(i64, desc, BLOCK_TILES), load(i64, desc, BLOCK_PANELS)
    across = (tiles + block_tiles - 1) // block_tiles
    blocks = across * ((panels + block_panels - 1) // block_panels)
    while load_acquire(cancel) == 0:
        block = fetch_add(counter, 1)
        if block >= blocks:
            break
        first_tile, first_panel = block % across * block_tiles, block // across * block_panels
        for panel in range(first_panel, min(panels, first_panel + block_panels)):
            for tile in range(first_tile, min(tiles, first_tile + block_tiles)):
                multiply_tile(desc, tile, panel, scratch)
                finish_tile(desc, tile, panel, scratch)
