"""The compiled backend without weights and without work: programs for shapes, to be looked at and not run.

A network on `Parameters.declare()` with this backend gives the launches, the arena and the sizes of packed weights that
the real one would have, in a second and without its gigabytes. The cost model and the gate's arena sizes read them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.compiled.backend import Compiled
from tinydiff_kernels.compiled.program import Program
from tinydiff_kernels.compiled.scratch import Unpacked
from tinydiff_kernels.compiled.trace import Step, Trace, Value
from tinydiff_kernels.compiled.weights import KindOf, PackedWeights, Parity, in_place
from tinydiff_kernels.handles import EmbeddingWeight, MatmulWeight, PaddedTensor, Tensor
from tinydiff_kernels.matmul.descriptor import PANEL
from tinydiff_kernels.matmul.packing import CHANNEL_MULTIPLE, GATE_WIDTH, Kind, Packed
from tinydiff_kernels.ref.quantised_weights import GROUP
from tinydiff_kernels.rows import Array

ITEM = {"f32": np.float32, "f16": np.float16, "i8": np.int8, "i8_limited": np.int8, "i4": np.uint8}


class Dry(Compiled):
    """`programs` fills as networks are called; their results are zeros."""

    def __init__(self, kind_of: KindOf, *, threads: int | None, keep: bool = True) -> None:
        super().__init__(kind_of, threads=threads)
        self.shapes = self._weights = ShapesOfWeights(kind_of, keep=keep)

    def _run(
        self, program: Program, trace: Trace, watch: Callable[[Step, Value, Array], None] | None = None
    ) -> list[Array]:
        return [np.zeros((v.grid.rows, v.channels), np.float32) for v in program.outputs]


class ShapesOfWeights(PackedWeights):
    """Packed weights as views of one zero. Bytes that the real ones would take beside their file: `quantised` by
    integers that are made at load, `anonymous` by all else."""

    def __init__(self, kind_of: KindOf, *, keep: bool = True) -> None:
        super().__init__(kind_of, keep=keep)
        self.anonymous = self.quantised = 0

    def packed(self, weight: MatmulWeight, *, gated: bool = False, parity: Parity | None = None) -> Packed | Unpacked:
        def make() -> Packed | Unpacked:
            ready = in_place(weight, gated, parity)
            if ready is not None:
                return ready
            kind, shape = self._kind(weight, parity), weight.weight.shape
            if not self.keep and kind in ("f32", "f16"):
                return Unpacked(weight, kind, gated, parity)
            packed = packed_shape(shape if parity is None else (*shape[:2], 2, 2), kind, gated=gated)
            parts = (packed.data, packed.scales, packed.sums, packed.group_scales)
            nbytes = sum(part.nbytes for part in parts if part is not None)
            if packed.scales is None:
                self.anonymous += nbytes
            else:
                self.quantised += nbytes
            return packed

        made: Packed | Unpacked = self._once((id(weight), gated, parity), weight, make)
        return made

    def bias(self, weight: MatmulWeight, *, gated: bool = False) -> NDArray[np.float32]:
        def make() -> NDArray[np.float32]:
            padded = nothing((PANEL * panels_of(weight.outputs, gated=gated),), np.float32)
            ready = weight.bias.padded(gated=gated) if isinstance(weight.bias, PaddedTensor) else None
            self.anonymous += padded.nbytes if ready is None else 0
            return padded if ready is None else ready

        made: NDArray[np.float32] = self._once((id(weight), gated, "bias"), weight, make)
        return made

    def vector(self, tensor: Tensor) -> NDArray[np.float32]:
        def make() -> NDArray[np.float32]:
            values = nothing(tensor.shape, np.float32)
            self.anonymous += 0 if getattr(tensor, "dtype", "") == "F32" else values.nbytes
            return values

        made: NDArray[np.float32] = self._once((id(tensor), "vector"), tensor, make)
        return made

    def table(self, weight: EmbeddingWeight) -> NDArray[np.float32]:
        return nothing(weight.weight.shape, np.float32)


def nothing(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array of one zero, as large as it says and as small as it can be."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def panels_of(outputs: int, *, gated: bool) -> int:
    """Panels of a layer whose weight has so many rows; values and gates are padded apart."""
    if gated:
        return -(-outputs // 2 // GATE_WIDTH)
    return -(-outputs // PANEL)


def packed_shape(shape: tuple[int, ...], kind: Kind, *, gated: bool = False) -> Packed:
    """What `packing` makes of a weight `[out, in, ...]`, without its values."""
    outputs, inputs, taps = shape[0], shape[1], int(np.prod(shape[2:], dtype=np.int64))
    panels, columns = panels_of(outputs, gated=gated), outputs // 2 if gated else outputs
    if kind in ("f32", "f16"):
        return Packed(kind, nothing((panels, taps, inputs, PANEL), ITEM[kind]), taps, inputs, columns, gated)
    channels = -(-inputs // GROUP) * GROUP if kind == "i4" else -(-inputs // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE
    data = nothing((panels, taps, channels // (8 if kind == "i4" else 4), PANEL, 4), ITEM[kind])
    groups = nothing((panels, taps, channels // GROUP, PANEL), np.uint8) if kind == "i4" else None
    ones = nothing((panels * PANEL,), np.float32)
    return Packed(kind, data, taps, channels // 4, columns, gated, ones, nothing(ones.shape, np.int32), groups)
