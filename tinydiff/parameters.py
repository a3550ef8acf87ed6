"""From named tensors to weight handles, with every name and shape accounted for.

A network's constructor asks for each of its weights by name and shape. Nothing is read at that point: the
answer is a handle. What was asked for and is missing, or has another shape, and what nobody asked for, is
known before the first operation runs and reported by name.

    Parameters(tensors, path)     handles on a model's tensors
    Parameters.declare()          handles on shapes alone: parameter counts, planning, test models
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinydiff.errors import ModelFileError
from tinydiff_kernels.handles import ConvWeight, EmbeddingWeight, LinearWeight, NormWeight, Tensor, Weight

NAMES_SHOWN = 5
# What a weight may be stored as: numbers with a point, or packed integers that mean such numbers.
FORMATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "packed int8", "packed int4")
W = TypeVar("W", LinearWeight, ConvWeight, NormWeight, EmbeddingWeight)


class NamedTensor(Tensor, Protocol):
    """A tensor that can be seen in another shape without copying (1x1 convolutions are linear layers)."""

    @property
    def dtype(self) -> str: ...  # how it is stored, in safetensors' names

    def reshaped(self, *shape: int) -> NamedTensor: ...


@dataclass(frozen=True)
class ShapeOnly:
    """A tensor without values: what a network declares when it is built on no file."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "F32"

    def float32(self) -> NDArray[np.float32]:
        raise ModelFileError("(no file)", "this network was built from shapes alone", tensor=self.name)

    def reshaped(self, *shape: int) -> ShapeOnly:
        return ShapeOnly(self.name, shape)


@dataclass(frozen=True)
class Seen:
    """A tensor seen in another way than it lies there: its name, shape and dtype are those of the one behind it."""

    tensor: NamedTensor

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def dtype(self) -> str:
        return self.tensor.dtype

    def reshaped(self, *shape: int) -> Self:
        return replace(self, tensor=self.tensor.reshaped(*shape))


class Parameters:
    """Hands out weight handles and keeps the books. `scope` gives a view with a longer prefix."""

    def __init__(
        self, tensors: Mapping[str, NamedTensor] | None, path: str | Path = "(no file)", prefix: str = ""
    ) -> None:
        self._tensors, self._path, self._prefix = tensors, path, prefix
        self.declared: dict[str, tuple[int, ...]] = {}  # name -> shape that the network needs
        self.weights: dict[str, Weight] = {}  # layer name -> handle (adapters are attached here)
        self._missing: list[str] = []
        self._misshapen: list[str] = []
        self._mistyped: list[str] = []

    @classmethod
    def declare(cls) -> Parameters:
        return cls(None)

    def scope(self, *parts: str | int) -> Parameters:
        """The same books under `prefix.part.part.`"""
        child = Parameters(self._tensors, self._path, self._prefix + "".join(f"{p}." for p in parts))
        child.declared, child.weights = self.declared, self.weights
        child._missing, child._misshapen, child._mistyped = self._missing, self._misshapen, self._mistyped
        return child

    def linear(self, name: str, inputs: int, outputs: int, *, bias: bool = True, as_conv: bool = False) -> LinearWeight:
        """y = x W^T + b; `as_conv`: the file holds it as a 1x1 convolution `[out, in, 1, 1]`."""
        shape = (outputs, inputs, 1, 1) if as_conv else (outputs, inputs)
        weight = self._take(f"{name}.weight", shape)
        if as_conv:
            weight = weight.reshaped(outputs, inputs)
        b = self._take(f"{name}.bias", (outputs,)) if bias else None
        return self._keep(LinearWeight(self._prefix + name, weight, b))

    def conv(self, name: str, inputs: int, outputs: int, kernel: int = 3, *, bias: bool = True) -> ConvWeight:
        weight = self._take(f"{name}.weight", (outputs, inputs, kernel, kernel))
        b = self._take(f"{name}.bias", (outputs,)) if bias else None
        return self._keep(ConvWeight(self._prefix + name, weight, b))

    def norm(self, name: str, channels: int) -> NormWeight:
        weight = self._take(f"{name}.weight", (channels,))
        return self._keep(NormWeight(self._prefix + name, weight, self._take(f"{name}.bias", (channels,))))

    def embedding(self, name: str, entries: int, channels: int) -> EmbeddingWeight:
        weight = self._take(f"{name}.weight", (entries, channels))
        return self._keep(EmbeddingWeight(self._prefix + name, weight))

    def finish(self, ignored: Sequence[str] = ()) -> None:
        """Raise unless every declared tensor was there, and every tensor that is there was declared.

        `ignored`: name suffixes of training leftovers that no network uses.
        """
        if self._tensors is None:
            return
        unused = [n for n in self._tensors if n not in self.declared and not n.endswith(tuple(ignored))]
        problems = [("missing", self._missing), ("of another shape", self._misshapen)]
        problems += [("of whole numbers", self._mistyped), ("unused", unused)]
        found = [f"{len(names)} {what}: {first_names(names)}" for what, names in problems if names]
        if found:
            named = (self._missing + [m.split(" ")[0] for m in self._misshapen + self._mistyped] + unused)[0]
            hint = "The file is damaged, of another kind, or its config.json belongs to another model"
            raise ModelFileError(
                self._path, "tensors do not fit the network: " + "; ".join(found), tensor=named, hint=hint
            )

    def _take(self, name: str, shape: tuple[int, ...]) -> NamedTensor:
        full = self._prefix + name
        self.declared[full] = shape
        tensor = None if self._tensors is None else self._tensors.get(full)
        if tensor is None:
            if self._tensors is not None:
                self._missing.append(full)
            return ShapeOnly(full, shape)
        if tensor.shape != shape:
            self._misshapen.append(f"{full} {list(tensor.shape)} instead of {list(shape)}")
            return ShapeOnly(full, shape)
        if tensor.dtype not in FORMATS:
            self._mistyped.append(f"{full} {tensor.dtype}")
            return ShapeOnly(full, shape)
        return tensor

    def _keep(self, weight: W) -> W:
        self.weights[weight.name] = weight
        return weight


def first_names(names: Sequence[str]) -> str:
    """The first few of many names, in words."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
