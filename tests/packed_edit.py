"""Packed files with a lie in them, and what must be said of it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinydiff
from tinydiff.errors import TinyDiffError
from tinydiff_weights.open import open_model
from tinydiff_weights.packed_verify import verify

Table = dict[str, Any]
LAYER = "unet/down_blocks.0.resnets.0.conv1"


class Edit:
    """A packed file taken apart: header, metadata as objects, and data; put together again by `bytes`."""

    def __init__(self, content: bytes) -> None:
        start = 8 + struct.unpack("<Q", content[:8])[0]
        self.header: Table = json.loads(content[8:start])
        self.data = bytearray(content[start:])
        meta = self.header["__metadata__"]
        self.meta: Table = {k: json.loads(v) if v.startswith("{") else v for k, v in meta.items()}

    def layer(self, key: str = LAYER) -> Table:
        component, name = key.split("/")
        row: Table = next(row for row in self.meta["components"][component]["layers"] if row["name"] == name)
        return row

    def values(self, name: str, dtype: str) -> np.ndarray[Any, Any]:
        """A writable view of a tensor's numbers."""
        begin, end = self.header[name]["data_offsets"]
        return np.frombuffer(memoryview(self.data)[begin:end], dtype)

    def bytes(self) -> bytes:
        self.header["__metadata__"] = {k: v if isinstance(v, str) else json.dumps(v) for k, v in self.meta.items()}
        text = json.dumps(self.header).encode()
        text += b" " * (-(8 + len(text)) % 64)
        return struct.pack("<Q", len(text)) + text + bytes(self.data)


def refused(content: bytes, path: Path, words: str, *, build: bool = False, whole: bool = False) -> None:
    path.write_bytes(content)

    def use() -> None:
        source = open_model(path)
        if build:
            tinydiff.Pipeline.from_pretrained(path)
        if whole:
            verify(source)

    with pytest.raises(TinyDiffError, match=words) as caught:
        use()
    assert path.name in str(caught.value)
