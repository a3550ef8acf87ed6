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
from tinydiff_kernels.compiled.trace import Step, Trace
from tinydiff_kernels.compiled.weights import KindOf, PackedWeights, Parity
from tinydiff_kernels.handles import EmbeddingWeight, MatmulWeight, Tensor
from tinydiff_kernels.matmul.descriptor import PANEL
from tinydiff_kernels.matmul.packing import CHANNEL_MULTIPLE, GATE_WIDTH, Kind, Packed
from tinydiff_kernels.ref.quantised_weights import GROUP
from tinydiff_kernels.rows import Array

ITEM = {"f32": np.float32, "f16": np.float16, "i8": np.int8, "i8_limited": np.int8, "i4": np.uint8}


class Dry(Compiled):
    """`programs` fills as networks are called; their results are zeros."""

    def __init__(self, kind_of: KindOf, *, threads: int) -> None:
        super().__init__(kind_of, threads=threads)
        self._weights = ShapesOfWeights(kind_of)

    def _run(self, program: Program, trace: Trace, watch: Callable[[Step, Array], None] | None = None) -> list[Array]:
        return [np.zeros((v.grid.rows, v.channels), np.float32) for v in program.outputs]


class ShapesOfWeights(PackedWeights):
    """Packed weights as views of one zero."""

    def packed(self, weight: MatmulWeight, *, gated: bool = False, parity: Parity | None = None) -> Packed:
        kind, shape = self.kind_of(weight), weight.weight.shape
        if parity is not None:  # 2x2 taps; sums of halves are no halves
            shape, kind = (*shape[:2], 2, 2), "f32" if kind == "f16" else kind
        made: Packed = self._once((id(weight), gated, parity), weight, lambda: packed_shape(shape, kind, gated=gated))
        return made

    def bias(self, weight: MatmulWeight, *, gated: bool = False) -> NDArray[np.float32]:
        return nothing((PANEL * panels_of(weight.outputs, gated=gated),), np.float32)

    def vector(self, tensor: Tensor) -> NDArray[np.float32]:
        return nothing(tensor.shape, np.float32)

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
