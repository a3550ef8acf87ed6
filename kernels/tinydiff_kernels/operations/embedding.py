"""From numbers and token ids to vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.handles import EmbeddingWeight
from tinydiff_kernels.operations.base import Operation
from tinydiff_kernels.rows import Array, Grid


@dataclass(frozen=True, eq=False)
class TimestepEmbedding(Operation):
    """Sinusoids of a timestep (arXiv:2006.11239, after the positions of arXiv:1706.03762).

    `timesteps` `[B, n]`; each becomes `dim` numbers, laid side by side: `[B, n * dim]`. Frequencies are
    10000^(-i / (dim/2 - freq_shift)); sines first, cosines first with `flip_sin_to_cos`.
    """

    timesteps: Array
    dim: int
    flip_sin_to_cos: bool
    freq_shift: float

    def __post_init__(self) -> None:
        self.need(self.timesteps.ndim == 2, "timesteps must be [batch, n]")
        self.need(self.dim >= 1, "an embedding needs at least one number")

    @property
    def grid(self) -> Grid:
        return Grid(self.timesteps.shape[0], 1, 1)

    @property
    def channels(self) -> int:
        return int(self.timesteps.shape[1]) * self.dim


@dataclass(frozen=True, eq=False)
class Embed(Operation):
    """Token vectors plus position vectors; ids `[B, T]`.

    `appended` `[n, C]` continues the token table (textual inversion): id = entries + i is its row i.
    """

    ids: NDArray[np.int64]
    tokens: EmbeddingWeight
    positions: EmbeddingWeight
    appended: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        self.need(self.positions.channels == self.channels, "token and position vectors differ in width")
        if self.appended is not None:
            fits = self.appended.ndim == 2 and self.appended.shape[1] == self.channels
            self.need(fits, f"appended vectors must be [n, {self.channels}]")
        extra = 0 if self.appended is None else self.appended.shape[0]
        self.need(self.ids.ndim == 2, "ids must be [batch, tokens]")
        self.need(
            self.ids.shape[1] <= self.positions.entries,
            f"{self.ids.shape[1]} tokens, {self.positions.entries} positions",
        )
        inside = self.ids.size == 0 or (self.ids.min() >= 0 and self.ids.max() < self.tokens.entries + extra)
        self.need(bool(inside), f"token ids must be 0..{self.tokens.entries + extra - 1}")

    @property
    def grid(self) -> Grid:
        return Grid(self.ids.shape[0], 1, self.ids.shape[1])

    @property
    def channels(self) -> int:
        return self.tokens.channels
