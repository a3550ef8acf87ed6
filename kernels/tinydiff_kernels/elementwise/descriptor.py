"""What `elementwise` is told, and how that is filled. No Numba here.

    LINEAR      out = act(x * scale + shift)           scale 1, shift -0.0: a copy, of a part of wider rows too
    ADD         out = act(x + scale * y)
    SINUSOIDS   row r: sines and cosines of x[r] * frequency[i]           `frequencies` makes the table
    PIXELS      out = u8 of round(clamp(x / 2 + 0.5, 0, 1) * 255), NaN 0: decoded images
    STRIDED     out = x with any distance between columns: [channels, pixels] to rows and back, image by image
    SHORTEN     out = int16 of round(x / scale of the row), and those scales    `ref/sixteen.py`
    WIDEN       out = x * scale of the row, x int16

Matrices are float32 `[rows, columns]`; the output of PIXELS is u8, one side of SHORTEN and WIDEN int16. Columns lie
side by side except in STRIDED. Output may be x or y itself where types agree. Threads share rows: what has few and
long ones should be given as more and shorter ones.

NaN stays NaN and infinity goes where IEEE arithmetic takes it, element by element, but in PIXELS, which clamps, and in
SHORTEN: a row that holds either has scale NaN, and WIDEN then gives NaN for all of it.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels import words
from tinydiff_kernels.matmul.descriptor import ACTIVATIONS
from tinydiff_kernels.ref.embedding import exponents

MODE = 0
ROWS = 8
COLUMNS = 16
X = 24
X_STRIDE = 32  # bytes from row to row
Y = 40  # address of the second matrix (ADD), of the frequencies (SINUSOIDS), of the rows' scales (SHORTEN, WIDEN)
Y_STRIDE = 48
OUTPUT = 56
OUTPUT_STRIDE = 64
SCALE = 72  # float32
SHIFT = 80  # float32
ACTIVATION = 88  # number from ACTIVATIONS
COSINES_FIRST = 96  # SINUSOIDS: 1 for cosines before sines
X_STEP = 104  # STRIDED: bytes from column to column
OUTPUT_STEP = 112
UNIT_ROWS = 120  # rows that a thread takes at a time
WORDS = 16

LINEAR, ADD, SINUSOIDS, PIXELS, STRIDED, SHORTEN, WIDEN = range(7)
UNIT = 8192  # elements of a unit of work, about

Fields = dict[int, Any]


def _matrices(mode: int, shape: tuple[int, int], x: Any, x_stride: int, output: Any, output_stride: int) -> Fields:
    rows, columns = shape
    return {
        MODE: mode,
        ROWS: rows,
        COLUMNS: columns,
        X: x,
        X_STRIDE: x_stride,
        OUTPUT: output,
        OUTPUT_STRIDE: output_stride,
        UNIT_ROWS: max(1, UNIT // max(columns, 1)),
    }


def linear_fields(
    shape: tuple[int, int],
    x: Any,
    x_stride: int,
    output: Any,
    output_stride: int,
    *,
    scale: float = 1.0,
    shift: float = -0.0,
    activation: str | None = None,
) -> Fields:
    """act(x * scale + shift); by default a copy, exact for -0.0 too."""
    numbers = {SCALE: words.float_bits(scale), SHIFT: words.float_bits(shift), ACTIVATION: ACTIVATIONS[activation]}
    return _matrices(LINEAR, shape, x, x_stride, output, output_stride) | numbers


def add_fields(
    shape: tuple[int, int],
    x: Any,
    x_stride: int,
    y: Any,
    y_stride: int,
    output: Any,
    output_stride: int,
    *,
    scale: float = 1.0,
    activation: str | None = None,
) -> Fields:
    """act(x + scale * y), rounded once before the activation."""
    rest = {Y: y, Y_STRIDE: y_stride, SCALE: words.float_bits(scale), ACTIVATION: ACTIVATIONS[activation]}
    return _matrices(ADD, shape, x, x_stride, output, output_stride) | rest


def sinusoids_fields(
    count: int, dim: int, timesteps: Any, table: Any, output: Any, output_stride: int, *, cosines_first: bool
) -> Fields:
    """Embeddings `[count, dim]` of float32 timesteps below 1e5; table = frequencies(dim, shift). Odd dims end in 0."""
    rest = {Y: table, COSINES_FIRST: int(cosines_first)}
    return _matrices(SINUSOIDS, (count, dim), timesteps, 4, output, output_stride) | rest


def pixels_fields(shape: tuple[int, int], x: Any, x_stride: int, output: Any, output_stride: int) -> Fields:
    """u8 pixels of decoded floats, nominally -1..1."""
    return _matrices(PIXELS, shape, x, x_stride, output, output_stride)


def strided_fields(
    shape: tuple[int, int], x: Any, x_strides: tuple[int, int], output: Any, output_strides: tuple[int, int]
) -> Fields:
    """A copy; strides are bytes from row to row and from column to column."""
    rest = {X_STEP: x_strides[1], OUTPUT_STEP: output_strides[1]}
    return _matrices(STRIDED, shape, x, x_strides[0], output, output_strides[0]) | rest


def shorten_fields(
    shape: tuple[int, int], x: Any, x_stride: int, output: Any, output_stride: int, scales: Any
) -> Fields:
    """Float32 rows to int16 ones and `scales`, float32, one a row."""
    return _matrices(SHORTEN, shape, x, x_stride, output, output_stride) | {Y: scales, Y_STRIDE: 4}


def widen_fields(shape: tuple[int, int], x: Any, x_stride: int, scales: Any, output: Any, output_stride: int) -> Fields:
    """The way back."""
    return _matrices(WIDEN, shape, x, x_stride, output, output_stride) | {Y: scales, Y_STRIDE: 4}


@lru_cache(maxsize=16)
def frequencies(dim: int, freq_shift: float) -> NDArray[np.float32]:
    """The `dim // 2` frequencies of `ref/embedding.py`: e to the power of its float32 exponents.

    `decimal` rounds e**x correctly, so the table has the same bits on every machine; libm's exp does not promise that.
    """
    with localcontext() as context:
        context.prec = 30
        table = np.array([float(Decimal(float(e)).exp()) for e in exponents(dim, freq_shift)], np.float32)
    table.flags.writeable = False
    return table
