"""What costs memory traffic only: sums, concatenation, single activations, picking rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.operations.base import Activation, Operation, SameShape
from tinydiff_kernels.rows import Grid, Rows


@dataclass(frozen=True, eq=False)
class Add(SameShape):
    """x + scale * y."""

    y: Rows
    scale: float = 1.0

    def __post_init__(self) -> None:
        same = (self.x.grid, self.x.channels) == (self.y.grid, self.y.channels)
        self.need(same, f"{self.x.grid}x{self.x.channels} and {self.y.grid}x{self.y.channels} differ")


@dataclass(frozen=True, eq=False)
class Concat(Operation):
    """Channels of x followed by those of y (the skip connections of a UNet)."""

    x: Rows
    y: Rows

    def __post_init__(self) -> None:
        self.need(self.x.grid == self.y.grid, f"grids {self.x.grid} and {self.y.grid} differ")

    @property
    def grid(self) -> Grid:
        return self.x.grid

    @property
    def channels(self) -> int:
        return self.x.channels + self.y.channels


@dataclass(frozen=True, eq=False)
class Activate(SameShape):
    """An activation on its own, where nothing precedes it that could carry it as an epilogue."""

    activation: Activation


@dataclass(frozen=True, eq=False)
class Affine(SameShape):
    """x * scale + shift with two numbers (TAESD's ranges)."""

    scale: float
    shift: float


@dataclass(frozen=True, eq=False)
class TakeRow(Operation):
    """One row of each image: `index` `[B]` (CLIP's pooled output is the row of the end token)."""

    x: Rows
    index: NDArray[np.int64]

    def __post_init__(self) -> None:
        fits = self.index.shape == (self.x.grid.batch,)
        fits = fits and bool(((self.index >= 0) & (self.index < self.x.grid.pixels)).all())
        self.need(fits, "index must be one row number per image")

    @property
    def grid(self) -> Grid:
        return Grid(self.x.grid.batch, 1, 1)

    @property
    def channels(self) -> int:
        return self.x.channels
