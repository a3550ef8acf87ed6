"""Where the micro-kernel finds its rows: byte offsets of output rows and taps for every kind of layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.matmul.descriptor import as_offsets, padded_offsets
from tinydiff_kernels.rows import Grid

Int64 = NDArray[np.int64]
PARITIES = ((0, 0), (0, 1), (1, 0), (1, 1))  # of the output pixels of nearest-2x upsampling: row, column


@dataclass(frozen=True, eq=False)
class Geometry:
    """Byte offsets of one call, and how many output rows follow each other in an image. Tables of large pictures take
    megabytes, so that calls share those that are alike."""

    rows: Int64  # into A, padded to whole tiles
    taps: Int64
    output_rows: Int64  # into C
    pixels: int

    @property
    def count(self) -> int:
        return len(self.output_rows)


@lru_cache(maxsize=512)
def image_offsets(count: int, pixels: int, stride: int) -> Int64:
    """Byte offsets of each of `count` output rows' image in a table with a row for each image."""
    return np.arange(count, dtype=np.int64) // pixels * stride


@lru_cache(maxsize=512)
def row_offsets(count: int, stride: int) -> Int64:
    """Byte offsets of rows that follow each other."""
    return np.arange(count, dtype=np.int64) * stride


@lru_cache(maxsize=512)
def linear_geometry(grid: Grid, input_stride: int, output_stride: int) -> Geometry:
    """One tap; strides are bytes from row to row."""
    rows = padded_offsets(np.arange(grid.rows, dtype=np.int64) * input_stride)
    return Geometry(rows, as_offsets([0]), row_offsets(grid.rows, output_stride), max(grid.pixels, 1))


@lru_cache(maxsize=512)
def conv_geometry(
    padded: Grid, pixel: int, output: Grid, output_stride: int, size: tuple[int, int], stride: int
) -> Geometry:
    """Taps of a `size` (kh, kw) kernel on an image with its border (`padded`), `pixel` bytes from pixel to pixel."""
    batch, height, width = (np.arange(n, dtype=np.int64) for n in output)
    corners = (batch[:, None, None] * padded.height + stride * height[:, None]) * padded.width + stride * width
    taps = np.arange(size[0])[:, None] * padded.width + np.arange(size[1])
    return Geometry(
        padded_offsets(corners.ravel() * pixel),
        as_offsets(taps.ravel() * pixel),
        row_offsets(output.rows, output_stride),
        max(output.pixels, 1),
    )


@lru_cache(maxsize=512)
def upsample_geometry(small: Grid, pixel: int, output_stride: int, parity: tuple[int, int]) -> Geometry:
    """One of the four classes of output pixels of nearest-2x upsampling and a 3x3 convolution.

    Pixel (2y + a, 2x + b) of the output, parity (a, b), sees a 2x2 neighbourhood of the small image: rows y + a - 1 and
    y + a, columns x + b - 1 and x + b. `small` has a border of one pixel on every side of its image.
    """
    batch, height, width = small.batch, small.height - 2, small.width - 2
    a, b = parity
    n, y, x = (np.arange(count, dtype=np.int64) for count in (batch, height, width))
    corners = (n[:, None, None] * small.height + y[:, None] + a) * small.width + x + b
    outputs = (n[:, None, None] * 2 * height + 2 * y[:, None] + a) * 2 * width + 2 * x + b
    taps = np.arange(2)[:, None] * small.width + np.arange(2)
    return Geometry(
        padded_offsets(corners.ravel() * pixel),
        as_offsets(taps.ravel() * pixel),
        as_offsets(outputs.ravel() * output_stride),
        max(height * width, 1),
    )


def upsample_weights(weight: NDArray[np.float32], parity: tuple[int, int]) -> NDArray[np.float32]:
    """`[out, in, 3, 3]` -> `[out, in, 2, 2]`: taps of the large image that fall on one pixel of the small one, summed.

    Even outputs see small pixels (y - 1, y, y) through their three taps, odd ones (y, y, y + 1).
    """
    a, b = parity
    tall = np.stack([weight[:, :, 0], weight[:, :, 1] + weight[:, :, 2]], 2)
    if a:
        tall = np.stack([weight[:, :, 0] + weight[:, :, 1], weight[:, :, 2]], 2)
    left, middle, right = (tall[..., i] for i in range(3))
    pair = (left + middle, right) if b else (left, middle + right)
    return np.ascontiguousarray(np.stack(pair, 3))


def forget_geometry() -> None:
    """Give the memory of geometries back that no program uses."""
    for kept in (image_offsets, row_offsets, linear_geometry, conv_geometry, upsample_geometry):
        kept.cache_clear()
