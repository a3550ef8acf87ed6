"""2-D convolution on `[rows, channels]`: a matmul for every tap of the kernel, summed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinydiff_kernels.handles import LowRank
from tinydiff_kernels.rows import Array, Grid


def upsample_nearest(x: Array, grid: Grid, size: tuple[int, int]) -> tuple[Array, Grid]:
    """Nearest neighbour to (height, width): source index = floor(i * old / new)."""
    height, width = size
    image = x.reshape(*grid, -1)
    rows = np.arange(height) * grid.height // height
    columns = np.arange(width) * grid.width // width
    enlarged = image[:, rows][:, :, columns]
    return enlarged.reshape(-1, x.shape[1]), Grid(grid.batch, height, width)


def conv2d(
    x: Array,
    grid: Grid,
    weight: Array,
    bias: Array | None,
    stride: int = 1,
    padding: tuple[int, int, int, int] = (1, 1, 1, 1),
    border: str = "zero",
    adapters: Sequence[LowRank] = (),
) -> Array:
    """x `[B*H*W, in]`, weight `[out, in, kh, kw]`, padding (top, bottom, left, right) -> `[B*H'*W', out]`.

    y[b, i, j] = bias + sum over taps p, q of x[b, i*stride + p - top, j*stride + q - left] @ weight[:, :, p, q].T
    where x is zero outside the image, or wraps around (`border="circular"`).
    """
    top, bottom, left, right = padding
    edges = ((0, 0), (top, bottom), (left, right), (0, 0))
    image = np.pad(x.reshape(*grid, -1), edges, mode="wrap" if border == "circular" else "constant")
    outputs, _, kernel_h, kernel_w = weight.shape
    height = (image.shape[1] - kernel_h) // stride + 1
    width = (image.shape[2] - kernel_w) // stride + 1
    y = np.zeros((grid.batch * height * width, outputs), x.dtype)
    if bias is not None:
        y += bias
    taps = np.ascontiguousarray(weight.transpose(2, 3, 1, 0), dtype=x.dtype)
    for p in range(kernel_h):
        for q in range(kernel_w):
            window = image[:, p : p + stride * (height - 1) + 1 : stride, q : q + stride * (width - 1) + 1 : stride]
            y += window.reshape(-1, x.shape[1]) @ taps[p, q]
    for a in adapters:
        reduced = conv2d(x, grid, a.down.astype(x.dtype), None, stride, padding, border)
        y += a.scale * (reduced @ a.up.T)
    return y
