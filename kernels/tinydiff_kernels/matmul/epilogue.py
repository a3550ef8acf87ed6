"""What happens to a finished tile while it is in the first-level cache, and the loop over tiles.

    x = value(tile)  +  table[m, n]  +  residual[m, n];  C[m, n] = act(x), or value * gelu(gate)

`value` is sum + bias of float weights, or the dequantised sum of integers. All parts are switched by fields of the
descriptor, which are the same for a whole call, so that branches are free and few functions need compiling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels.epilogue import activate, nothing
from tinydiff_kernels.matmul.descriptor import (
    ACTIVATION,
    BIAS,
    BLOCK_PANELS,
    BLOCK_ROWS,
    COLUMN_SCALES,
    COLUMN_SUMS,
    COLUMNS,
    GATED,
    NEXT_WORKER,
    OUTPUT,
    OUTPUT_ROWS,
    RECORD_ROWS,
    RECORDS,
    RESIDUAL,
    RESIDUAL_ROWS,
    ROW_COUNT,
    SCRATCH,
    SCRATCH_BYTES,
    TABLE,
    TABLE_ROWS,
)
from tinydiff_kernels.simd import (
    Vector,
    composed,
    f32,
    f32x16,
    fetch_add,
    fma,
    gelu,
    high_half,
    i32,
    i32x16,
    i64,
    load,
    load_acquire,
    low_half,
    prefetch,
    splat,
    store,
    to_float,
)

Function = Callable[..., Any]


@composed(nothing)
def copy_floats(source: int, target: int, count: int) -> None:
    for i in range(count):
        store(target, 4 * i, load(f32, source, 4 * i))


@composed(lambda *_: f32x16)
def float_value(
    sums: int, bias: Vector, scales: Vector, totals: Vector, records: int, record_rows: int, row: int
) -> Vector:
    """sum + bias."""
    return load(f32x16, sums, 0) + bias


@composed(lambda *_: f32x16)
def dequantised_value(
    sums: int, bias: Vector, scales: Vector, totals: Vector, records: int, record_rows: int, row: int
) -> Vector:
    """(sum - zero * column sum) * (scale of the row * scale of the column) + bias."""
    record = records + load(i64, record_rows, 8 * row)
    exact = to_float(load(i32x16, sums, 0) - splat(i32x16, load(i32, record, 4)) * totals)
    return fma(exact, splat(f32x16, load(f32, record, 0)) * scales, bias)


def finisher(value: Function) -> Function:
    """`finish(desc, first_row, rows, panel, sums, stride, edge)`: `rows` rows of one panel from scratch to C.

    `sums` is the address of the panel's first row in scratch, `stride` the bytes between rows; `edge` has room for a
    row: where a panel is cut by the edge of the matrix no byte beyond its row is touched. What belongs to columns is
    loaded once; float weights have no scales, and their fields point to the bias.
    """

    @composed(nothing)
    def finish(desc: int, first_row: int, rows: int, panel: int, sums: int, stride: int, edge: int) -> None:
        output, residual, table = load(i64, desc, OUTPUT), load(i64, desc, RESIDUAL), load(i64, desc, TABLE)
        activation, gated = load(i64, desc, ACTIVATION), load(i64, desc, GATED)
        output_rows, table_rows = load(i64, desc, OUTPUT_ROWS), load(i64, desc, TABLE_ROWS)
        residual_rows, record_rows = load(i64, desc, RESIDUAL_ROWS), load(i64, desc, RECORD_ROWS)
        records, column = load(i64, desc, RECORDS), 64 * panel
        bias = load(f32x16, load(i64, desc, BIAS), column)
        scales = load(f32x16, load(i64, desc, COLUMN_SCALES), column)
        totals = load(i32x16, load(i64, desc, COLUMN_SUMS), column)
        width = 16 - 8 * gated
        columns = min(width, load(i64, desc, COLUMNS) - width * panel)
        for r in range(rows):
            row = first_row + r
            x = value(sums + stride * r, bias, scales, totals, records, record_rows, row)
            place = load(i64, output_rows, 8 * row) + 4 * width * panel
            target = output + place if columns == width else edge
            if table != 0:
                x = x + load(f32x16, table + load(i64, table_rows, 8 * row), column)
            if residual != 0:
                remembered = residual + load(i64, residual_rows, 8 * row) + column
                if columns < width and gated == 0:
                    copy_floats(remembered, edge, columns)
                    remembered = edge
                x = x + load(f32x16, remembered, 0)
            if gated != 0:
                store(target, 0, low_half(x) * gelu(high_half(x)))
            elif activation != 0:
                store(target, 0, activate(x, activation))
            else:
                store(target, 0, x)
            if columns < width:
                copy_floats(edge, output + place, columns)

    return finish


@composed(nothing)
def ask_for_output(desc: int, row: int, rows: int, place: int, nbytes: int) -> None:
    """Bring a tile's part of C, and of the residual, near while it is multiplied: rows lie far apart, so that no CPU
    guesses them. `place` and `nbytes` are within a row."""
    output, output_rows = load(i64, desc, OUTPUT) + place, load(i64, desc, OUTPUT_ROWS)
    residual, residual_rows = load(i64, desc, RESIDUAL) + place, load(i64, desc, RESIDUAL_ROWS)
    for r in range(row, row + rows):
        for at in range(0, nbytes, 64):
            prefetch(output + load(i64, output_rows, 8 * r), at)
    if residual != place:
        for r in range(row, row + rows):
            for at in range(0, nbytes, 64):
                prefetch(residual + load(i64, residual_rows, 8 * r), at)


def tiled(multiply: Function, finish: Function, tile_rows: int, tile_panels: int, *, loop: bool = False) -> Function:
    """`run(desc, counter, cancel)`: take blocks of tiles until none is left.

    A block's panels fit in the second-level cache and serve all its rows. Rows come first: a tile's rows of A stay in
    the first level for all panels, and C is written along its rows, which caches and page tables like. A tile of one
    panel needs no loop around `finish`, for whose counters LLVM spills registers; `loop` where it spills more without.
    """

    @composed(nothing)
    def run(desc: int, counter: int, cancel: int) -> None:
        scratch = load(i64, desc, SCRATCH) + SCRATCH_BYTES * fetch_add(counter + NEXT_WORKER, 1)
        edge = scratch + 64 * tile_panels * tile_rows
        rows, block_rows = load(i64, desc, ROW_COUNT), load(i64, desc, BLOCK_ROWS)
        width = 16 - 8 * load(i64, desc, GATED)
        panels = (load(i64, desc, COLUMNS) + width - 1) // width
        block_panels = (load(i64, desc, BLOCK_PANELS) + tile_panels - 1) // tile_panels * tile_panels
        across = (rows + block_rows - 1) // block_rows
        blocks = across * ((panels + block_panels - 1) // block_panels)
        while load_acquire(cancel) == 0:
            block = fetch_add(counter, 1)
            if block >= blocks:
                break
            first, first_panel = block % across * block_rows, block // across * block_panels
            for row in range(first, min(rows, first + block_rows), tile_rows):
                inside = min(tile_rows, rows - row)
                for panel in range(first_panel, min(panels, first_panel + block_panels), tile_panels):
                    if tile_panels > 1:  # a tile of one panel is slow enough for the CPU to find its lines itself
                        ask_for_output(desc, row, inside, 4 * width * panel, 4 * width * tile_panels)
                    multiply(desc, row // tile_rows, panel, panels, scratch)
                    if tile_panels == 1 and not loop:
                        finish(desc, row, inside, panel, scratch, 64, edge)
                    else:
                        for beside in range(min(tile_panels, panels - panel)):
                            finish(desc, row, inside, panel + beside, scratch + 64 * beside, 64 * tile_panels, edge)

    return run
