"""Linear layers and convolutions as calls of the indirect matmul: row offsets, tap distances, one run of the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels import checked, pool
from tinydiff_kernels.matmul.descriptor import SCRATCH_BYTES, Float32, Int64, Matmul, as_offsets
from tinydiff_kernels.rows import Grid

Kernel = Callable[[int, int, int], None]


def run(kernel: Kernel, call: Matmul, *, threads: int | None = None, cancel: NDArray[np.int32] | None = None) -> None:
    """Run one indirect matmul."""
    if len(call.rows) == 0 or call.columns == 0:
        return
    count = pool.default_threads() if threads is None else threads
    rows = call.padded_rows()
    scratch = np.zeros(count * SCRATCH_BYTES, np.uint8)
    words = call.words(rows, scratch)
    if not checked.active():
        pool.run(kernel, words, threads=count, cancel=cancel)
        return
    readable: list[NDArray[Any]] = [
        call.input,
        rows,
        call.taps,
        call.weights,
        call.output_rows,
        call.table,
        call.table_rows,
    ]
    if call.residual is not None:
        readable.append(call.residual)
    with checked.buffers(*readable, writable=(call.output, scratch)):
        pool.run(kernel, words, threads=count, cancel=cancel)


def linear(
    kernel: Kernel,
    x: Float32,
    packed: Float32,
    outputs: int,
    table: Float32,
    *,
    residual: Float32 | None = None,
    activation: str | None = None,
    threads: int | None = None,
) -> Float32:
    """act(x @ weight.T + table + residual): x `[rows, in]`, `packed` of weight `[out, in]`, table padded: row i for
    the i-th of equal parts of the rows (bias and time embedding of image i)."""
    count, inputs = x.shape
    out = np.empty((count, outputs), np.float32)
    call = Matmul(
        input=x,
        rows=np.arange(count, dtype=np.int64) * (4 * inputs),
        taps=as_offsets([0]),
        depth=inputs,
        weights=packed,
        output=out,
        output_rows=np.arange(count, dtype=np.int64) * (4 * outputs),
        columns=outputs,
        table=table,
        table_rows=_table_rows(table, count),
        residual=residual,
        activation=activation,
    )
    run(kernel, call, threads=threads)
    return out


def conv(
    kernel: Kernel,
    x: Float32,
    grid: Grid,
    packed: Float32,
    outputs: int,
    size: tuple[int, int],
    table: Float32,
    *,
    stride: int = 1,
    padding: tuple[int, int, int, int] = (1, 1, 1, 1),
    border: str = "zero",
    residual: Float32 | None = None,
    activation: str | None = None,
    threads: int | None = None,
) -> Float32:
    """Convolution of x `[B*H*W, in]` with a kernel of `size` (kh, kw); the rest as `linear`.

    padding is (top, bottom, left, right); border "zero" or "circular". Returns `[B*H'*W', out]`.
    """
    top, bottom, left, right = padding
    edges = ((0, 0), (top, bottom), (left, right), (0, 0))
    image = np.pad(x.reshape(*grid, -1), edges, mode="wrap" if border == "circular" else "constant")
    rows, taps = image_offsets(image.shape, size, stride)
    out = np.empty((len(rows), outputs), np.float32)
    call = Matmul(
        input=image,
        rows=rows,
        taps=taps,
        depth=image.shape[3],
        weights=packed,
        output=out,
        output_rows=np.arange(len(rows), dtype=np.int64) * (4 * outputs),
        columns=outputs,
        table=table,
        table_rows=_table_rows(table, len(rows)),
        residual=residual,
        activation=activation,
    )
    run(kernel, call, threads=threads)
    return out


def image_offsets(shape: tuple[int, ...], size: tuple[int, int], stride: int) -> tuple[Int64, Int64]:
    """Byte offsets of output rows and of taps in a padded image `[B, H, W, C]` of float32."""
    batch, height, width, channels = shape
    (kernel_h, kernel_w), pixel = size, 4 * channels
    images = np.arange(batch)[:, None, None] * (height * width)
    lines = np.arange(0, height - kernel_h + 1, stride)[None, :, None] * width
    columns = np.arange(0, width - kernel_w + 1, stride)[None, None, :]
    taps = np.arange(kernel_h)[:, None] * width + np.arange(kernel_w)
    return as_offsets((images + lines + columns).ravel() * pixel), as_offsets(taps.ravel() * pixel)


def _table_rows(table: Float32, count: int) -> Int64:
    """Each row of the table serves an equal share of the output rows, in order."""
    return as_offsets(np.arange(count) * len(table) // max(count, 1) * (4 * table.shape[1]))
