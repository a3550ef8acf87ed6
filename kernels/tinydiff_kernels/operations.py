"""The small set of operations every network is written against, as descriptions.

A description holds its operands and knows the shape of its result; constructing one checks that the operands
fit, before any kernel touches memory. Backends (`reference.py`, `plan.py`) give it values.

    model ── backend.conv(x, weight, ...) ── Conv(...) described and checked ── backend.execute(op) ── Rows

Epilogues share one order: activation(op(x) + bias + table + residual), where `table` holds one row per image
(the time embedding) and `residual` one row per output row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.handles import ConvWeight, EmbeddingWeight, LinearWeight, NormWeight, Weight
from tinydiff_kernels.rows import Array, Grid, Rows, ShapeError

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


def _need(condition: bool, op: Operation, message: str) -> None:
    if not condition:
        names = ", ".join(w.name for w in op.weights())
        raise ShapeError(f"{op.kind}({names}): {message}")


def _check_adapters(op: Operation, weight: LinearWeight | ConvWeight) -> None:
    kernel = weight.kernel if isinstance(weight, ConvWeight) else ()
    for a in weight.adapters:
        rank = a.up.shape[-1]
        shapes = (rank, weight.inputs, *kernel), (weight.outputs, rank)
        _need((a.down.shape, a.up.shape) == shapes, op, f"adapter is {a.down.shape}, {a.up.shape}, not {shapes}")


def _check_epilogue(op: Operation, table: Rows | None, residual: Rows | None) -> None:
    if table is not None:
        wanted = (Grid(op.grid.batch, 1, 1), op.channels)
        _need(
            (table.grid, table.channels) == wanted,
            op,
            f"table is {table.grid}x{table.channels}, not {wanted}",
        )
    if residual is not None:
        wanted = (op.grid, op.channels)
        _need((residual.grid, residual.channels) == wanted, op, f"residual is not {wanted}")


@dataclass(frozen=True, eq=False)
class Linear(Operation):
    """y = x @ weight.T + bias, row by row: linear layers and 1x1 convolutions."""

    x: Rows
    weight: LinearWeight
    table: Rows | None = None
    residual: Rows | None = None
    activation: Activation | None = None

    def __post_init__(self) -> None:
        _need(
            self.x.channels == self.weight.inputs,
            self,
            f"{self.x.channels} channels into {self.weight.inputs}",
        )
        _check_adapters(self, self.weight)
        _check_epilogue(self, self.table, self.residual)

    @property
    def grid(self) -> Grid:
        return self.x.grid

    @property
    def channels(self) -> int:
        return self.weight.outputs

    @property
    def macs(self) -> int:
        return self.grid.rows * self.weight.inputs * self.weight.outputs


@dataclass(frozen=True, eq=False)
class Geglu(Operation):
    """value * gelu(gate), where [value, gate] = x @ weight.T + bias (Shazeer 2020, arXiv:2002.05202).

    One operation, so that a kernel never has to write the wide intermediate whole.
    """

    x: Rows
    weight: LinearWeight

    def __post_init__(self) -> None:
        _need(
            self.x.channels == self.weight.inputs,
            self,
            f"{self.x.channels} channels into {self.weight.inputs}",
        )
        _check_adapters(self, self.weight)
        _need(self.weight.outputs % 2 == 0, self, "an odd number of outputs cannot be split")

    @property
    def grid(self) -> Grid:
        return self.x.grid

    @property
    def channels(self) -> int:
        return self.weight.outputs // 2

    @property
    def macs(self) -> int:
        return self.grid.rows * self.weight.inputs * self.weight.outputs


@dataclass(frozen=True, eq=False)
class Conv(Operation):
    """2-D convolution; with `upsample_to`, of the input enlarged to (height, width) by nearest neighbour."""

    x: Rows
    weight: ConvWeight
    stride: int = 1
    padding: Padding = (1, 1, 1, 1)
    upsample_to: tuple[int, int] | None = None
    border: Border = "zero"
    table: Rows | None = None
    residual: Rows | None = None
    activation: Activation | None = None

    def __post_init__(self) -> None:
        _need(
            self.x.channels == self.weight.inputs,
            self,
            f"{self.x.channels} channels into {self.weight.inputs}",
        )
        _check_adapters(self, self.weight)
        _need(self.stride >= 1 and min(self.padding) >= 0, self, "stride below 1 or negative padding")
        _need(min(self.size) >= 1, self, "cannot enlarge to an empty image")
        _need(min(self.grid.height, self.grid.width) >= 1, self, "image smaller than the kernel")
        wraps = max(self.padding[:2]) <= self.size[0] and max(self.padding[2:]) <= self.size[1]
        _need(self.border == "zero" or wraps, self, "circular border wider than the image")
        _check_epilogue(self, self.table, self.residual)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image the taps read, without its border."""
        return self.upsample_to or (self.x.grid.height, self.x.grid.width)

    @property
    def grid(self) -> Grid:
        (height, width), (kernel_h, kernel_w) = self.size, self.weight.kernel
        top, bottom, left, right = self.padding
        return Grid(
            self.x.grid.batch,
            (height + top + bottom - kernel_h) // self.stride + 1,
            (width + left + right - kernel_w) // self.stride + 1,
        )

    @property
    def channels(self) -> int:
        return self.weight.outputs

    @property
    def macs(self) -> int:
        kernel_h, kernel_w = self.weight.kernel
        return self.grid.rows * self.weight.inputs * self.weight.outputs * kernel_h * kernel_w


@dataclass(frozen=True, eq=False)
class _SameShape(Operation):
    x: Rows

    @property
    def grid(self) -> Grid:
        return self.x.grid

    @property
    def channels(self) -> int:
        return self.x.channels


