"""Timestep sinusoids and token vectors, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinydiff_kernels.ref import embedding


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shift", [0, 1, 0.5])
@pytest.mark.parametrize("dim", [4, 7, 32, 320])
def test_timestep_embedding(dim: int, shift: float, flip: bool) -> None:
    steps = np.array([[0.0, 1.0], [17.25, 999.0]])
    y = embedding.timestep_embedding(steps, dim, flip, shift)
    assert (y.shape, y.dtype) == ((2, 2 * dim), np.float32)
    half = dim // 2
    for b, n in np.ndindex(2, 2):
        part = y[b, n * dim : (n + 1) * dim]
        for i in range(half):
            angle = steps[b, n] * 10000 ** (-i / (half - shift))
            first, second = (math.cos, math.sin) if flip else (math.sin, math.cos)
            assert abs(part[i] - first(angle)) < 2e-4  # 999 radians in float32: 6e-5 between neighbours
            assert abs(part[half + i] - second(angle)) < 2e-4
        assert (part[2 * half :] == 0).all()


def test_timestep_zero_is_exact() -> None:
    y = embedding.timestep_embedding(np.zeros((1, 1)), 6, True, 0)
    assert y.tolist() == [[1, 1, 1, 0, 0, 0]]


def test_embed() -> None:
    tokens, positions = np.arange(12, dtype=np.float32).reshape(4, 3), np.arange(15, dtype=np.float32).reshape(5, 3)
    ids = np.array([[3, 0], [2, 2]])
    y = embedding.embed(ids, tokens, positions * 100)
    wanted = [tokens[i] + 100 * positions[t] for row in ids for t, i in enumerate(row)]
    assert np.array_equal(y, wanted)


def test_appended_rows_continue_the_table() -> None:
    tokens, positions = np.ones((4, 3), np.float32), np.zeros((3, 3), np.float32)
    appended = np.array([[5, 6, 7], [8, 9, 10]], np.float32)
    y = embedding.embed(np.array([[4, 3, 5]]), tokens, positions, appended)
    assert y.tolist() == [[5, 6, 7], [1, 1, 1], [8, 9, 10]]
    assert (tokens == 1).all()
