"""The tensors of a packed file under the names that the network asks for. Bytes only: `tinydiff` knows their meaning.

PackedWeight   LAYER.weight: panels, scales, sums
PaddedBias     LAYER.bias: whole panels
StoredTensor   the rest: norms, tables of vectors
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_weights.packed_format import LayerFormat
from tinydiff_weights.safetensors import StoredTensor

DTYPES = {"f32": "F32", "f16": "F16", "i8": "packed int8", "i8_limited": "packed int8", "i4": "packed int4"}


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight in panels. `parts`: "data", "scales.01" ... -> the stored tensor."""

    name: str  # "...conv1.weight"
    layer: LayerFormat
    parts: Mapping[str, StoredTensor]
    snr: float | None  # decibels against the source; None: exact
    file: str

    @property
    def dtype(self) -> str:
        return DTYPES[self.layer.kind]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layer.shape

    @property
    def parameters(self) -> int:
        return int(np.prod(self.layer.shape))

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    @property
    def raw(self) -> NDArray[Any]:
        """The panels, of an upsampled convolution those of its first class."""
        return self.parts[f"data{self.layer.suffixes[0]}"].raw


@dataclass(frozen=True, slots=True)
class PaddedBias:
    """A bias in whole panels, of a gated layer with values and gates interleaved as its columns are."""

    name: str
    layer: LayerFormat
    stored: StoredTensor
    file: str
    dtype: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.layer.shape[0],)

    @property
    def parameters(self) -> int:
        return self.layer.shape[0]

    @property
    def nbytes(self) -> int:
        return self.stored.nbytes

    @property
    def raw(self) -> NDArray[Any]:
        return self.stored.raw


AnyTensor = StoredTensor | PackedWeight | PaddedBias
