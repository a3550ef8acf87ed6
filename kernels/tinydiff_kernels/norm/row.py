"""Norms of single rows, and rows quantised one by one: what `rows_norm` is told, and how that is filled. No Numba here.

    layer norm    y = (x - mean) / sqrt(var + eps) * gamma + beta      over a row's channels; both 0: y = x
    output        y as float32, or as u8 with a record (scale, zero point) for each row: `ref/quantise.py`

The input is one or two sources side by side (`sources.py`). NaN, infinity, or a squared deviation beyond float32
(numbers about 1e19 apart) make their row NaN; in u8 its record has scale NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinydiff_kernels import words
from tinydiff_kernels.sources import Source, source_fields

ROWS = 48
GAMMA = 56  # address of float32 [channels]; 0: no norm
BETA = 64
EPS = 72  # float32
OUTPUT = 80
OUTPUT_STRIDE = 88  # bytes from row to row
OUTPUT_CHANNELS = 96  # channels written; those beyond the input's get 0.0 or the zero point
RECORDS = 104  # address of records of 8 bytes, one a row; 0: float32 output
FLIP = 112  # 0, or 0x80 to keep q as int8
SCRATCH = 120  # address of SCRATCH_BYTES for each thread
WORDS = 16
SCRATCH_BYTES = 64  # mean and 1 / deviation of a few rows
NEXT_WORKER = 8  # byte offset in the counters: threads number themselves to find their scratch
UNIT_ROWS = 16  # rows of a unit of work


def rows_fields(
    sources: Sequence[Source],
    rows: int,
    output: Any,
    output_stride: int,
    scratch: Any,
    *,
    output_channels: int | None = None,
    gamma: Any = 0,
    beta: Any = 0,
    eps: float = 0.0,
    records: Any = 0,
    flip: int = 0,
) -> dict[int, Any]:
    """What rows_norm is told; WORDS words. Operands as in `group.py`."""
    channels = sum(source.channels for source in sources)
    return {
        **source_fields(sources),
        ROWS: rows,
        GAMMA: gamma,
        BETA: beta,
        EPS: words.float_bits(eps),
        OUTPUT: output,
        OUTPUT_STRIDE: output_stride,
        SCRATCH: scratch,
        OUTPUT_CHANNELS: channels if output_channels is None else output_channels,
        RECORDS: records,
        FLIP: flip,
    }
