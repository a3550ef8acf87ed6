"""Checking a packed file as a whole: every integer within its bounds, every sum the sum of its column.

Opening a file does not do this, since it reads all of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tinydiff_weights.errors import ModelFileError, worded
from tinydiff_weights.mapping import drop_pages
from tinydiff_weights.packed_format import GROUP, LARGEST, LARGEST_GROUP_SCALE, PADDING, PANEL
from tinydiff_weights.packed_tensors import PackedWeight
from tinydiff_weights.safetensors import StoredTensor, open_safetensors
from tinydiff_weights.source import ModelSource

PAIR_LIMIT = 128
BLOCK_BYTES = 2**21


def verify(source: ModelSource) -> None:
    """Raise ModelFileError, which names the tensor, for the first thing that is wrong. Reads the whole file."""
    if source.kind != "packed":
        raise ModelFileError(source.path, "is no packed file", hint="--verify is for what tinydiff quantize wrote")
    with worded(source.path, "read"):
        _verify(source)


def _verify(source: ModelSource) -> None:
    for component in source.parts():
        for tensor in component.tensors.values():
            if isinstance(tensor, PackedWeight):
                for suffix in tensor.layer.suffixes if tensor.layer.integer else ():
                    _verify_class(tensor, suffix)
            elif isinstance(tensor, StoredTensor) and not np.isfinite(tensor.raw.astype(np.float32)).all():
                raise ModelFileError(tensor.file, "holds NaN or infinity", tensor=tensor.name)
    for name, stored in open_safetensors(source.path).tensors.items():
        if name.startswith(PADDING) and stored.raw.any():
            raise ModelFileError(source.path, "is padding, but not zero", tensor=name)


def _verify_class(weight: PackedWeight, suffix: str) -> None:
    sums, data = weight.parts[f"sums{suffix}"], weight.parts[f"data{suffix}"]
    found = np.concatenate([_sums(weight, suffix, first, last) for first, last in _panels(data.raw)])
    if not np.array_equal(found, sums.raw):
        raise ModelFileError(weight.file, "is not the sum of the columns of its weight", tensor=sums.name)


def _panels(data: NDArray[np.int8]) -> Iterator[tuple[int, int]]:
    step = max(BLOCK_BYTES // max(data.nbytes // len(data), 1), 1)
    for first in range(0, len(data), step):
        yield first, min(first + step, len(data))


def _sums(weight: PackedWeight, suffix: str, first: int, last: int) -> NDArray[np.int64]:
    """Of some panels; their integers are checked on the way."""
    layer, stored = weight.layer, weight.parts[f"data{suffix}"]
    panels = stored.raw[first:last]
    columns = PANEL * len(panels)
    if layer.kind == "i4":
        low, high = (panels << 4).view(np.int8) >> 4, panels.view(np.int8) >> 4
        both = np.stack([low, high], axis=4)  # [panels, taps, channels / 8, 16, half, 4]
        q = both.transpose(0, 3, 1, 2, 4, 5).reshape(columns, layer.taps, -1)
        groups = weight.parts[f"group_scales{suffix}"]
        steps = groups.raw[first:last].transpose(0, 3, 1, 2).reshape(columns, layer.taps, -1)
        if (steps < 1).any() or (steps > LARGEST_GROUP_SCALE).any():
            reason = f"has a group scale that is not 1 to {LARGEST_GROUP_SCALE}"
            raise ModelFileError(weight.file, reason, tensor=groups.name)
        by_group = q.reshape(columns, layer.taps, -1, GROUP).sum(3, dtype=np.int64)
        sums = (by_group * steps).sum((1, 2))
    else:
        q = panels.transpose(0, 3, 1, 2, 4).reshape(columns, layer.taps, -1)
        sums = q.sum((1, 2), dtype=np.int64)
    size = np.abs(q.astype(np.int16))
    if (size > LARGEST[layer.kind]).any():
        raise ModelFileError(weight.file, f"has an integer beyond {LARGEST[layer.kind]}", tensor=stored.name)
    if layer.kind == "i8_limited" and (size[..., 0::2] + size[..., 1::2] > PAIR_LIMIT).any():
        raise ModelFileError(weight.file, f"has a pair of integers beyond {PAIR_LIMIT}", tensor=stored.name)
    drop_pages(panels)
    return np.asarray(sums, np.int64)
