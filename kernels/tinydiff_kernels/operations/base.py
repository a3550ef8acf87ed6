"""What every description has: the shape of its result, its operands, and checks that name the layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

from tinydiff_kernels.handles import ConvWeight, LinearWeight, NormWeight, Weight
from tinydiff_kernels.rows import Grid, Rows, ShapeError

Activation = Literal["silu", "gelu", "quick_gelu", "relu", "soft_clip"]
Border = Literal["zero", "circular"]
Padding = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True, eq=False)
class Operation:
    """Base of all descriptions. `grid` and `channels` are those of the result."""

    @property
    def grid(self) -> Grid:
        raise NotImplementedError

    @property
    def channels(self) -> int:
        raise NotImplementedError

    @property
    def macs(self) -> int:
        """Multiply-accumulates of matmul kind (the rest is memory traffic)."""
        return 0

    @property
    def kind(self) -> str:
        return type(self).__name__

    def inputs(self) -> Iterator[Rows]:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Rows):
                yield value

    def weights(self) -> Iterator[Weight]:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Weight):
                yield value

    def need(self, condition: bool, message: str) -> None:
        """Raise ShapeError, naming operation and layer, unless the condition holds."""
        if not condition:
            names = ", ".join(w.name for w in self.weights())
            raise ShapeError(f"{self.kind}({names}): {message}")

    def need_shape(self, what: str, x: Rows | None, grid: Grid, channels: int) -> None:
        """An optional operand must have this shape."""
        if x is not None and (x.channels != channels or x.grid != grid):
            self.need(False, f"{what} is {x.grid}x{x.channels}, not {grid}x{channels}")


@dataclass(frozen=True, eq=False)
class SameShape(Operation):
    """An operation whose result has the shape of its input."""

    x: Rows

    @property
    def grid(self) -> Grid:
        return self.x.grid

    @property
    def channels(self) -> int:
        return self.x.channels


@dataclass(frozen=True, eq=False)
class Normalise(SameShape):
    """A norm with learned scale and shift per channel."""

    weight: NormWeight

    def __post_init__(self) -> None:
        self.need(self.x.channels == self.weight.channels, f"{self.x.channels} channels into {self.weight.channels}")


@dataclass(frozen=True, eq=False)
class Matmul(Operation):
    """An operation that multiplies its input with a weight of (inputs, outputs), adapters included."""

    x: Rows
    weight: LinearWeight | ConvWeight

    def __post_init__(self) -> None:
        weight = self.weight
        self.need(self.x.channels == weight.inputs, f"{self.x.channels} channels into {weight.inputs}")
        kernel = weight.kernel if isinstance(weight, ConvWeight) else ()
        for a in weight.adapters:
            rank = a.up.shape[-1]
            shapes = (rank, weight.inputs, *kernel), (weight.outputs, rank)
            self.need((a.down.shape, a.up.shape) == shapes, f"adapter is {a.down.shape}, {a.up.shape}, not {shapes}")

    @property
    def grid(self) -> Grid:
        return self.x.grid

    @property
    def channels(self) -> int:
        return self.weight.outputs

    @property
    def macs(self) -> int:
        return self.grid.rows * self.weight.inputs * self.weight.outputs
