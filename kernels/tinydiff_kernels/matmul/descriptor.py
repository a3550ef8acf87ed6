"""What an indirect matmul is told: the fields of its descriptor, and how one is filled. No Numba here.

    C[m, n] = act(sum over taps t, channels k of A[row[m] + tap[t] + k] * B[n, t, k]  +  table[m, n]  +  residual[m, n])

A is a channels-last image with its border already around it. Row m of the output belongs to an input pixel at
`row[m]`; a tap adds a distance to it. So one loop computes five layers, with no im2col and no branch:

    linear, 1x1    one tap                              row[m] = m
    3x3            nine taps                            row[m] = the pixel left above
    stride 2       the same taps                        other rows
    strips, tiles  the same taps                        fewer rows
    upsample + 3x3 four classes of 2x2 taps             rows of the small image, output rows of the large one

All offsets are in bytes. A kernel reads the descriptor as int64 words at the byte offsets below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

INPUT = 0  # address of A
ROWS = 8  # address of int64 offsets into A, one an output row, padded to whole tiles
TAPS = 16  # address of int64 distances, one a tap
TAP_COUNT = 24
DEPTH = 32  # channels k of one tap
WEIGHTS = 40  # address of packed B (packing.py)
OUTPUT = 48  # address of C
OUTPUT_ROWS = 56  # address of int64 offsets into C, and into the residual, one an output row
ROW_COUNT = 64  # m
COLUMNS = 72  # n
TABLE = 80  # address of float32 rows of bias (and time embedding), each padded to whole panels
TABLE_ROWS = 88  # address of int64 offsets into the table, one an output row
RESIDUAL = 96  # address, or 0
ACTIVATION = 104  # number from ACTIVATIONS
BLOCK_TILES = 112  # tiles of rows in the unit of work that a thread takes
BLOCK_PANELS = 120  # panels of columns in it
SCRATCH = 128  # address of SCRATCH_BYTES for each thread
WORDS = 17

ROW_TILE = 6  # rows that the micro-kernel holds in registers
PANEL = 16  # columns
SCRATCH_BYTES = (ROW_TILE + 1) * PANEL * 4  # a finished tile, and one row for the edge of the matrix
ACTIVATIONS: dict[str | None, int] = {None: 0, "silu": 1, "gelu": 2, "quick_gelu": 3, "relu": 4, "soft_clip": 5}
NEXT_WORKER = 8  # byte offset in the counters: threads number themselves to find their scratch
PANEL_CACHE = 128 * 1024  # bytes of weights that should stay in the second-level cache during a block
BLOCK_ROWS = 48

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Matmul:
    """Arrays of one call. The caller has checked shapes; `words` does not, and kernels do not either."""

    input: Float32  # any shape; offsets are relative to its first byte
    rows: Int64  # byte offsets, one an output row
    taps: Int64  # byte distances
    depth: int
    weights: Float32  # packed, [panels, taps, depth, 16]
    output: Float32
    output_rows: Int64
    columns: int
    table: Float32  # [any, panels * 16]
    table_rows: Int64
    residual: Float32 | None = None  # laid out as the output
    activation: str | None = None

    def padded_rows(self) -> Int64:
        """Row offsets up to a whole tile: the last row is computed again and not stored."""
        count = -len(self.rows) % ROW_TILE
        return np.concatenate([self.rows, np.repeat(self.rows[-1:], count)])

    def words(self, rows: Int64, scratch: NDArray[np.uint8]) -> Int64:
        """The descriptor; it holds addresses, so every array must outlive the call."""
        panel_bytes = self.depth * len(self.taps) * PANEL * 4
        words = np.zeros(WORDS, np.int64)
        for offset, value in (
            (INPUT, self.input.ctypes.data),
            (ROWS, rows.ctypes.data),
            (TAPS, self.taps.ctypes.data),
            (TAP_COUNT, len(self.taps)),
            (DEPTH, self.depth),
            (WEIGHTS, self.weights.ctypes.data),
            (OUTPUT, self.output.ctypes.data),
            (OUTPUT_ROWS, self.output_rows.ctypes.data),
            (ROW_COUNT, len(self.rows)),
            (COLUMNS, self.columns),
            (TABLE, self.table.ctypes.data),
            (TABLE_ROWS, self.table_rows.ctypes.data),
            (RESIDUAL, 0 if self.residual is None else self.residual.ctypes.data),
            (ACTIVATION, ACTIVATIONS[self.activation]),
            (BLOCK_TILES, BLOCK_ROWS // ROW_TILE),
            (BLOCK_PANELS, max(1, PANEL_CACHE // max(panel_bytes, 1))),
            (SCRATCH, scratch.ctypes.data),
        ):
            words[offset // 8] = value
        return words


def as_offsets(values: Sequence[int] | Int64) -> Int64:
    return np.ascontiguousarray(values, dtype=np.int64)
