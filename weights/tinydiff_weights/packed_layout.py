"""Where every tensor of a packed file lies, known before the first is written: sizes follow from shapes alone.

    8 bytes | header, spaces up to a multiple of 64 | tensor | tensor | padding.0 | tensor ...

Every tensor begins at a multiple of 64 bytes, so that kernels read whole cache lines; where a tensor ends elsewhere,
one called `padding.N` fills up (a safetensors file has no holes).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tinydiff_weights.dtypes import STORAGE
from tinydiff_weights.packed_format import ALIGNMENT, PADDING


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor's place; `begin` counts from the first byte after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * STORAGE[self.dtype].itemsize


def lay_out(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> list[Slot]:
    """(name, dtype, shape) in the order of the file -> their places, padding among them."""
    slots: list[Slot] = []
    position = count = 0
    for name, dtype, shape in tensors:
        slots.append(slot := Slot(name, dtype, shape, position))
        position += slot.nbytes
        if gap := -position % ALIGNMENT:
            slots.append(Slot(f"{PADDING}{count}", "U8", (gap,), position))
            position, count = position + gap, count + 1
    return slots


def header_text(slots: Iterable[Slot], metadata: Mapping[str, Any]) -> bytes:
    """The header's JSON. Metadata that is no text is written as JSON: safetensors knows texts only."""
    texts = {k: v if isinstance(v, str) else dumps(v) for k, v in metadata.items()}
    table: dict[str, Any] = {"__metadata__": texts}
    for slot in slots:
        offsets = [slot.begin, slot.begin + slot.nbytes]
        table[slot.name] = {"dtype": slot.dtype, "shape": list(slot.shape), "data_offsets": offsets}
    return dumps(table).encode()


def data_start(text: bytes) -> int:
    """Where the first tensor begins."""
    return -(-(8 + len(text)) // ALIGNMENT) * ALIGNMENT


def header_bytes(text: bytes, start: int) -> bytes:
    """Length, JSON, spaces: `start` bytes in all."""
    length = start - 8
    if len(text) > length:
        raise ValueError(f"a header of {len(text)} bytes in room for {length}")
    return length.to_bytes(8, "little") + text.ljust(length)


def dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
