"""The tensors of a packed file as networks and kernels take them: where they lie, in the form they lie in.

Compiled kernels read panels, scales and padded biases in the mapped file; nothing is copied. `float32()` gives the
numbers that the integers mean, for whoever needs them (the reference backend).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tinydiff.parameters import NamedTensor, Seen
from tinydiff_kernels.matmul.geometry import PARITIES
from tinydiff_kernels.matmul.packing import CHANNEL_MULTIPLE, GATE_WIDTH, Kind, Packed
from tinydiff_kernels.matmul.unpacking import dequantise, merge_classes
from tinydiff_kernels.ref.quantised_weights import GROUP
from tinydiff_weights.packed_format import LayerFormat
from tinydiff_weights.packed_tensors import AnyTensor, PackedWeight, PaddedBias


@dataclass(frozen=True)
class MappedWeight:
    """The weight of a linear layer or a convolution. `shape` may be seen as another one (1x1 convolutions)."""

    stored: PackedWeight
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def dtype(self) -> str:
        return self.stored.dtype

    def reshaped(self, *shape: int) -> MappedWeight:
        return replace(self, shape=shape)

    def packed(self, *, gated: bool, parity: tuple[int, int] | None) -> Packed | None:
        """See `handles.PackedTensor`."""
        use = "gated" if gated else "plain" if parity is None else "upsampled"
        if use != self.stored.layer.use:
            return None
        return self._class("" if parity is None else f".{parity[0]}{parity[1]}")

    def float32(self) -> NDArray[np.float32]:
        """Of an upsampled convolution: the 3x3 kernel that explains its four classes best."""
        layer = self.stored.layer
        if layer.use != "upsampled":
            return dequantise(self._class(""), layer.shape).reshape(self.shape)
        small = (*layer.shape[:2], 2, 2)
        return merge_classes({(a, b): dequantise(self._class(f".{a}{b}"), small) for a, b in PARITIES})

    def _class(self, suffix: str) -> Packed:
        layer, parts = self.stored.layer, self.stored.parts
        data = parts[f"data{suffix}"].raw
        scales, sums, groups = (
            parts[name].raw if (name := f"{part}{suffix}") in parts else None
            for part in ("scales", "sums", "group_scales")
        )
        kind, gated = cast("Kind", layer.kind), layer.use == "gated"
        return Packed(kind, data, layer.taps, steps_of(layer), layer.outputs, gated, scales, sums, groups)


def steps_of(layer: LayerFormat) -> int:
    """`Packed.steps`: channels of one tap in steps of 4 bytes of the input."""
    if not layer.integer:
        return layer.shape[1]
    multiple = GROUP if layer.kind == "i4" else CHANNEL_MULTIPLE
    return -(-layer.shape[1] // multiple) * multiple // 4


@dataclass(frozen=True)
class MappedBias:
    """A bias in whole panels."""

    stored: PaddedBias

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def dtype(self) -> str:
        return self.stored.dtype

    def reshaped(self, *shape: int) -> NamedTensor:
        raise NotImplementedError("a bias has one shape")

    def padded(self, *, gated: bool) -> NDArray[np.float32] | None:
        """See `handles.PaddedTensor`."""
        return self.stored.raw if gated == (self.stored.layer.use == "gated") else None

    def float32(self) -> NDArray[np.float32]:
        values, outputs = self.stored.raw, self.shape[0]
        if self.stored.layer.use == "gated":
            pairs = values.reshape(-1, 2, GATE_WIDTH).swapaxes(0, 1).reshape(2, -1)[:, : outputs // 2]
            return np.ascontiguousarray(pairs).reshape(-1)
        return values[:outputs]


@dataclass(frozen=True)
class Meaning(Seen):
    """What a packed weight or bias means, without the form in which it lies there: for weights of another kind."""

    def float32(self) -> NDArray[np.float32]:
        return self.tensor.float32()


def mapped(tensors: Mapping[str, AnyTensor], *, in_place: bool = True) -> dict[str, NamedTensor]:
    """The tensors of a component as its network takes them; those of other files as they are.

    `in_place` False: kernels shall not read the panels, but make weights of another kind from their meaning.
    """
    made: dict[str, NamedTensor] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, (PackedWeight, PaddedBias)):
            found = MappedWeight(tensor, tensor.shape) if isinstance(tensor, PackedWeight) else MappedBias(tensor)
            made[name] = found if in_place else Meaning(found)
        else:
            made[name] = tensor
    return made
