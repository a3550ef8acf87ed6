"""Packing one layer, a few rows at a time: a weight of 100 MB costs a few megabytes of memory.

Outputs are independent of each other in every kind of weight, so that blocks of whole panels, packed one after the
other, are the bytes of the whole; `tests/tinydiff/test_pack_layer.py` holds that.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tinydiff.errors import ModelFileError
from tinydiff_kernels.matmul.geometry import PARITIES, upsample_weights
from tinydiff_kernels.matmul.packing import (
    Packed,
    interleave_gates,
    pack_float,
    pack_i4,
    pack_i8,
    pad_columns,
)
from tinydiff_kernels.matmul.unpacking import dequantise
from tinydiff_weights.mapping import drop_pages
from tinydiff_weights.packed_format import GATE_WIDTH, PANEL, LayerFormat
from tinydiff_weights.packed_tensors import AnyTensor
from tinydiff_weights.safetensors import StoredTensor

Float32 = NDArray[np.float32]
BLOCK_NUMBERS = 2**21  # weights packed at once: 8 MB of float32, and some copies
HALF_MAX = 65504.0


class Error:
    """Signal and noise of a tensor, summed over its blocks."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def add(self, wanted: Float32, got: Float32) -> None:
        self.signal += float(np.square(wanted, dtype=np.float64).sum())
        self.noise += float(np.square(got - wanted, dtype=np.float64).sum())

    @property
    def snr(self) -> float | None:
        """10 log10(sum ref^2 / sum err^2), in decibels with two decimals; None where nothing was lost."""
        if self.noise == 0:
            return None
        return round(10 * math.log10(self.signal / self.noise), 2) if self.signal else -99.0


def pack_blocks(layer: LayerFormat, tensor: StoredTensor, error: Error) -> Iterator[list[tuple[str, Packed]]]:
    """Blocks of the layer's panels in order, of each class of an upsampled convolution (suffix, panels).

    ModelFileError where weights that shall become integers are not finite.
    """
    for values in weight_blocks(layer, tensor):
        made = []
        parities = PARITIES if layer.use == "upsampled" else (None,)
        for parity, suffix in zip(parities, layer.suffixes, strict=True):
            part = values if parity is None else upsample_weights(values, parity)
            packed = pack(part, layer)
            if packed.scales is not None and not np.isfinite(packed.scales).all():
                raise ModelFileError(tensor.file, "holds NaN or infinity, which no integer means", tensor=tensor.name)
            error.add(part, dequantise(packed, part.shape))
            made.append((suffix, packed))
        yield made


def weight_blocks(layer: LayerFormat, tensor: StoredTensor) -> Iterator[Float32]:
    """Rows of a weight, whole panels of them; of a gated layer values and the gates that belong to them."""
    rows = max(BLOCK_NUMBERS // max(math.prod(layer.shape[1:]), 1) // PANEL, 1) * PANEL
    if layer.use != "gated":
        for start in range(0, layer.shape[0], rows):
            block = tensor.sliced(start, min(start + rows, layer.shape[0]))
            yield block.float32()
            drop_pages(block.raw)
        return
    half = layer.shape[0] // 2
    step = max(rows // PANEL, 1) * GATE_WIDTH
    for start in range(0, half, step):
        stop = min(start + step, half)
        pair = [tensor.sliced(start + offset, stop + offset) for offset in (0, half)]
        yield np.concatenate([part.float32() for part in pair])
        for part in pair:
            drop_pages(part.raw)


def pack(values: Float32, layer: LayerFormat) -> Packed:
    gated = layer.use == "gated"
    if layer.kind == "i4":
        return pack_i4(values, gated=gated)
    if layer.integer:
        return pack_i8(values, gated=gated, limited=layer.kind == "i8_limited")
    with np.errstate(over="ignore"):
        return pack_float(values, "f16" if layer.kind == "f16" else "f32", gated=gated)


def padded_bias(layer: LayerFormat, tensor: AnyTensor) -> Float32:
    """In whole panels, as `PackedWeights.bias` gives it."""
    assert isinstance(tensor, StoredTensor)
    values = tensor.float32()
    rows = interleave_gates(values[:, None])[:, 0] if layer.use == "gated" else values
    return np.ascontiguousarray(pad_columns(rows), np.float32)


def row_blocks(tensor: StoredTensor) -> Iterator[StoredTensor]:
    """A tensor a few rows at a time, as it is stored; its pages are let go."""
    rows = max(BLOCK_NUMBERS // max(math.prod(tensor.shape[1:]), 1), 1)
    for start in range(0, tensor.shape[0], rows):
        block = tensor.sliced(start, min(start + rows, tensor.shape[0]))
        yield block
        drop_pages(block.raw)


def are_halves(tensor: StoredTensor, *, nearly: bool = False) -> bool:
    """Whether float16 holds every number exactly, or, `nearly`, without overflow."""
    if tensor.dtype == "F16":
        return True
    for block in row_blocks(tensor):
        values = block.float32()
        with np.errstate(over="ignore"):
            good = np.abs(values) <= HALF_MAX if nearly else values.astype(np.float16) == values
        if not good.all():
            return False
    return True


def digest(tensor: StoredTensor) -> str:
    """SHA-256 of a tensor's bytes as they are stored, with its format and shape."""
    found = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
    for block in row_blocks(tensor):
        found.update(np.ascontiguousarray(block.raw).reshape(-1).view(np.uint8).data)
    return found.hexdigest()
