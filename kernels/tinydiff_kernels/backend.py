"""What a network sees of a backend: one method per operation, one hook before and after each.

A backend implements `execute(op)` only. Observers see every operation: the cancel token, the watchdog for NaN
and the profiler are observers, so no backend and no model knows them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels import operations as op
from tinydiff_kernels.handles import ConvWeight, EmbeddingWeight, LinearWeight, NormWeight
from tinydiff_kernels.rows import Array, Rows

SAME: op.Padding = (1, 1, 1, 1)


class Observer(Protocol):
    """Called around every operation; either call may raise to stop the work."""

    def before(self, operation: op.Operation) -> None: ...

    def after(self, operation: op.Operation, result: Rows) -> None: ...


class Backend(ABC):
    """Runs described operations. Docstrings of the descriptions hold the mathematics."""

    name: str

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self.observers = list(observers)

    @abstractmethod
    def execute(self, operation: op.Operation) -> Rows:
        """The result of one operation."""

    def run(self, operation: op.Operation) -> Rows:
        for observer in self.observers:
            observer.before(operation)
        result = self.execute(operation)
        for observer in self.observers:
            observer.after(operation, result)
        return result

    def linear(
        self,
        x: Rows,
        weight: LinearWeight,
        *,
        table: Rows | None = None,
        residual: Rows | None = None,
        activation: op.Activation | None = None,
    ) -> Rows:
        return self.run(op.Linear(x, weight, table, residual, activation))

    def geglu(self, x: Rows, weight: LinearWeight) -> Rows:
        return self.run(op.Geglu(x, weight))

    def conv(
        self,
        x: Rows,
        weight: ConvWeight,
        *,
        stride: int = 1,
        padding: op.Padding = SAME,
        upsample_to: tuple[int, int] | None = None,
        border: op.Border = "zero",
        table: Rows | None = None,
        residual: Rows | None = None,
        activation: op.Activation | None = None,
    ) -> Rows:
        return self.run(op.Conv(x, weight, stride, padding, upsample_to, border, table, residual, activation))

    def group_norm(
        self,
        x: Rows,
        weight: NormWeight,
        groups: int,
        eps: float,
        *,
        activation: op.Activation | None = None,
        scale_shift: Rows | None = None,
    ) -> Rows:
        return self.run(op.GroupNorm(x, weight, groups, eps, activation, scale_shift))

    def layer_norm(self, x: Rows, weight: NormWeight, eps: float) -> Rows:
        return self.run(op.LayerNorm(x, weight, eps))

    def attention(
        self,
        q: Rows,
        k: Rows,
        v: Rows,
        heads: int,
        *,
        causal: bool = False,
        lengths: NDArray[np.int64] | None = None,
    ) -> Rows:
        return self.run(op.Attention(q, k, v, heads, causal, lengths))

    def add(self, x: Rows, y: Rows, scale: float = 1.0) -> Rows:
        return self.run(op.Add(x, y, scale))

    def concat(self, x: Rows, y: Rows) -> Rows:
        return self.run(op.Concat(x, y))

    def activate(self, x: Rows, activation: op.Activation) -> Rows:
        return self.run(op.Activate(x, activation))

    def affine(self, x: Rows, scale: float, shift: float) -> Rows:
        return self.run(op.Affine(x, scale, shift))

    def timestep_embedding(self, timesteps: Array, dim: int, *, flip_sin_to_cos: bool, freq_shift: float) -> Rows:
        return self.run(op.TimestepEmbedding(timesteps, dim, flip_sin_to_cos, freq_shift))

    def embed(
        self,
        ids: NDArray[np.int64],
        tokens: EmbeddingWeight,
        positions: EmbeddingWeight,
        appended: NDArray[np.float32] | None = None,
    ) -> Rows:
        return self.run(op.Embed(ids, tokens, positions, appended))

    def take_row(self, x: Rows, index: NDArray[np.int64]) -> Rows:
        return self.run(op.TakeRow(x, index))
