"""The safetensors header: JSON from strangers, checked in full before a byte of it is believed.

File: 8 bytes little-endian header length n, n bytes of JSON, then the tensors' bytes without gaps to the end:
`{"name": {"dtype": "F16", "shape": [2, 3], "data_offsets": [begin, end]}, "__metadata__": {"key": "text"}}`.

Refused: all that the safetensors library refuses (holes, overlaps, trailing bytes, wrong sizes, unknown
formats), and also what it lets pass: duplicate names, space before the JSON, unknown inner keys, null
metadata, rank above 8, empty or control-character names. All sizes are Python integers, which cannot
overflow, and are compared with the file's size.
"""

from __future__ import annotations

import json
import math
import unicodedata
from dataclasses import dataclass
from typing import Any

from tinydiff_weights.dtypes import OTHER_FORMATS, STORAGE

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 100_000
MAX_NAME_CHARS = 512
MAX_RANK = 8
MAX_DIMENSION = 2**31 - 1
MAX_TENSOR_BYTES = 2**62  # also bounds the non-zero dimensions of an empty tensor, which NumPy multiplies


class HeaderError(ValueError):
    """What is wrong with a header; `open_safetensors` adds the file."""

    def __init__(self, reason: str, tensor: str | None = None):
        self.reason, self.tensor = reason, tensor
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One checked row of a header; offsets count from the first byte after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header_length(first8: bytes, file_size: int) -> int:
    """Bytes of JSON that follow the first 8 bytes, checked against the cap and the file."""
    if len(first8) < 8:
        raise HeaderError(f"too short to be a safetensors file ({file_size} bytes)")
    length = int.from_bytes(first8, "little")
    if length > MAX_HEADER_BYTES:
        raise HeaderError(
            f"not a safetensors file: header length {length} is above the cap of {MAX_HEADER_BYTES} bytes"
        )
    if length < 2:
        raise HeaderError(f"not a safetensors file: header length {length}")
    if 8 + length > file_size:
        raise HeaderError(f"truncated inside the header: {length} bytes announced, {file_size - 8} present")
    return length


def parse_header(text: bytes, data_size: int) -> tuple[list[TensorEntry], dict[str, str]]:
    """Check the JSON `text` of a file that has `data_size` bytes after it. Raises HeaderError.

    Returns the tensors in file order, which cover [0, data_size) without gap or overlap, and the metadata.
    """
    table = _json_object(text)
    metadata = _metadata(table.pop("__metadata__", {}))
    if len(table) > MAX_TENSORS:
        raise HeaderError(f"{len(table)} tensors are above the cap of {MAX_TENSORS}")
    entries = [_entry(name, row) for name, row in table.items()]
    entries.sort(key=lambda e: (e.begin, e.end))
    _check_coverage(entries, data_size)
    return entries, metadata


# ---------------------------------------------------------------------------------------------------- JSON


def _json_object(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise HeaderError(f"not a safetensors file: the header begins with {text[:1]!r} and not with '{{'")
    try:
        table = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_int=_natural,
            parse_float=_no_float,
            parse_constant=_no_float,
        )
    except HeaderError:
        raise
    except RecursionError:
        raise HeaderError("header is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise HeaderError(f"header is not UTF-8 (byte {error.start})") from None
    except ValueError as error:  # JSONDecodeError
        raise HeaderError(f"header is not valid JSON: {str(error)[:120]}") from None
    return dict(table)  # begins with '{', so it is an object


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise HeaderError(f"header has the key {_show(key)} twice")
            seen.add(key)
    return table


def _natural(digits: str) -> int:
    # "-0" is an integer for Python and not for the library; 20 digits hold every 64-bit number.
    if digits.startswith("-") or len(digits) > 20:
        raise HeaderError(f"header has the number {digits[:24]}, which is no size")
    return int(digits)


def _no_float(digits: str) -> float:
    raise HeaderError(f"header has the number {digits[:24]}, which is no size")


# ---------------------------------------------------------------------------------------------------- rows


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise HeaderError("__metadata__ is not an object of texts")
    for key, text in value.items():
        if not isinstance(text, str):
            raise HeaderError(f"__metadata__ has a value that is not text at {_show(key)}")
        if not (_encodable(key) and _encodable(text)):
            raise HeaderError("__metadata__ has half a surrogate pair, which is no text")
    return value


def _entry(name: str, row: object) -> TensorEntry:
    if not name:
        raise HeaderError("a tensor has an empty name")
    if len(name) > MAX_NAME_CHARS:
        raise HeaderError(f"a tensor's name is {len(name)} characters long (cap {MAX_NAME_CHARS})", name[:40])
    if not name.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise HeaderError("the name holds a control character or half a surrogate pair", name)
    if not isinstance(row, dict) or row.keys() != {"dtype", "shape", "data_offsets"}:
        keys = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise HeaderError(f"needs exactly dtype, shape and data_offsets, has {str(keys)[:120]}", name)
    dtype, shape = row["dtype"], _naturals(row["shape"], "shape", name)
    if not isinstance(dtype, str) or dtype not in STORAGE:
        known = isinstance(dtype, str) and dtype in OTHER_FORMATS
        reason = "which tinydiff does not read" if known else "which does not exist"
        raise HeaderError(f"has the dtype {_show(dtype)}, {reason} (it reads {', '.join(STORAGE)})", name)
    offsets = _naturals(row["data_offsets"], "data_offsets", name)
    if len(offsets) != 2 or offsets[1] < offsets[0]:
        raise HeaderError(f"data_offsets {list(offsets)[:4]} are not a begin and an end", name)
    _check_shape(name, shape, STORAGE[dtype].itemsize, offsets[1] - offsets[0], dtype)
    return TensorEntry(name, dtype, shape, offsets[0], offsets[1])


def _naturals(value: object, what: str, name: str) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(v) is not int for v in value):
        raise HeaderError(f"{what} is not a list of whole numbers", name)
    return tuple(value)


def _check_shape(name: str, shape: tuple[int, ...], itemsize: int, stored: int, dtype: str) -> None:
    if len(shape) > MAX_RANK:
        raise HeaderError(f"has rank {len(shape)} (cap {MAX_RANK})", name)
    needed = math.prod(shape) * itemsize
    if needed != stored:
        raise HeaderError(f"shape {list(shape)} of {dtype} needs {needed} bytes, data_offsets give {stored}", name)
    extent = math.prod(d for d in shape if d) * itemsize
    if extent > MAX_TENSOR_BYTES or any(d > MAX_DIMENSION for d in shape):
        raise HeaderError(f"shape {list(shape)} has a dimension above any model's", name)


def _check_coverage(entries: list[TensorEntry], data_size: int) -> None:
    position = 0
    for entry in entries:
        if entry.begin != position:
            what = "leaves a hole before its data" if entry.begin > position else "overlaps the tensor before it"
            raise HeaderError(f"{what} (begins at {entry.begin}, expected {position})", entry.name)
        position = entry.end
    if position > data_size:
        raise HeaderError(f"truncated: {position - data_size} of {position} bytes of tensor data are missing")
    if position < data_size:
        raise HeaderError(f"{data_size - position} unknown bytes follow the last tensor")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def _show(value: object) -> str:
    return ascii(value)[:80]
