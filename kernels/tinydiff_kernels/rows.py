"""Activations: `[rows, channels]` matrices, rows = pixels or tokens, channels last.

With channels last, attention needs no transpose, a 1x1 convolution is a matmul, and a 3x3 convolution is
a matmul with nine taps. NCHW exists only at the public edge (`rows_from_nchw`, `nchw_from_rows`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]  # float32, or float64 where the reference backend was asked for it


class ShapeError(ValueError):
    """Operands of an operation do not fit together. Raised before any kernel touches memory."""


class Grid(NamedTuple):
    """How rows are laid out: row = (image * height + y) * width + x. Tokens lie on a grid of height 1."""

    batch: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Rows that belong to one image."""
        return self.height * self.width

    @property
    def rows(self) -> int:
        return self.batch * self.height * self.width


class Maker(Protocol):
    """A backend that computes an activation when it is looked at."""

    def make(self, rows: Rows) -> Array:
        """The matrix of an activation that this backend returned."""


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Rows:
    """One activation: its grid, its channels, and the matrix.

    `data` is None while only planning, and until somebody asks where a backend computes on demand (`maker`).
    """

    grid: Grid
    channels: int
    data: Array | None = None
    maker: Maker | None = None

    @property
    def array(self) -> Array:
        """The matrix, `[grid.rows, channels]`."""
        if self.data is None and self.maker is not None:
            object.__setattr__(self, "data", self.maker.make(self))
        if self.data is None:
            raise ShapeError("this activation was planned, not computed: it has a shape but no values")
        return self.data


def rows_from_nchw(x: Array) -> Rows:
    """`[B, C, H, W]` -> Rows of grid (B, H, W) with C channels (copies)."""
    batch, channels, height, width = x.shape
    matrix = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(-1, channels)
    return Rows(Grid(batch, height, width), channels, matrix)


def nchw_from_rows(x: Rows) -> Array:
    """Rows -> `[B, C, H, W]` (copies)."""
    image = x.array.reshape(*x.grid, x.channels)
    return np.ascontiguousarray(image.transpose(0, 3, 1, 2))


def rows_from_tokens(x: Array) -> Rows:
    """`[B, T, C]` -> Rows of grid (B, 1, T); a view where the memory allows it."""
    batch, tokens, channels = x.shape
    return Rows(Grid(batch, 1, tokens), channels, np.ascontiguousarray(x).reshape(-1, channels))


def tokens_from_rows(x: Rows) -> Array:
    """Rows of grid (B, 1, T) -> `[B, T, C]` view."""
    return x.array.reshape(x.grid.batch, x.grid.pixels, x.channels)
