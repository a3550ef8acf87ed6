"""What integer kernels mean, in NumPy: inputs and weights of quantised layers rounded, then the float reference.

Layers that the kernels enlarge by four classes of summed taps (exactly twice the size) round those sums instead, so
networks are compared at sizes where no layer doubles.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
from compiled_tools import Floats, Values

from tinydiff_kernels import operations as op
from tinydiff_kernels.compiled.weights import KindOf
from tinydiff_kernels.handles import MatmulWeight
from tinydiff_kernels.ref import quantise, quantised_weights
from tinydiff_kernels.reference import Reference
from tinydiff_kernels.rows import Rows

Range = tuple[Floats, Floats]  # of each image


def rounded_weight(weight: MatmulWeight, kind: str) -> Any:
    values = weight.weight.float32()
    if kind == "i4":
        values = quantised_weights.dequantise_i4(quantised_weights.quantise_i4(values), values.shape)
    else:
        values = quantised_weights.dequantise_i8(*quantised_weights.quantise_i8(values))
    return type(weight)(weight.name, Values(weight.weight.name, values), weight.bias)


class QuantisedReference(Reference):
    """`kind_of` as in the compiled backend."""

    def __init__(self, kind_of: KindOf) -> None:
        super().__init__()
        self.kind_of = kind_of
        self._ranges: weakref.WeakKeyDictionary[Rows, Range] = weakref.WeakKeyDictionary()  # of group norms

    def execute(self, operation: op.Operation) -> Rows:
        o: Any = operation
        if isinstance(o, (op.Linear, op.Geglu, op.Conv)) and (kind := self.kind_of(o.weight)) in ("i8", "i4"):
            records = self._image_records(o.x) if isinstance(o, op.Conv) else quantise.rows_records(o.x.array)
            values = quantise.dequantise(quantise.quantise(o.x.array, records), records)
            o = replace(o, x=Rows(o.x.grid, o.x.channels, values), weight=rounded_weight(o.weight, kind))
        result = super().execute(o)
        if isinstance(o, op.GroupNorm):
            self._ranges[result] = self._activated_range(o)
        return result

    def _image_records(self, x: Rows) -> Any:
        low, high = self._ranges.get(x) or _extremes(x.array.reshape(x.grid.batch, -1))
        return np.repeat(quantise.record(low, high), x.grid.pixels)[:, None]

    def _activated_range(self, o: op.GroupNorm) -> Range:
        """By channel before the activation: where that has a dip the range is a little wider than the values'."""
        plain = super().execute(replace(o, activation=None))
        by_channel = plain.array.reshape(plain.grid.batch, plain.grid.pixels, -1).swapaxes(1, 2)
        low, high = quantise.activated_range(*_extremes(by_channel), o.activation)
        return low.min(1), high.max(1)


def _extremes(x: Any) -> Range:
    return x.min(-1), x.max(-1)
