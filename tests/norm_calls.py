"""Calls of the norm and elementwise kernels whose bits must be the same everywhere. Imports no Numba: emulated ARM runs
them too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tinydiff_kernels.call import run
from tinydiff_kernels.elementwise import descriptor as elementwise
from tinydiff_kernels.norm import call, group
from tinydiff_kernels.rows import Grid

Kernel = Callable[[int, int, int], None]
NAMES = ("norm_stats", "norm_fold", "norm_apply", "rows_norm", "elementwise")
BORDER = (1, 2, 3, 1)


def numbers(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def group_kernels(kernels: Mapping[str, Kernel]) -> call.GroupKernels:
    return call.GroupKernels(kernels["norm_stats"], kernels["norm_fold"], kernels["norm_apply"])


def results(kernels: Mapping[str, Kernel], flip: int) -> Iterator[Any]:
    """Float32 arrays, and u8 ones with `flip` undone; odd shapes, three threads."""
    grid, channels = Grid(2, 13, 11), 50
    x = numbers(1, grid.rows, channels) * 3 + numbers(2, channels) * 5
    sources = [x[:, :19], x[:, 19:]]
    learned = group.Norm(5, numbers(3, channels), numbers(4, channels), 1e-5, numbers(5, 2, 2 * channels), 400)
    for norm, activation in ((learned, "silu"), (learned, "gelu"), (group.Norm(), None)):
        for dtype, width in ((np.float32, channels), (np.uint8, 56)):
            out = np.zeros((2, 13 + 3, 11 + 4, width), dtype)
            records = call.group_norm(
                group_kernels(kernels), sources, grid, norm, out, activation=activation, border=BORDER, flip=flip,
                threads=3,
            )  # fmt: skip
            yield from _plain(out, records, flip)
    for norm_of_rows in ((numbers(3, channels), numbers(4, channels), 1e-5), None):
        for dtype, width in ((np.float32, channels), (np.uint8, 56)):
            out = np.zeros((grid.rows, width), dtype)
            records = call.rows_norm(kernels["rows_norm"], sources, norm_of_rows, out, flip=flip, threads=3)
            yield from _plain(out, records, flip)
    yield from _elementwise(kernels["elementwise"])


def _plain(out: Any, records: Any, flip: int) -> Iterator[Any]:
    if out.dtype == np.uint8:
        yield records["scale"]
        yield records["zero"] + np.int32(flip)
        yield out ^ np.uint8(flip)
    else:
        yield out


def _elementwise(kernel: Kernel) -> Iterator[Any]:
    x, y, shape = numbers(6, 23, 37) * 3, numbers(7, 23, 37), (23, 37)
    for activation in ("silu", "gelu", "quick_gelu", "relu", "soft_clip"):
        out = np.zeros_like(x)
        told = elementwise.add_fields(shape, x, 148, y, 148, out, 148, scale=0.7, activation=activation)
        run(kernel, elementwise.WORDS, told, [out], threads=3)
        yield out
    out = np.zeros_like(x)
    run(kernel, elementwise.WORDS, elementwise.linear_fields(shape, x, 148, out, 148, scale=0.3, shift=2), [out])
    yield out
    steps, table = np.linspace(0, 999, 41).astype(np.float32), elementwise.frequencies(320, 0.0)
    out = np.zeros((41, 320), np.float32)
    told = elementwise.sinusoids_fields(41, 320, steps, table, out, 1280, cosines_first=True)
    run(kernel, elementwise.WORDS, told, [out], threads=3)
    yield out
    pixels = np.zeros(shape, np.uint8)
    run(kernel, elementwise.WORDS, elementwise.pixels_fields(shape, x, 148, pixels, 37), [pixels], threads=3)
    yield pixels
