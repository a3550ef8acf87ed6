"""Normalisation."""

from __future__ import annotations

from dataclasses import dataclass

from tinydiff_kernels.operations.base import Activation, Normalise
from tinydiff_kernels.rows import Grid, Rows


@dataclass(frozen=True, eq=False)
class GroupNorm(Normalise):
    """Group norm over each image's group of channels (Wu & He 2018, arXiv:1803.08494), then activation.

    `scale_shift` `[B, 2C]` (one row per image) applies x * (1 + scale) + shift before the activation.
    """

    groups: int
    eps: float
    activation: Activation | None = None
    scale_shift: Rows | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.groups > 0 and self.channels % self.groups == 0, f"{self.groups} groups do not divide")
        self.need_shape("scale_shift", self.scale_shift, Grid(self.grid.batch, 1, 1), 2 * self.channels)


@dataclass(frozen=True, eq=False)
class LayerNorm(Normalise):
    """Layer norm of every row (Ba et al. 2016, arXiv:1607.06450)."""

    eps: float
