"""An indirect matmul as the fields of its descriptor.

Operands are anything that `Fields` may hold: addresses, arrays (tests and benchmarks run them with `run`), or the
planned buffers of a program, whose addresses are filled in later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels import checked, pool, words
from tinydiff_kernels.matmul import descriptor as d
from tinydiff_kernels.matmul.geometry import Geometry, image_offsets, row_offsets
from tinydiff_kernels.matmul.packing import Packed

Kernel = Callable[[int, int, int], None]
Fields = dict[int, Any]
PANEL_CACHE = 256 * 1024  # bytes of weights that should stay in the second-level cache during a block
BLOCK_ROWS = 96
RECORD_BYTES = 8  # float32 scale, int32 zero point


def matmul_fields(
    packed: Packed,
    geometry: Geometry,
    *,
    input: Any,
    output: Any,
    bias: Any,
    scratch: Any,
    table: Any = 0,
    table_stride: int = 0,
    residual: Any = 0,
    activation: str | None = None,
    records: Any = 0,
    record_per_image: bool = False,
) -> Fields:
    """`bias` is float32 padded to whole panels; `table` has a row of `table_stride` bytes for each image; `residual`
    is laid out as the output, but where gates are: then it has all columns of the packed weight, interleaved as they
    are."""
    block_rows, block_panels = blocks(geometry.count, packed)
    fields: Fields = {
        d.INPUT: input,
        d.ROWS: geometry.rows,
        d.TAPS: geometry.taps,
        d.TAP_COUNT: len(geometry.taps),
        d.STEPS: packed.steps,
        d.WEIGHTS: packed.data,
        d.OUTPUT: output,
        d.OUTPUT_ROWS: geometry.output_rows,
        d.ROW_COUNT: geometry.count,
        d.COLUMNS: packed.outputs,
        d.BIAS: bias,
        d.TABLE: table,
        d.TABLE_ROWS: image_offsets(geometry.count, geometry.pixels, table_stride) if table_stride else 0,
        d.RESIDUAL: residual,
        d.RESIDUAL_ROWS: row_offsets(geometry.count, 64 * packed.panels) if packed.gated else geometry.output_rows,
        d.ACTIVATION: d.ACTIVATIONS[activation],
        d.BLOCK_ROWS: block_rows,
        d.BLOCK_PANELS: block_panels,
        d.SCRATCH: scratch,
        d.GATED: int(packed.gated),
        d.COLUMN_SCALES: bias,
        d.COLUMN_SUMS: bias,
    }
    if packed.scales is not None:
        count, pixels = geometry.count, geometry.pixels
        fields |= {
            d.COLUMN_SCALES: packed.scales,
            d.COLUMN_SUMS: packed.sums,
            d.RECORDS: records,
            d.RECORD_ROWS: image_offsets(count, pixels, RECORD_BYTES)
            if record_per_image
            else row_offsets(count, RECORD_BYTES),
            d.GROUP_SCALES: 0 if packed.group_scales is None else packed.group_scales,
        }
    return fields


def blocks(rows: int, packed: Packed) -> tuple[int, int]:
    """Rows and panels of a unit of work: few rows are taken whole, so that weights are read once."""
    panels = max(1, PANEL_CACHE // max(packed.panel_bytes, 1))
    height = -(-rows // d.ROW_MULTIPLE) * d.ROW_MULTIPLE if rows <= 2 * BLOCK_ROWS else BLOCK_ROWS
    return height, panels


def run(kernel: Kernel, fields: Fields, *, threads: int | None = None, cancel: NDArray[np.int32] | None = None) -> None:
    """Run one call whose operands are arrays."""
    if fields[d.ROW_COUNT] == 0 or fields[d.COLUMNS] == 0:
        return
    desc = words.filled(d.WORDS, fields)
    if not checked.active():
        pool.run(kernel, desc, threads=threads, cancel=cancel)
        return
    written = (fields[d.OUTPUT], fields[d.SCRATCH])
    read = [x for x in fields.values() if isinstance(x, np.ndarray) and not any(x is w for w in written)]
    with checked.buffers(*read, writable=written):
        pool.run(kernel, desc, threads=threads, cancel=cancel)


def scratch_for(threads: int) -> NDArray[np.uint8]:
    return np.zeros(threads * d.SCRATCH_BYTES, np.uint8)
