"""The backend that shows what quantising loses: inputs and weights of integer layers rounded, then the reference.

Integer kernels are exact, so this is what they mean, in NumPy. Subclasses round otherwise (`weight`, `input`), which is
how schemes without a kernel are tried. One thing differs from the kernels: where a layer enlarges its input to exactly
twice the size they round the four classes of summed taps, and this backend rounds the taps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels import operations as op
from tinydiff_kernels.backend import Observer
from tinydiff_kernels.handles import MatmulWeight
from tinydiff_kernels.matmul.packing import Kind
from tinydiff_kernels.ref import quantise, quantised_weights
from tinydiff_kernels.reference import Reference
from tinydiff_kernels.rows import Array, Rows

Float32 = NDArray[np.float32]
Range = tuple[Float32, Float32]  # of each image
INTEGERS = ("i8", "i8_limited", "i4")


class Values:
    """A weight in memory."""

    def __init__(self, name: str, values: Float32) -> None:
        self.name, self.values = name, values

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def float32(self) -> Float32:
        return self.values


class Rounded(Reference):
    """`kind_of`: how each layer's weight is kept, as in the compiled backend. `keep`: remember rounded weights."""

    name = "rounded"

    def __init__(
        self, kind_of: Callable[[MatmulWeight], Kind], *, observers: Sequence[Observer] = (), keep: bool = True
    ) -> None:
        super().__init__(observers=observers)
        self.kind_of, self._keep = kind_of, keep
        self._ranges: weakref.WeakKeyDictionary[Rows, Range] = weakref.WeakKeyDictionary()  # of group norms
        self._weights: dict[int, tuple[MatmulWeight, MatmulWeight]] = {}  # by id; the first keeps the id its own

    def execute(self, operation: op.Operation) -> Rows:
        result = super().execute(self.rounded(operation) or operation)
        if isinstance(operation, op.GroupNorm):
            self._ranges[result] = self._activated_range(operation)
        return result

    def rounded(self, operation: op.Operation) -> op.Operation | None:
        """The operation on what is left of its input and weight; None where the layer is wide."""
        if not isinstance(operation, (op.Linear, op.Geglu, op.Conv)):
            return None
        kind = self.kind_of(operation.weight)
        if kind not in INTEGERS:
            return None
        changed: Any = {"x": self.input(operation), "weight": self._rounded_weight(operation.weight, kind)}
        return replace(operation, **changed)

    # ---- what a scheme is ----------------------------------------------------------------------------------------

    def weight(self, values: Float32, kind: Kind) -> Float32:
        """What is left of a weight `[out, in, ...]`."""
        if kind == "i4":
            return quantised_weights.dequantise_i4(quantised_weights.quantise_i4(values), values.shape)
        return quantised_weights.dequantise_i8(*quantised_weights.quantise_i8(values, limited=kind == "i8_limited"))

    def input(self, operation: op.Linear | op.Geglu | op.Conv) -> Rows:
        """What is left of an input: one range for each image of a convolution, for each row of other layers."""
        x = operation.x
        records = self.image_records(x) if isinstance(operation, op.Conv) else quantise.rows_records(x.array)
        return Rows(x.grid, x.channels, quantise.dequantise(quantise.quantise(x.array, records), records))

    def image_records(self, x: Rows) -> NDArray[np.void]:
        """One record for each image, repeated for its rows: `[rows, 1]`."""
        low, high = self._ranges.get(x) or _extremes(x.array.reshape(x.grid.batch, -1))
        return np.repeat(quantise.record(low, high), x.grid.pixels)[:, None]

    # ---- the rest ------------------------------------------------------------------------------------------------

    def _rounded_weight(self, weight: MatmulWeight, kind: Kind) -> MatmulWeight:
        if id(weight) in self._weights:
            return self._weights[id(weight)][1]
        values = self.weight(weight.weight.float32(), kind)
        left = type(weight)(weight.name, Values(weight.weight.name, values), weight.bias, weight.adapters)
        if self._keep:
            self._weights[id(weight)] = weight, left
        return left

    def _activated_range(self, o: op.GroupNorm) -> Range:
        """By channel before the activation: where that has a dip the range is a little wider than the values'."""
        plain = super().execute(replace(o, activation=None))
        by_channel = plain.array.reshape(plain.grid.batch, plain.grid.pixels, -1).swapaxes(1, 2)
        low, high = quantise.activated_range(*_extremes(by_channel), o.activation)
        return low.min(1), high.max(1)


def _extremes(x: Array) -> Range:
    return x.min(-1), x.max(-1)
