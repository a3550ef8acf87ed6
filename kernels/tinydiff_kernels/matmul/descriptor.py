"""What an indirect matmul is told: the fields of its descriptor. No Numba here.

    C[m, n] = act(S[m, n] + bias[n] + table[m, n] + residual[m, n])
    S[m, n] = sum over taps t and channels k of A[row[m] + tap[t] + k] * B[n, t, k]

A is a channels-last image with its border already around it. Row m of the output belongs to an input pixel at
`row[m]`; a tap adds a distance to it. So one loop computes five layers, with no im2col and no branch:

    linear, 1x1    one tap                              row[m] = m
    3x3            nine taps                            row[m] = the pixel left above
    stride 2       the same taps                        other rows
    strips, tiles  the same taps                        fewer rows
    upsample + 3x3 four classes of 2x2 taps             rows of the small image, output rows of the large one

A step of the inner loop reads 4 bytes of each row of A: one float32, or four quantised channels. All offsets are in
bytes. A kernel reads the descriptor as int64 words at the byte offsets below.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

INPUT = 0  # address of A
ROWS = 8  # address of int64 offsets into A, one an output row, padded to whole tiles (`padded_offsets`)
TAPS = 16  # address of int64 distances, one a tap
TAP_COUNT = 24
STEPS = 32  # steps of 4 bytes in the channels of one tap
WEIGHTS = 40  # address of packed B (packing.py)
OUTPUT = 48  # address of C, float32
OUTPUT_ROWS = 56  # address of int64 offsets into C, one an output row
ROW_COUNT = 64  # m
COLUMNS = 72  # n: columns of C
BIAS = 80  # address of float32, one an output column of B, padded to whole panels
TABLE = 88  # address of float32 rows (time embedding), readable to a whole panel; or 0
TABLE_ROWS = 96  # address of int64 offsets into the table, one an output row
RESIDUAL = 104  # address of float32, columns as those of C (of B, whole panels, where gated), or 0
ACTIVATION = 112  # number from ACTIVATIONS
BLOCK_ROWS = 120  # rows in the unit of work that a thread takes; a multiple of ROW_MULTIPLE
BLOCK_PANELS = 128  # panels in it; whole tiles of them are taken
SCRATCH = 136  # address of SCRATCH_BYTES for each thread
GATED = 144  # 1: a panel holds 8 values and their 8 gates, and gives 8 columns of value * gelu(gate)
# quantised input only
COLUMN_SCALES = 152  # address of float32, one an output column of B, padded to whole panels
COLUMN_SUMS = 160  # address of int32: sum of the quantised weights of a column, padded likewise
RECORDS = 168  # address of records (float32 scale, int32 zero point) of the quantised rows or images of A
RECORD_ROWS = 176  # address of int64 offsets into the records, one an output row
GROUP_SCALES = 184  # int4: address of integer scales of the groups of 32 (packing.py)
# again for all
RESIDUAL_ROWS = 192  # address of int64 offsets into the residual, one an output row
WORDS = 25

ROW_MULTIPLE = 24  # row tiles have 6 or 8 rows
PANEL = 16  # columns
SCRATCH_BYTES = 8 * 2 * PANEL * 4 + 2 * PANEL * 4  # a finished tile, and one row for the edge of the matrix
ACTIVATIONS: dict[str | None, int] = {None: 0, "silu": 1, "gelu": 2, "quick_gelu": 3, "relu": 4, "soft_clip": 5}
NEXT_WORKER = 8  # byte offset in the counters: threads number themselves to find their scratch

Int64 = NDArray[np.int64]


def as_offsets(values: Sequence[int] | Int64) -> Int64:
    return np.ascontiguousarray(values, dtype=np.int64)


def padded_offsets(rows: Int64) -> Int64:
    """Row offsets up to whole tiles: the last row is computed again and not stored."""
    return np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % ROW_MULTIPLE)])
