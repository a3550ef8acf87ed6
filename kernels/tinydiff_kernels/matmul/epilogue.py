"""What happens to a finished tile while it is in the first-level cache.

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
    COLUMN_SCALES,
    COLUMN_SUMS,
    COLUMNS,
    GATED,
    OUTPUT,
    OUTPUT_ROWS,
    RECORD_ROWS,
    RECORDS,
    RESIDUAL,
    RESIDUAL_ROWS,
    TABLE,
    TABLE_ROWS,
)
from tinydiff_kernels.simd import (
    Vector,
    composed,
    f32,
    f32x16,
    fma,
    gelu,
    high_half,
    i32,
    i32x16,
    i64,
    load,
    low_half,
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


def finisher(value: Function, plain: bool = True) -> Function:
    """`finish(desc, first_row, rows, panel, sums, stride, edge)`: `rows` rows of one panel from scratch to C.

    `sums` is the address of the panel's first row in scratch, `stride` the bytes between rows; `edge` has room for a
    row: where a panel is cut by the edge of the matrix no byte beyond its row is touched. What belongs to columns is
    loaded once; float weights have no scales, and their fields point to the bias. Without `plain` all rows take the one
    general way, for a kernel whose inner loop LLVM compiles worse beside a second epilogue.
    """

    @composed(nothing)
    def plain_rows(desc: int, first_row: int, rows: int, panel: int, sums: int, stride: int) -> None:
        """Whole panels with a residual or nothing, which most are: a third of the instructions of `any_rows`."""
        output, residual, column = load(i64, desc, OUTPUT), load(i64, desc, RESIDUAL), 64 * panel
        output_rows, residual_rows = load(i64, desc, OUTPUT_ROWS), load(i64, desc, RESIDUAL_ROWS)
        records, record_rows = load(i64, desc, RECORDS), load(i64, desc, RECORD_ROWS)
        bias = load(f32x16, load(i64, desc, BIAS), column)
        scales = load(f32x16, load(i64, desc, COLUMN_SCALES), column)
        totals = load(i32x16, load(i64, desc, COLUMN_SUMS), column)
        for r in range(rows):
            row = first_row + r
            x = value(sums + stride * r, bias, scales, totals, records, record_rows, row)
            if residual != 0:
                x = x + load(f32x16, residual + load(i64, residual_rows, 8 * row), column)
            store(output + load(i64, output_rows, 8 * row), column, x)

    @composed(nothing)
    def any_rows(desc: int, first_row: int, rows: int, panel: int, sums: int, stride: int, edge: int) -> None:
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

    @composed(nothing)
    def finish(desc: int, first_row: int, rows: int, panel: int, sums: int, stride: int, edge: int) -> None:
        options = load(i64, desc, TABLE) | load(i64, desc, ACTIVATION) | load(i64, desc, GATED)
        if options == 0 and 16 * (panel + 1) <= load(i64, desc, COLUMNS):
            plain_rows(desc, first_row, rows, panel, sums, stride)
        else:
            any_rows(desc, first_row, rows, panel, sums, stride, edge)

    return finish if plain else any_rows
