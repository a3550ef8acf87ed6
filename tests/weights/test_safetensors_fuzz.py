"""Random files against two promises: nothing but our error, and what we accept the library reads as the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinydiff_weights.dtypes import STORAGE
from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.safetensors import open_safetensors

COMMON = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def accepted(path: Path, content: bytes) -> bool:
    """Open `content` and use every tensor. Any exception but ModelFileError, and any difference, fails the test."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    try:
        tensors = open_safetensors(path).tensors
    except ModelFileError as refusal:
        message = str(refusal)
    else:
        message = ""
    if message:
        assert str(path) in message
        assert message.isprintable()
        return False
    theirs = dict(safetensors.deserialize(content))
    assert theirs.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == theirs[name]["dtype"]
        assert list(tensor.shape) == theirs[name]["shape"]
        assert tensor.raw.tobytes() == bytes(theirs[name]["data"])
        assert tensor.float32().shape == tensor.shape
    return True


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "x.safetensors"


def built(table: Any, data: bytes, pad: int = 0) -> bytes:
    text = json.dumps(table).encode() + b" " * pad
    return len(text).to_bytes(8, "little") + text + data


SMALL = built(
    {
        "__metadata__": {"format": "pt"},
        "down.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "down.bias": {"dtype": "F16", "shape": [2], "data_offsets": [16, 20]},
        "e": {"dtype": "F8_E4M3", "shape": [], "data_offsets": [20, 21]},
        "none": {"dtype": "BF16", "shape": [0, 3], "data_offsets": [21, 21]},
    },
    bytes(range(21)),
)


def test_truncation_at_every_offset(path: Path) -> None:
    assert accepted(path, SMALL)
    assert not any(accepted(path, SMALL[:n]) for n in range(len(SMALL)))
    print(f"{len(SMALL)} truncations refused")


def test_every_single_bit_flip(path: Path) -> None:
    """A flip in the data, in a name or in the metadata gives another healthy file; all others must be refused."""
    kept = 0
    for position in range(len(SMALL)):
        for bit in range(8):
            flipped = bytearray(SMALL)
            flipped[position] ^= 1 << bit
            kept += accepted(path, bytes(flipped))
    assert 21 * 8 <= kept < len(SMALL) * 4
    print(f"{len(SMALL) * 8} flips, {kept} still healthy files")


def test_insertion_and_removal_at_every_offset(path: Path) -> None:
    for position in range(len(SMALL)):
        accepted(path, SMALL[:position] + SMALL[position + 1 :])
        for byte in b'"{}[],:0 \\\x00\xff':
            accepted(path, SMALL[:position] + bytes([byte]) + SMALL[position:])


@st.composite
def healthy(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """A header that is right, and its data; names, formats and shapes at random."""
    names = draw(
        st.lists(
            st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20), unique=True, max_size=6
        )
    )
    table: dict[str, Any] = {}
    position = 0
    for name in names:
        dtype = draw(st.sampled_from(sorted(STORAGE)))
        shape = draw(st.lists(st.integers(0, 4), max_size=5))
        size = STORAGE[dtype].itemsize
        for d in shape:
            size *= d
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    table.pop("__metadata__", None)
    position = sum(r["data_offsets"][1] - r["data_offsets"][0] for r in table.values())
    return table, draw(st.binary(min_size=position, max_size=position))


@settings(COMMON, max_examples=250)
@given(file=healthy(), pad=st.integers(0, 9), metadata=st.none() | st.dictionaries(st.text(), st.text(), max_size=3))
def test_healthy_files_are_accepted(path: Path, file: tuple[dict[str, Any], bytes], pad: int, metadata: Any) -> None:
    table, data = file
    if metadata is not None:
        if any("\ud800" <= c <= "\udfff" for text in (*metadata, *metadata.values()) for c in text):
            return
        table = {**table, "__metadata__": metadata}
    assert accepted(path, built(table, data, pad))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([*STORAGE, "U32"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
SIZES = st.integers(-2, 40) | st.sampled_from([2**31, 2**32 + 1, 2**62 + 1, 2**63, 2**64 - 4, 2**64, 10**30])
ROW = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*STORAGE, "U16", "f32", ""]) | JSON,
        "shape": st.lists(SIZES, max_size=10) | JSON,
        "data_offsets": st.lists(SIZES, min_size=2, max_size=2) | JSON,
    },
    optional={"extra": JSON},
)


@settings(COMMON, max_examples=250)
@given(
    table=st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), ROW | JSON, max_size=4),
    data=st.binary(max_size=64),
)
def test_wild_headers(path: Path, table: dict[str, Any], data: bytes) -> None:
    accepted(path, built(table, data))


@settings(COMMON, max_examples=250)
@given(
    file=healthy(),
    change=st.sampled_from(["dtype", "shape", "data_offsets"]),
    value=JSON | st.lists(SIZES, max_size=3),
    which=st.integers(0, 5),
)
def test_one_field_changed(path: Path, file: tuple[dict[str, Any], bytes], change: str, value: Any, which: int) -> None:
    table, data = file
    if table:
        table[list(table)[which % len(table)]][change] = value
    accepted(path, built(table, data))


@settings(COMMON, max_examples=250)
@given(
    file=healthy(),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=4), st.integers(0, 4)), min_size=1, max_size=5),
)
def test_bytes_replaced_anywhere(
    path: Path, file: tuple[dict[str, Any], bytes], edits: list[tuple[int, bytes, int]]
) -> None:
    content = built(*file)
    for position, new, removed in edits:
        position %= len(content) + 1
        content = content[:position] + new + content[position + removed :]
    accepted(path, content)


@settings(COMMON, max_examples=250)
@given(text=st.binary(max_size=200), data=st.binary(max_size=20))
def test_bytes_that_are_no_header(path: Path, text: bytes, data: bytes) -> None:
    accepted(path, len(text).to_bytes(8, "little") + text + data)
    accepted(path, text + data)
