"""Weight handles: all that a model knows of its weights.

A handle names tensors; dtype, packing, mapping and page dropping stay behind `Tensor`. A model holds handles
and passes them to operations, so the same network file runs on mapped fp16, on packed int4, or on no weights
at all (planning).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tinydiff_kernels.matmul.packing import Packed


class Tensor(Protocol):
    """A named tensor that may lie in a file; `float32()` converts it at the moment it is used."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def float32(self) -> NDArray[np.float32]: ...


@runtime_checkable
class SlicedTensor(Protocol):
    """A tensor some rows of which can be had alone. `raw`: what it is made of, as it lies in memory or in a file."""

    @property
    def raw(self) -> NDArray[Any]: ...

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """In float16 where they are halves, else in float32."""


@runtime_checkable
class PackedTensor(Protocol):
    """A weight that lies in its file as the kernels read it, and is used there, without a copy."""

    def packed(self, *, gated: bool, parity: tuple[int, int] | None) -> Packed | None:
        """For this use (see `PackedWeights.packed`); None where the file was not packed for it."""


@runtime_checkable
class PaddedTensor(Protocol):
    """A bias that lies in its file in whole panels."""

    def padded(self, *, gated: bool) -> NDArray[np.float32] | None:
        """For this use; None where the file was not packed for it."""


@runtime_checkable
class TableTensor(Protocol):
    """A table of vectors of which single rows are used: float32 or half, as it lies in its file."""

    def table(self) -> NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class LowRank:
    """An adapter beside a weight: y += scale * up(down(x)) (LoRA, Hu et al. 2021, arXiv:2106.09685).

    Linear: down `[r, in]`, up `[out, r]`. Convolution: down `[r, in, kh, kw]`, up `[out, r]`.
    """

    down: NDArray[np.float32]
    up: NDArray[np.float32]
    scale: float = 1.0


@dataclass(eq=False)
class MatmulWeight:
    """A weight `[out, in, ...]` with an optional bias `[out]`, and the adapters that hang on it."""

    name: str
    weight: Tensor
    bias: Tensor | None = None
    adapters: list[LowRank] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        return self.weight.shape[1]

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]


class LinearWeight(MatmulWeight):
    """y = x @ weight.T + bias; weight `[out, in]`."""


class ConvWeight(MatmulWeight):
    """A convolution: weight `[out, in, kh, kw]`."""

    @property
    def kernel(self) -> tuple[int, int]:
        return self.weight.shape[2], self.weight.shape[3]


@dataclass(frozen=True, eq=False)
class NormWeight:
    """Scale and shift of a group or layer norm, `[channels]` each."""

    name: str
    weight: Tensor
    bias: Tensor

    @property
    def channels(self) -> int:
        return self.weight.shape[0]


@dataclass(frozen=True, eq=False)
class EmbeddingWeight:
    """A table of vectors, `[entries, channels]`."""

    name: str
    weight: Tensor

    @property
    def entries(self) -> int:
        return self.weight.shape[0]

    @property
    def channels(self) -> int:
        return self.weight.shape[1]


Weight = LinearWeight | ConvWeight | NormWeight | EmbeddingWeight
