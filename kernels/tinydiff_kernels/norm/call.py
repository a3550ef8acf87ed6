"""Group norm and row norms on arrays: buffers, descriptors, runs of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels import pool
from tinydiff_kernels.call import Array, Kernel, run
from tinydiff_kernels.norm import group, row
from tinydiff_kernels.ref.quantise import RECORD
from tinydiff_kernels.rows import Grid
from tinydiff_kernels.sources import Source, slots


@dataclass(frozen=True, slots=True)
class GroupKernels:
    """The three kernels of group norm."""

    stats: Kernel
    fold: Kernel
    apply: Kernel


def group_norm(
    kernels: GroupKernels,
    sources: Sequence[Array],
    grid: Grid,
    norm: group.Norm,
    output: Array,
    *,
    activation: str | None = None,
    border: tuple[int, int, int, int] = (0, 0, 0, 0),
    wrap: bool = False,
    flip: int = 0,
    lines: tuple[int, int] | None = None,
    threads: int | None = None,
) -> NDArray[np.void]:
    """Norm, or quantise only, sources `[rows, channels]` side by side.

    `output` `[B, lines, width, channels]`, float32 or uint8, is written, with borders and channels beyond the
    input's; its pixels may lie apart. Returns the records of the images (of u8 output).
    """
    parts = [Source.of(x) for x in sources]
    count, (batch, height, width) = slots(parts), grid
    stats = np.empty(group.stats_bytes(batch, grid.pixels, count), np.uint8)
    multiply, add = np.empty((batch, count), np.float32), np.empty((batch, count), np.float32)
    records = np.zeros(batch, RECORD)
    wanted = records if output.dtype == np.uint8 else 0
    scratch = np.empty((threads or pool.default_threads(), group.scratch_bytes(parts)), np.uint8)
    told = group.stats_fields(parts, batch, grid.pixels, stats)
    run(kernels.stats, group.STATS_WORDS, told, [stats], threads=threads)
    told = group.fold_fields(
        parts, batch, grid.pixels, stats, norm, multiply, add, records=wanted, activation=activation, flip=flip
    )
    run(kernels.fold, group.FOLD_WORDS, told, [multiply, add, records], threads=threads)
    told = group.apply_fields(
        parts,
        (batch, height, width),
        multiply,
        add,
        output,
        output.strides[2],
        scratch,
        output_channels=output.shape[3],
        border=border,
        wrap=wrap,
        lines=lines,
        records=wanted,
        activation=activation,
        flip=flip,
    )
    run(kernels.apply, group.APPLY_WORDS, told, [output, scratch], threads=threads)
    return records


def rows_norm(
    kernel: Kernel,
    sources: Sequence[Array],
    norm: tuple[Array, Array, float] | None,
    output: Array,
    *,
    flip: int = 0,
    threads: int | None = None,
) -> NDArray[np.void]:
    """Layer norm (gamma, beta, eps), or None, of rows `[rows, channels]` side by side into output `[rows, channels]`.

    `output` is float32 or uint8; channels beyond the input's are filled. Returns the rows' records (of u8 output).
    """
    records = np.zeros(len(output), RECORD)
    scratch = np.empty((threads or pool.default_threads(), row.SCRATCH_BYTES), np.uint8)
    gamma, beta, eps = norm or (0, 0, 0.0)
    told = row.rows_fields(
        [Source.of(x) for x in sources],
        len(output),
        output,
        output.strides[0],
        scratch,
        output_channels=output.shape[1],
        gamma=gamma,
        beta=beta,
        eps=eps,
        records=records if output.dtype == np.uint8 else 0,
        flip=flip,
    )
    run(kernel, row.WORDS, told, [output, records, scratch], threads=threads)
    return records
