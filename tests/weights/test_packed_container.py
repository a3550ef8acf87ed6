"""A packed file is a safetensors file: damage to the container is refused before anything else is looked at.

What `test_safetensors_reject.py` does to files of one tensor, done to a packed one through the front door.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from miniatures import write_folder
from packed_edit import Edit, refused

from tinydiff.packing import Recipe
from tinydiff.quantize import quantize
from tinydiff_weights.open import open_model


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("container")
    quantize(open_model(write_folder(folder / "model", "bk_tiny")), folder / "x.safetensors", Recipe("int8"))
    return (folder / "x.safetensors").read_bytes()


def in_header(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """The first place in the header changed, its length put right."""

    def change(content: bytes) -> bytes:
        start = 8 + struct.unpack("<Q", content[:8])[0]
        text = content[8:start]
        assert old in text
        text = text.replace(old, new, 1)
        return struct.pack("<Q", len(text)) + text + content[start:]

    return change


ROW = b'"padding.0":{"dtype":"U8"'
CONTAINER: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "nothing": ("too short", lambda c: b""),
    "header cut": ("truncated inside the header", lambda c: c[:1000]),
    "data cut": ("1 of .* bytes of tensor data are missing", lambda c: c[:-1]),
    "trailing bytes": ("22 unknown bytes follow", lambda c: c + b"PK\x05\x06" + bytes(18)),
    "header of 2^63 bytes": ("above the cap", lambda c: struct.pack("<Q", 2**63) + c[8:]),
    "not UTF-8": ("not UTF-8", in_header(b"{", b'{"\xff":1,')),
    "leading space": ("begins with b' '", in_header(b"{", b" {")),
    "a name twice": ("'padding.0' twice", in_header(ROW, ROW + b',"shape":[1],"data_offsets":[0,1]},' + ROW)),
    "metadata twice": ("'__metadata__' twice", in_header(b'{"__meta', b'{"__metadata__":null,"__meta')),
    "dtype unknown": ("dtype 'U9', which does not exist", in_header(ROW, ROW.replace(b"U8", b"U9"))),
    "dtype of another size": ("data_offsets give", in_header(ROW, ROW.replace(b"U8", b"I64"))),
    "key unknown": ("needs exactly dtype, shape", in_header(ROW, ROW + b',"more":1')),
    "name with NUL": ("control character", in_header(b'"padding.0"', b'"padding.\\u0000"')),
    "dimension -1": ("which is no size", in_header(ROW + b',"shape":[', ROW + b',"shape":[-')),
    "dimension NaN": ("which is no size", in_header(ROW + b',"shape":[', ROW + b',"shape":[NaN,')),
    "rank 9": ("data_offsets give|rank 9", in_header(ROW + b',"shape":[', ROW + b',"shape":[1,1,1,1,1,1,1,1,')),
    "a hole": ("hole", lambda c: moved(c, 64)),
    "an overlap": ("overlaps", lambda c: moved(c, -64)),
}


def moved(content: bytes, by: int) -> bytes:
    """The last tensor lies elsewhere."""
    edit = Edit(content)
    last = max((row for name, row in edit.header.items() if name != "__metadata__"), key=lambda r: r["data_offsets"][1])
    last["data_offsets"] = [offset + by for offset in last["data_offsets"]]
    return edit.bytes()


@pytest.mark.parametrize("name", CONTAINER)
def test_a_damaged_container_is_refused(packed: bytes, tmp_path: Path, name: str) -> None:
    words, change = CONTAINER[name]
    refused(change(packed), tmp_path / "x.safetensors", words)
