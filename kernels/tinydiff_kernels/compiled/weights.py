"""Weights as the kernels read them: packed when a program first needs them, and kept for all later ones.

Those of a packed file are taken as they lie there (`handles.PackedTensor` and its siblings): nothing is copied.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.compiled.scratch import Unpacked
from tinydiff_kernels.handles import (
    EmbeddingWeight,
    LowRank,
    MatmulWeight,
    PackedTensor,
    PaddedTensor,
    TableTensor,
    Tensor,
)
from tinydiff_kernels.matmul import packing
from tinydiff_kernels.matmul.geometry import PARITIES, upsample_weights

Float32 = NDArray[np.float32]
KindOf = Callable[[MatmulWeight], packing.Kind]
Parity = tuple[int, int]
Adapter = tuple[packing.Packed, packing.Packed]


class PackedWeights:
    """`kind_of` says how each layer's weight is stored: a `packing.Kind`.

    `keep` False: floats of unpacked files are packed into scratch when they are used (`Unpacked`); all else is kept.
    """

    def __init__(self, kind_of: KindOf, *, keep: bool = True) -> None:
        self._kind_of, self.keep = kind_of, keep
        self._made: dict[Any, Any] = {}
        self._owners: list[Any] = []  # ids are keys, so their objects must stay
        self._classes: weakref.WeakKeyDictionary[LowRank, list[packing.Packed]] = weakref.WeakKeyDictionary()
        self._adapters: weakref.WeakKeyDictionary[LowRank, dict[bool, Adapter]] = weakref.WeakKeyDictionary()

    def _once(self, key: Any, owner: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._owners.append(owner)
            self._made[key] = make()
        return self._made[key]

    def kind_of(self, weight: MatmulWeight) -> packing.Kind:
        """See `kind_in_use`; looked up once, as a planner asks for it thousands of times."""
        kind: packing.Kind = self._once((id(weight), "kind"), weight, lambda: kind_in_use(weight, self._kind_of))
        return kind

    def packed(
        self, weight: MatmulWeight, *, gated: bool = False, parity: Parity | None = None
    ) -> packing.Packed | Unpacked:
        """`parity`: one of the four classes of an upsampled convolution."""
        kind = self._kind(weight, parity)
        if not self.keep and kind in ("f32", "f16") and in_place(weight, gated, parity) is None:
            return Unpacked(weight, kind, gated, parity)

        def make() -> packing.Packed:
            ready = in_place(weight, gated, parity)
            if ready is not None:
                return ready
            values = weight.weight.float32()
            return _pack(values if parity is None else upsample_weights(values, parity), kind, gated)

        made: packing.Packed = self._once((id(weight), gated, parity), weight, make)
        return made

    def _kind(self, weight: MatmulWeight, parity: Parity | None) -> packing.Kind:
        kind = self.kind_of(weight)
        return "f32" if kind == "f16" and parity is not None else kind  # sums of halves are no halves

    def bias(self, weight: MatmulWeight, *, gated: bool = False) -> Float32:
        """Padded to whole panels; zeros where the layer has none."""

        def make() -> Float32:
            ready = weight.bias.padded(gated=gated) if isinstance(weight.bias, PaddedTensor) else None
            if ready is not None:
                return ready
            values = np.zeros(weight.outputs, np.float32) if weight.bias is None else weight.bias.float32()
            rows = packing.interleave_gates(values[:, None])[:, 0] if gated else values
            return np.ascontiguousarray(packing.pad_columns(rows), np.float32)

        made: Float32 = self._once((id(weight), gated, "bias"), weight, make)
        return made

    def vector(self, tensor: Tensor) -> Float32:
        """Scale or shift of a norm."""
        made: Float32 = self._once(
            (id(tensor), "vector"), tensor, lambda: np.ascontiguousarray(tensor.float32(), np.float32)
        )
        return made

    def table(self, weight: EmbeddingWeight) -> NDArray[Any]:
        """A table of vectors, float32 or half; only rows that are asked for are used, so it is not copied."""
        stored = weight.weight
        make = stored.table if isinstance(stored, TableTensor) else stored.float32
        made: NDArray[Any] = self._once((id(weight), "table"), weight, make)
        return made

    def adapter(self, adapter: LowRank, *, gated: bool = False) -> Adapter:
        """(down, up with the scale in it), both in float32. Columns of a gated layer's are interleaved as its own."""
        made = self._adapters.setdefault(adapter, {})  # until it is put away: adapters come and go
        if gated not in made:
            up = (np.float32(adapter.scale) * adapter.up).astype(np.float32)
            rows = packing.interleave_gates(up) if gated else up
            made[gated] = packing.pack_float(adapter.down.astype(np.float32)), packing.pack_float(rows)
        return made[gated]

    def adapter_classes(self, adapter: LowRank) -> list[packing.Packed]:
        """The down convolution of an adapter on an upsampled layer, as the layer's own four classes."""
        if adapter not in self._classes:
            down = adapter.down.astype(np.float32)
            self._classes[adapter] = [packing.pack_float(upsample_weights(down, parity)) for parity in PARITIES]
        return self._classes[adapter]


def in_place(weight: MatmulWeight, gated: bool, parity: Parity | None) -> packing.Packed | None:
    """The weight as it lies in a packed file; None where there is none, or it was packed for another use."""
    stored = weight.weight
    return stored.packed(gated=gated, parity=parity) if isinstance(stored, PackedTensor) else None


def kind_in_use(weight: MatmulWeight, kind_of: KindOf) -> packing.Kind:
    """The kind that a layer's launches will have: that of its packed file, else what `kind_of` chooses."""
    for gated, parity in ((False, None), (True, None), (False, (0, 0))):
        ready = in_place(weight, gated, parity)
        if ready is not None:
            return ready.kind
    return kind_of(weight)


def _pack(values: Float32, kind: packing.Kind, gated: bool) -> packing.Packed:
    if kind in ("i8", "i8_limited"):
        return packing.pack_i8(values, gated=gated, limited=kind == "i8_limited")
    if kind == "i4":
        return packing.pack_i4(values, gated=gated)
    return packing.pack_float(values, "f16" if kind == "f16" else "f32", gated=gated)
