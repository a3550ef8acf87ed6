"""Calls of attention whose bits must be the same everywhere. Imports no Numba: emulated ARM runs it too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinydiff_kernels.attention import call, call_i8

SHAPES = [  # images, heads, queries, keys, width, value width
    (1, 1, 1, 1, 1, 1),
    (2, 2, 17, 7, 40, 40),
    (1, 2, 65, 97, 33, 34),
    (1, 1, 131, 211, 80, 80),
]


def numbers(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


def results(kernel: Callable[[int, int, int], None]) -> Iterator[Any]:
    """Self- and cross-attention, then causal with lengths, on three threads."""
    for images, heads, queries, keys, width, value_width in SHAPES:
        q, k = numbers(1, images * queries, heads * width), numbers(2, images * keys, heads * width)
        v = numbers(3, images * keys, heads * value_width)
        yield call.attention(kernel, q, k, v, images, heads, threads=3)
    q, k, v = (numbers(seed, 2 * 77, 3 * 16) for seed in (4, 5, 6))
    yield call.attention(kernel, q, k, v, 2, 3, causal=True, threads=3)
    yield call.attention(kernel, q, k, v, 2, 3, lengths=np.array([77, 20]), causal=True, threads=3)


def results_i8(keys: Callable[[int, int, int], None], kernel: Callable[[int, int, int], None]) -> Iterator[Any]:
    """Attention in 8-bit integers, on three threads."""
    for images, heads, queries, count, width, value_width in SHAPES:
        q, k = numbers(1, images * queries, heads * width), numbers(2, images * count, heads * width)
        v = numbers(3, images * count, heads * value_width)
        yield call_i8.attention(keys, kernel, q, k, v, images, heads, threads=3)
