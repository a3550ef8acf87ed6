"""Attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.operations.base import Operation
from tinydiff_kernels.rows import Grid, Rows


@dataclass(frozen=True, eq=False)
class Attention(Operation):
    """softmax(scale q k^T) v per image and head, scale = 1/sqrt(head width) (arXiv:1706.03762).

    q, k, v are `[B*T, heads*width]`. `lengths` `[B]`: only the first so many keys of an image count.
    `causal`: query i sees keys 0..i.
    """

    q: Rows
    k: Rows
    v: Rows
    heads: int
    causal: bool = False
    lengths: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        self.need(self.heads > 0 and self.q.channels % self.heads == 0, f"{self.heads} heads do not divide")
        self.need(self.k.channels == self.q.channels, "queries and keys differ in width")
        self.need(self.v.channels % self.heads == 0, f"{self.heads} heads do not divide the values")
        self.need(self.k.grid == self.v.grid, "keys and values differ in number")
        self.need(self.k.grid.batch == self.q.grid.batch, "queries and keys differ in batch")
        self.need(self.k.grid.pixels >= 1, "there are no keys")
        if self.causal:
            self.need(
                self.k.grid.pixels == self.q.grid.pixels,
                "causal attention needs as many keys as queries",
            )
        if self.lengths is not None:
            fits = self.lengths.shape == (self.q.grid.batch,)
            fits = fits and bool(((self.lengths > 0) & (self.lengths <= self.k.grid.pixels)).all())
            self.need(fits, "lengths must be one number per image, from 1 to the number of keys")

    @property
    def grid(self) -> Grid:
        return self.q.grid

    @property
    def channels(self) -> int:
        return self.v.channels

    @property
    def macs(self) -> int:
        return self.q.grid.rows * self.k.grid.pixels * (self.q.channels + self.v.channels)
