"""Group norm and layer norm against the formula in float64, one group at a time."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tinydiff_kernels.ref import norm
from tinydiff_kernels.rows import Grid

EPS = 1e-5


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = values.ravel()
    mean = flat.sum() / flat.size
    return (values - mean) / np.sqrt(((flat - mean) ** 2).sum() / flat.size + EPS)


GRIDS = [Grid(1, 1, 1), Grid(3, 1, 1), Grid(2, 3, 5), Grid(1, 1, 7)]


@pytest.mark.parametrize("channels_groups", [(6, 1), (6, 2), (6, 6), (1, 1)])
@pytest.mark.parametrize("grid", GRIDS)
def test_group_norm(grid: Grid, channels_groups: tuple[int, int]) -> None:
    channels, groups = channels_groups
    x, weight, bias = normal(grid.rows, channels) + 3, normal(channels), normal(channels + 1)[1:]
    wanted = np.zeros((grid.rows, channels))
    width = channels // groups
    for image in range(grid.batch):
        rows = slice(image * grid.pixels, (image + 1) * grid.pixels)
        for group in range(groups):
            part = slice(group * width, (group + 1) * width)
            wanted[rows, part] = standardised(x[rows, part].astype(np.float64)) * weight[part] + bias[part]
    y = norm.group_norm(x, grid, weight, bias, groups, EPS)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 9), (5, 24)])
def test_layer_norm(shape: tuple[int, int]) -> None:
    x, weight, bias = normal(*shape) * 5 - 2, normal(shape[1]), normal(shape[1] + 1)[1:]
    wanted = np.array([standardised(row) for row in x.astype(np.float64)]) * weight + bias
    y = norm.layer_norm(x, weight, bias, EPS)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("offset", [1e3, -1e4])
def test_statistics_survive_an_offset(offset: float) -> None:
    """Naive float32 sums of squares would lose the variance here."""
    x = normal(4096, 8) + np.float32(offset)
    wanted = standardised(x.astype(np.float64))
    y = norm.group_norm(x, Grid(1, 64, 64), np.ones(8, np.float32), np.zeros(8, np.float32), 1, EPS)
    np.testing.assert_allclose(y, wanted, atol=1e-6 * abs(offset))
    assert abs(float(y.mean(dtype=np.float64))) < 1e-6 * abs(offset)
    assert abs(float(y.std(dtype=np.float64)) - 1) < 1e-4


def test_constant_input_gives_the_bias() -> None:
    x, bias = np.full((6, 4), 7.25, np.float32), normal(4)
    assert np.array_equal(norm.group_norm(x, Grid(2, 1, 3), normal(4), bias, 2, EPS), np.tile(bias, (6, 1)))
    assert np.array_equal(norm.layer_norm(x, normal(4), bias, EPS), np.tile(bias, (6, 1)))


def test_float64_stays_float64() -> None:
    x = normal(6, 4).astype(np.float64)
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    y = norm.group_norm(x, Grid(1, 2, 3), ones, zeros, 1, EPS)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, standardised(x), rtol=1e-13, atol=1e-14)
    assert norm.layer_norm(x, ones, zeros, EPS).dtype == np.float64
