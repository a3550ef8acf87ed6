"""Convolution and nearest-neighbour enlargement against loops over every pixel, tap and channel."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tinydiff_kernels.handles import LowRank
from tinydiff_kernels.ref import conv
from tinydiff_kernels.rows import Grid, nchw_from_rows, rows_from_nchw


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def naive(image: Any, weight: Any, bias: Any, stride: int, padding: Any, border: str) -> NDArray[np.float64]:
    """image `[B, C, H, W]` -> `[B, O, H', W']`, with an explicit test for every tap."""
    batch, inputs, height, width = image.shape
    outputs, _, taps_y, taps_x = weight.shape
    top, bottom, left, right = padding
    out_h = (height + top + bottom - taps_y) // stride + 1
    out_w = (width + left + right - taps_x) // stride + 1
    y = np.zeros((batch, outputs, out_h, out_w))
    for b, o, i, j in np.ndindex(*y.shape):
        total = 0.0 if bias is None else float(bias[o])
        for p, q, c in np.ndindex(taps_y, taps_x, inputs):
            row, column = i * stride + p - top, j * stride + q - left
            if border == "circular":
                row, column = row % height, column % width
            if 0 <= row < height and 0 <= column < width:
                total += float(image[b, c, row, column]) * float(weight[o, c, p, q])
        y[b, o, i, j] = total
    return y


def ours(image: Any, weight: Any, bias: Any, stride: int, padding: Any, border: str, adapters: Any = ()) -> Any:
    rows = rows_from_nchw(image)
    y = conv.conv2d(rows.array, rows.grid, weight, bias, stride, padding, border, adapters)
    height = (image.shape[2] + padding[0] + padding[1] - weight.shape[2]) // stride + 1
    width = (image.shape[3] + padding[2] + padding[3] - weight.shape[3]) // stride + 1
    return y.reshape(len(image), height, width, -1).transpose(0, 3, 1, 2)


IMAGES = {"1 pixel": (1, 1), "1 row": (1, 5), "square": (4, 4), "wide": (3, 7), "tall, odd": (9, 2)}
PADDINGS = {"same": (1, 1, 1, 1), "below right": (0, 1, 0, 1), "uneven": (2, 0, 1, 3), "none": (0, 0, 0, 0)}


def possible(image: str, padding: str, border: str) -> bool:
    """What `operations.Conv` lets through; the others never reach a kernel (test_operations.py)."""
    (height, width), (top, bottom, left, right) = IMAGES[image], PADDINGS[padding]
    wraps = max(top, bottom) <= height and max(left, right) <= width
    return height + top + bottom >= 3 and width + left + right >= 3 and (wraps or border == "zero")


ALL = itertools.product(IMAGES, PADDINGS, (1, 2, 3), ("zero", "circular"))
CASES = [case for case in ALL if possible(case[0], case[1], case[3])]


@pytest.mark.parametrize(("image", "padding", "stride", "border"), CASES)
def test_conv(image: str, padding: str, stride: int, border: str) -> None:
    (height, width), sides = IMAGES[image], PADDINGS[padding]
    x, weight, bias = normal(2, 3, height, width), normal(4, 3, 3, 3), normal(4)
    wanted = naive(x, weight, bias, stride, sides, border)
    np.testing.assert_allclose(ours(x, weight, bias, stride, sides, border), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (5, 3), (2, 2)])
def test_other_kernels(kernel: tuple[int, int]) -> None:
    x, weight = normal(1, 2, 6, 5), normal(3, 2, *kernel)
    wanted = naive(x, weight, None, 1, (1, 1, 1, 1), "zero")
    np.testing.assert_allclose(ours(x, weight, None, 1, (1, 1, 1, 1), "zero"), wanted, rtol=1e-5, atol=1e-5)


def test_conv_works_in_the_precision_of_its_input() -> None:
    x, weight, bias = normal(1, 3, 5, 4).astype(np.float64), normal(2, 3, 3, 3), normal(2)
    y = ours(x, weight, bias, 1, (1, 1, 1, 1), "zero")
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, naive(x, weight, bias, 1, (1, 1, 1, 1), "zero"), rtol=1e-13, atol=1e-13)


def test_adapter() -> None:
    """down and up as one kernel: sum over the rank of up[o, r] * down[r]."""
    x, weight = normal(2, 3, 5, 4), normal(4, 3, 3, 3)
    down, up = normal(2, 3, 3, 3), normal(4, 2)
    merged = weight + 0.5 * np.einsum("or,rcpq->ocpq", up, down)
    y = ours(x, weight, None, 2, (0, 1, 0, 1), "circular", [LowRank(down, up, 0.5)])
    np.testing.assert_allclose(y, naive(x, merged, None, 2, (0, 1, 0, 1), "circular"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("old", "new"),
    [((1, 1), (2, 2)), ((1, 1), (1, 3)), ((2, 3), (4, 6)), ((5, 4), (9, 7)), ((3, 5), (5, 9)), ((4, 4), (4, 4))],
)
def test_upsample(old: tuple[int, int], new: tuple[int, int]) -> None:
    """Also to odd sizes, where the last pixel of the source is read once."""
    image = normal(2, 3, *old)
    rows = rows_from_nchw(image)
    y, grid = conv.upsample_nearest(rows.array, rows.grid, new)
    assert grid == Grid(2, *new)
    wanted = np.zeros((2, 3, *new), np.float32)
    for i, j in np.ndindex(*new):
        wanted[:, :, i, j] = image[:, :, int(i * old[0] / new[0]), int(j * old[1] / new[1])]
    assert np.array_equal(y.reshape(2, *new, 3).transpose(0, 3, 1, 2), wanted)


def test_rows_and_back() -> None:
    image = normal(2, 3, 4, 5)
    rows = rows_from_nchw(image)
    assert (rows.grid, rows.channels) == (Grid(2, 4, 5), 3)
    assert np.array_equal(rows.array[(1 * 4 + 2) * 5 + 3], image[1, :, 2, 3])
    assert np.array_equal(nchw_from_rows(rows), image)
