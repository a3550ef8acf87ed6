"""Calls of the indirect matmul whose bits must be the same everywhere. Imports no Numba: emulated ARM runs it too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinydiff_kernels.matmul import call, descriptor, packing
from tinydiff_kernels.rows import Grid


def numbers(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def results(kernel: Callable[[int, int, int], None]) -> Iterator[Any]:
    """A linear layer with each epilogue, then a convolution, on three threads."""
    x, weight, residual = numbers(1, 53, 40), numbers(2, 37, 40), numbers(3, 53, 37)
    packed, table = packing.pack_f32(weight), packing.pad_table(numbers(4, 2, 37))
    for activation in descriptor.ACTIVATIONS:
        options: dict[str, Any] = {"residual": residual, "activation": activation, "threads": 3}
        yield call.linear(kernel, x, packed, 37, table, **options)
    image, kernel_weight = numbers(5, 2 * 9 * 7, 12), numbers(6, 20, 12, 3, 3)
    yield call.conv(
        kernel,
        image,
        Grid(2, 9, 7),
        packing.pack_f32(kernel_weight),
        20,
        (3, 3),
        packing.pad_table(numbers(7, 1, 20)),
        stride=2,
    )
