"""Weights for planning: their shapes as the kernels read them, and no values."""

from __future__ import annotations

import numpy as np

from tinydiff_kernels.compiled.weights import Float32, PackedWeights, Parity
from tinydiff_kernels.handles import ConvWeight, EmbeddingWeight, MatmulWeight, Tensor
from tinydiff_kernels.matmul.descriptor import PANEL
from tinydiff_kernels.matmul.packing import CHANNEL_MULTIPLE, GATE_WIDTH, Packed
from tinydiff_kernels.ref.quantised_weights import GROUP

_NOTHING: Float32 = np.zeros(0, np.float32)


class PlannedWeights(PackedWeights):
    """Reads no tensor."""

    def packed(self, weight: MatmulWeight, *, gated: bool = False, parity: Parity | None = None) -> Packed:
        kind = self.kind_of(weight)
        if parity is not None and kind == "f16":
            kind = "f32"
        taps = 1
        if isinstance(weight, ConvWeight):
            taps = 4 if parity is not None else weight.kernel[0] * weight.kernel[1]
        multiple = {"f32": 1, "f16": 1, "i4": GROUP}.get(kind, CHANNEL_MULTIPLE)
        channels = -(-weight.inputs // multiple) * multiple
        outputs = weight.outputs // 2 if gated else weight.outputs
        columns = 2 * GATE_WIDTH * -(-outputs // GATE_WIDTH) if gated else outputs
        wide = kind in ("f32", "f16")
        data = np.broadcast_to(np.zeros(1, np.int8), (-(-columns // PANEL), taps, channels))
        return Packed(
            kind, data, taps, channels if wide else channels // 4, outputs, gated, scales=None if wide else _NOTHING
        )

    def bias(self, weight: MatmulWeight, *, gated: bool = False) -> Float32:
        return _NOTHING

    def vector(self, tensor: Tensor) -> Float32:
        return _NOTHING

    def table(self, weight: EmbeddingWeight) -> Float32:
        return _NOTHING