@dataclass(frozen=True, eq=False)
class GroupNorm(_SameShape):
    """Group norm over each image's group of channels (Wu & He 2018, arXiv:1803.08494), then activation.

    `scale_shift` `[B, 2C]` (one row per image) applies x * (1 + scale) + shift before the activation.
    """

    weight: NormWeight
    groups: int
    eps: float
    activation: Activation | None = None
    scale_shift: Rows | None = None

    def __post_init__(self) -> None:
        _need(
            self.x.channels == self.weight.channels,
            self,
            f"{self.x.channels} channels into {self.weight.channels}",
        )
        _need(
            self.groups > 0 and self.x.channels % self.groups == 0,
            self,
            f"{self.groups} groups do not divide",
        )
        if self.scale_shift is not None:
            wanted = (Grid(self.grid.batch, 1, 1), 2 * self.channels)
            _need(
                (self.scale_shift.grid, self.scale_shift.channels) == wanted,
                self,
                f"scale_shift is not {wanted}",
            )


@dataclass(frozen=True, eq=False)
class LayerNorm(_SameShape):
    """Layer norm of every row (Ba et al. 2016, arXiv:1607.06450)."""

    weight: NormWeight
    eps: float

    def __post_init__(self) -> None:
        _need(
            self.x.channels == self.weight.channels,
            self,
            f"{self.x.channels} channels into {self.weight.channels}",
        )


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
        _need(self.heads > 0 and self.q.channels % self.heads == 0, self, f"{self.heads} heads do not divide")
        _need(self.k.channels == self.q.channels, self, "queries and keys differ in width")
        _need(self.v.channels % self.heads == 0, self, f"{self.heads} heads do not divide the values")
        _need(self.k.grid == self.v.grid, self, "keys and values differ in number")
        _need(self.k.grid.batch == self.q.grid.batch, self, "queries and keys differ in batch")
        _need(self.k.grid.pixels >= 1, self, "there are no keys")
        if self.causal:
            _need(
                self.k.grid.pixels == self.q.grid.pixels,
                self,
                "causal attention needs as many keys as queries",
            )
        if self.lengths is not None:
            fits = self.lengths.shape == (self.q.grid.batch,)
            fits = fits and bool(((self.lengths > 0) & (self.lengths <= self.k.grid.pixels)).all())
            _need(fits, self, "lengths must be one number per image, from 1 to the number of keys")

    @property
    def grid(self) -> Grid:
        return self.q.grid

    @property
    def channels(self) -> int:
        return self.v.channels

    @property
    def macs(self) -> int:
        return self.q.grid.rows * self.k.grid.pixels * (self.q.channels + self.v.channels)


@dataclass(frozen=True, eq=False)
class Add(_SameShape):
    """x + scale * y."""

    y: Rows
    scale: float = 1.0

    def __post_init__(self) -> None:
        same = (self.x.grid, self.x.channels) == (self.y.grid, self.y.channels)
        _need(same, self, f"{self.x.grid}x{self.x.channels} and {self.y.grid}x{self.y.channels} differ")


@dataclass(frozen=True, eq=False)
class Concat(Operation):
    """Channels of x followed by those of y (the skip connections of a UNet)."""

    x: Rows
    y: Rows

    def __post_init__(self) -> None:
        _need(self.x.grid == self.y.grid, self, f"grids {self.x.grid} and {self.y.grid} differ")

    @property
    def grid(self) -> Grid:
        return self.x.grid

    @property
    def channels(self) -> int:
        return self.x.channels + self.y.channels


@dataclass(frozen=True, eq=False)
class Activate(_SameShape):
    """An activation on its own, where nothing precedes it that could carry it as an epilogue."""

    activation: Activation


@dataclass(frozen=True, eq=False)
class Affine(_SameShape):
    """x * scale + shift with two numbers (TAESD's ranges)."""

    scale: float
    shift: float


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
        _need(self.timesteps.ndim == 2, self, "timesteps must be [batch, n]")
        _need(self.dim >= 1, self, "an embedding needs at least one number")

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
        _need(self.positions.channels == self.channels, self, "token and position vectors differ in width")
        if self.appended is not None:
            fits = self.appended.ndim == 2 and self.appended.shape[1] == self.channels
            _need(fits, self, f"appended vectors must be [n, {self.channels}]")
        extra = 0 if self.appended is None else self.appended.shape[0]
        _need(self.ids.ndim == 2, self, "ids must be [batch, tokens]")
        _need(
            self.ids.shape[1] <= self.positions.entries,
            self,
            f"{self.ids.shape[1]} tokens, {self.positions.entries} positions",
        )
        inside = self.ids.size == 0 or (self.ids.min() >= 0 and self.ids.max() < self.tokens.entries + extra)
        _need(bool(inside), self, f"token ids must be 0..{self.tokens.entries + extra - 1}")

    @property
    def grid(self) -> Grid:
        return Grid(self.ids.shape[0], 1, self.ids.shape[1])

    @property
    def channels(self) -> int:
        return self.tokens.channels


@dataclass(frozen=True, eq=False)
class TakeRow(Operation):
    """One row of each image: `index` `[B]` (CLIP's pooled output is the row of the end token)."""

    x: Rows
    index: NDArray[np.int64]

    def __post_init__(self) -> None:
        fits = self.index.shape == (self.x.grid.batch,)
        fits = fits and bool(((self.index >= 0) & (self.index < self.x.grid.pixels)).all())
        _need(fits, self, "index must be one row number per image")

    @property
    def grid(self) -> Grid:
        return Grid(self.x.grid.batch, 1, 1)

    @property
    def channels(self) -> int:
        return self.x.channels
