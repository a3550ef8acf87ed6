"""Opening safetensors files: names, shapes, views of mapped bytes; nothing is read, converted or copied.

The library's own NumPy loader copies every tensor and refuses BF16 and F8, hence this reader. Here a tensor's
bytes are touched when a layer uses them, and only then, if need be, converted to float32.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tinydiff_weights.dtypes import STORAGE, to_float32
from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.header import HeaderError, TensorEntry, header_length, parse_header
from tinydiff_weights.mapping import FileMapping, map_file, mapping_of, open_regular
from tinydiff_weights.sniff import foreign_kind


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A named tensor as it is stored. Methods other than `float32` and `aligned` give views, no copies."""

    name: str
    dtype: str  # a key of dtypes.STORAGE
    raw: NDArray[Any]  # read-only, in STORAGE[dtype]; may be unaligned where the file is (see `aligned`)
    file: str  # for errors

    @classmethod
    def from_array(cls, name: str, array: NDArray[Any], file: str = "memory") -> StoredTensor:
        """Wrap an array of a NumPy type that safetensors knows (for BF16 and F8 use the constructor)."""
        names = {np.dtype("bool"): "BOOL", np.dtype("u1"): "U8", np.dtype("<f4"): "F32"}
        names |= {STORAGE[n]: n for n in ("F64", "F16", "I8", "I16", "I32", "I64")}
        if array.dtype not in names:
            raise TypeError(f"tensor {name!r}: no safetensors format for {array.dtype}")
        raw = array.view(np.uint8) if array.dtype == np.bool_ else array
        return cls(name, names[array.dtype], raw, file)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.raw.shape

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.raw.nbytes

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.raw.shape)

    def float32(self) -> NDArray[np.float32]:
        """The values, C-contiguous and aligned: the mapped bytes themselves for F32, else a new array."""
        return to_float32(self.raw, self.dtype)

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Some rows: float16 as they lie in the file where they are halves, else as `float32` gives them."""
        part = self.raw[start:stop]
        if self.dtype == "F16":
            return np.require(part, requirements=["C_CONTIGUOUS", "ALIGNED"])
        return to_float32(part, self.dtype)

    def table(self) -> NDArray[Any]:
        """Float32, or half as it lies in the file: for tables of which single rows are used."""
        return self.aligned() if self.dtype == "F16" else self.float32()

    def aligned(self) -> NDArray[Any]:
        """`raw`, copied if its address suits no pointer of its type (files with an unpadded header)."""
        return np.require(self.raw, requirements=["ALIGNED"])

    def renamed(self, name: str) -> StoredTensor:
        return replace(self, name=name)

    def sliced(self, start: int, stop: int) -> StoredTensor:
        """Rows start to stop of axis 0."""
        if not self.raw.ndim or not 0 <= start <= stop <= self.raw.shape[0]:
            raise ModelFileError(self.file, f"has no rows {start} to {stop} in shape {self.shape}", tensor=self.name)
        return replace(self, raw=self.raw[start:stop])

    def transposed(self) -> StoredTensor:
        """All axes reversed."""
        return replace(self, raw=self.raw.T)

    def reshaped(self, *shape: int) -> StoredTensor:
        """The same numbers in another shape. ValueError for a transposed tensor: that would be a copy."""
        if math.prod(shape) != self.parameters or any(d < 0 for d in shape):
            raise ModelFileError(self.file, f"shape {self.shape} is not {shape}", tensor=self.name)
        if not self.raw.flags.c_contiguous:
            raise ValueError(f"tensor {self.name!r} is a strided view and cannot be reshaped in place")
        return replace(self, raw=self.raw.reshape(shape))


@dataclass(frozen=True)
class SafetensorsFile:
    """An opened file. The mapping lives as long as this object or any of its tensors."""

    path: Path
    tensors: Mapping[str, StoredTensor]  # in the order of their data
    metadata: Mapping[str, str]
    size: int  # bytes of the whole file
    mapping: FileMapping

    def check_unchanged(self) -> None:
        """Raise ModelFileError if the file was written to since it was opened."""
        _refuse_changed(self.mapping)


def open_safetensors(path: str | Path) -> SafetensorsFile:
    """Open and check `path`; milliseconds and no memory for a file of any size. Raises ModelFileError."""
    path = Path(path)
    with open_regular(path) as descriptor:
        size = os.fstat(descriptor).st_size
        first = os.pread(descriptor, 16, 0)
        try:
            length = header_length(first[:8], size)
            text = os.pread(descriptor, length, 8)
            if len(text) != length:
                raise HeaderError("truncated inside the header")
            entries, metadata = parse_header(text, size - 8 - length)
        except HeaderError as error:
            reason, hint = foreign_kind(first) or (error.reason, _hint(error.reason))
            raise ModelFileError(path, reason, tensor=error.tensor, hint=hint) from None
        mapping = map_file(path, descriptor)
    if mapping.identity.size != size:
        raise ModelFileError(path, "changes while it is opened", hint="Wait until it is written, then try again")
    tensors = {e.name: _view(mapping, 8 + length, e, str(path)) for e in entries}
    return SafetensorsFile(path, MappingProxyType(tensors), MappingProxyType(metadata), size, mapping)


class HasRaw(Protocol):
    """A tensor of any kind: `raw` is a view of its file."""

    @property
    def raw(self) -> NDArray[Any]: ...


def check_unchanged(tensors: Iterable[HasRaw], *, replaced: bool = False) -> None:
    """Raise ModelFileError if a file behind one of the tensors was written to since it was opened.

    `replaced`: also if another file has its name by now, which is safe but not what the name promises.
    """
    for mapping in {id(m): m for t in tensors if (m := mapping_of(t.raw)) is not None}.values():
        _refuse_changed(mapping)
        if replaced and mapping.replaced():
            raise ModelFileError(mapping.path, "was replaced after it was opened", hint="Load the model again")


def _view(mapping: FileMapping, start: int, entry: TensorEntry, file: str) -> StoredTensor:
    storage = STORAGE[entry.dtype]
    if entry.begin == entry.end:
        raw = np.empty(entry.shape, storage)
        raw.flags.writeable = False
    else:
        raw = np.ndarray(entry.shape, storage, buffer=mapping, offset=start + entry.begin)
    return StoredTensor(entry.name, entry.dtype, raw, file)


def _refuse_changed(mapping: FileMapping) -> None:
    if mapping.changed():
        raise ModelFileError(mapping.path, "was changed after it was opened", hint="Load the model again")


def _hint(reason: str) -> str | None:
    return "The download is incomplete; fetch the file again" if reason.startswith("truncated") else None
