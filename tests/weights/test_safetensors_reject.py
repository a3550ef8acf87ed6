"""The corruption table: damaged and hostile safetensors files, each with what the error must say.

Rows marked BEYOND are files that version 0.8.0 of the safetensors library opens, and tinydiff on purpose does not.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.header import MAX_HEADER_BYTES
from tinydiff_weights.safetensors import open_safetensors


def raw(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def row(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4), **more: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def built(table: object, data: bytes = b"\0\0\0\0") -> bytes:
    return raw(json.dumps(table).encode(), data)


ONE = b'"dtype":"F32","shape":[1],"data_offsets":[0,4]'
FOUR = b"\0\0\0\0"
GOOD = raw(b'{"x":{' + ONE + b"}}", FOUR)
BEYOND = "BEYOND "

TABLE: dict[str, tuple[bytes, str]] = {
    # ---- the frame
    "empty file": (b"", "too short"),
    "seven bytes": (b"\x02\0\0\0\0\0\0", "too short"),
    "length only": (b"\x02\0\0\0\0\0\0\0", "truncated inside the header"),
    "header length 0": (raw(b""), "header length 0"),
    "header length 1": (raw(b"{"), "header length 1"),
    "header longer than file": (raw(b"{}", length=3), "truncated inside the header"),
    "header above the cap": (raw(b"{}", length=MAX_HEADER_BYTES + 1), "above the cap"),
    "header length 2^63": (raw(b"{}", length=2**63), "above the cap"),
    "header length 2^64-1": (raw(b"{}", length=2**64 - 1), "above the cap"),
    "header cut in the middle": (GOOD[:30], "truncated inside the header"),
    "data cut": (GOOD[:-1], "1 of 4 bytes of tensor data are missing"),
    "data missing": (GOOD[:-4], "4 of 4 bytes of tensor data are missing"),
    "trailing byte": (GOOD + b"\0", "1 unknown bytes follow"),
    "zip after the end (polyglot)": (GOOD + b"PK\x05\x06" + bytes(18), "22 unknown bytes follow"),
    "data but no tensor": (raw(b"{}", b"x"), "1 unknown bytes follow"),
    # ---- the JSON
    "not UTF-8": (raw(b'{"\xff":{' + ONE + b"}}", FOUR), "not UTF-8"),
    "UTF-16": (raw('{"x":1}'.encode("utf-16-le")), "not valid JSON"),
    "byte order mark": (raw(b"\xef\xbb\xbf{}"), "begins with"),
    "not JSON": (raw(b"{hello}"), "not valid JSON"),
    "cut JSON": (raw(b'{"x":{' + ONE + b"}", FOUR), "not valid JSON"),
    "two values": (raw(b"{}{}"), "not valid JSON"),
    "NUL after the JSON": (raw(b"{}\0"), "not valid JSON"),
    "a list": (raw(b"[]"), "begins with"),
    "a text": (raw(b'"x"'), "begins with"),
    "null": (raw(b"null"), "begins with"),
    "a comment": (raw(b"{/*x*/}"), "not valid JSON"),
    "trailing comma": (raw(b'{"x":{' + ONE + b"},}", FOUR), "not valid JSON"),
    "raw newline in a name": (raw(b'{"a\nb":{' + ONE + b"}}", FOUR), "not valid JSON"),
    "NaN": (raw(b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', FOUR), "no size"),
    "Infinity": (raw(b'{"x":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,4]}}', FOUR), "no size"),
    "deep nesting": (raw(b'{"x":' * 100_000), "nested too deeply"),
    "deep lists": (raw(b'{"x":' + b"[" * 100_000), "nested too deeply"),
    "integer of 5000 digits": (
        raw(b'{"x":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}'),
        "no size",
    ),
    BEYOND + "leading space": (raw(b' {"x":{' + ONE + b"}}", FOUR), "begins with b' '"),
    BEYOND + "duplicate tensor": (raw(b'{"x":{' + ONE + b'},"x":{' + ONE + b"}}", FOUR), "'x' twice"),
    BEYOND + "duplicate tensor, escaped": (raw(b'{"x":{' + ONE + b'},"\\u0078":{' + ONE + b"}}", FOUR), "'x' twice"),
    "duplicate dtype": (raw(b'{"x":{"dtype":"F32",' + ONE + b"}}", FOUR), "'dtype' twice"),
    "duplicate metadata": (raw(b'{"__metadata__":{},"__metadata__":{},"x":{' + ONE + b"}}", FOUR), "twice"),
    # ---- metadata
    BEYOND + "metadata null": (built({"__metadata__": None, "x": row()}), "__metadata__ is not an object"),
    "metadata list": (built({"__metadata__": [], "x": row()}), "__metadata__ is not an object"),
    "metadata text": (built({"__metadata__": "x", "x": row()}), "__metadata__ is not an object"),
    "metadata number": (built({"__metadata__": {"a": 1}, "x": row()}), "not text"),
    "metadata nested": (built({"__metadata__": {"a": {"b": "c"}}, "x": row()}), "not text"),
    "metadata half surrogate": (raw(b'{"__metadata__":{"a":"\\ud800"},"x":{' + ONE + b"}}", FOUR), "surrogate"),
    # ---- names
    BEYOND + "empty name": (built({"": row()}), "empty name"),
    BEYOND + "control character": (built({"a\nb": row()}), "control character"),
    BEYOND + "NUL in a name": (built({"a\0b": row()}), "control character"),
    BEYOND + "escape sequence": (built({"\x1b[2Jx": row()}), "control character"),
    BEYOND + "C1 control": (built({"a\x85": row()}), "control character"),
    "half surrogate in a name": (raw(b'{"\\udc00":{' + ONE + b"}}", FOUR), "surrogate"),
    BEYOND + "name of 513 characters": (built({"n" * 513: row()}), "513 characters"),
    # ---- rows
    "row null": (built({"x": None}), "needs exactly"),
    "row number": (built({"x": 7}), "needs exactly"),
    "row list": (built({"x": [1, 2]}), "needs exactly"),
    "row empty": (built({"x": {}}), "needs exactly"),
    "no dtype": (built({"x": {"shape": [1], "data_offsets": [0, 4]}}), "needs exactly"),
    "no shape": (built({"x": {"dtype": "F32", "data_offsets": [0, 4]}}), "needs exactly"),
    "no offsets": (built({"x": {"dtype": "F32", "shape": [1]}}), "needs exactly"),
    BEYOND + "unknown inner key": (built({"x": row(extra=1)}), "needs exactly"),
    "dtype unknown": (built({"x": row("F31")}), "which does not exist"),
    "dtype lower case": (built({"x": row("f32")}), "which does not exist"),
    "dtype null": (built({"x": row(None)}), "which does not exist"),
    "dtype number": (built({"x": row(32)}), "which does not exist"),
    "dtype list": (built({"x": row(["F32"])}), "which does not exist"),
    BEYOND + "dtype U32": (built({"x": row("U32")}), "which tinydiff does not read"),
    BEYOND + "dtype C64": (built({"x": row("C64", [1], [0, 8])}, bytes(8)), "which tinydiff does not read"),
    "shape null": (built({"x": row(shape=None)}), "shape is not a list"),
    "shape number": (built({"x": row(shape=1)}), "shape is not a list"),
    "shape text": (built({"x": row(shape="1")}), "shape is not a list"),
    "dimension text": (built({"x": row(shape=["1"])}), "shape is not a list"),
    "dimension true": (built({"x": row(shape=[True])}), "shape is not a list"),
    "dimension 1.0": (built({"x": row(shape=[1.0])}), "no size"),
    "dimension 1e0": (raw(b'{"x":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}', FOUR), "no size"),
    "dimension -1": (built({"x": row(shape=[-1])}), "no size"),
    "dimensions -1 and -1": (built({"x": row(shape=[-1, -1])}), "no size"),
    "dimension -0": (raw(b'{"x":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'), "no size"),
    "dimension 2^64": (built({"x": row(shape=[2**64, 1])}), "needs"),
    "product wraps to 4 at 64 bits": (built({"x": row(shape=[2**62 + 1])}), "needs"),
    "product wraps, two dimensions": (built({"x": row(shape=[2**32 + 1, 2**32])}), "needs"),
    BEYOND + "nothing times very much": (built({"x": row(shape=[0, 2**63], offsets=[0, 0])}, b""), "above any model's"),
    BEYOND + "nothing times 2^62": (
        built({"x": row(shape=[2**31, 0, 2**31], offsets=[0, 0])}, b""),
        "above any model's",
    ),
    BEYOND + "rank 9": (built({"x": row(shape=[1] * 9)}), "rank 9"),
    BEYOND + "rank 2000": (built({"x": row(shape=[1] * 2000)}), "rank 2000"),
    "size and shape differ": (built({"x": row(shape=[2])}), "needs 8 bytes, data_offsets give 4"),
    "size and dtype differ": (built({"x": row("F16")}), "needs 2 bytes, data_offsets give 4"),
    "empty shape, no bytes": (built({"x": row(shape=[], offsets=[0, 0])}, b""), "needs 4 bytes"),
    "offsets null": (built({"x": row(offsets=None)}), "data_offsets is not a list"),
    "offsets object": (built({"x": row(offsets={"0": 0, "1": 4})}), "data_offsets is not a list"),
    "one offset": (built({"x": row(offsets=[4])}), "not a begin and an end"),
    "three offsets": (built({"x": row(offsets=[0, 4, 8])}), "not a begin and an end"),
    "offsets reversed": (built({"x": row(offsets=[4, 0])}), "not a begin and an end"),
    "offset negative": (built({"x": row(offsets=[-4, 0])}), "no size"),
    "offset float": (built({"x": row(offsets=[0.0, 4.0])}), "no size"),
    "offset true": (built({"x": row("I8", offsets=[False, True])}, b"\0"), "data_offsets is not a list"),
    "offsets beyond the file": (
        built({"x": row(offsets=[0, 2**40], shape=[2**20, 2**18])}),
        "bytes of tensor data are missing",
    ),
    "offsets near 2^64": (built({"x": row(offsets=[2**64 - 4, 2**64])}), "hole"),
    # ---- coverage
    "hole at the start": (built({"x": row(offsets=[4, 8])}, bytes(8)), "hole before its data"),
    "hole between": (built({"a": row(), "b": row(offsets=[8, 12])}, bytes(12)), "hole before its data"),
    "overlap": (
        built({"a": row(shape=[2], offsets=[0, 8]), "b": row(shape=[2], offsets=[4, 12])}, bytes(12)),
        "overlaps",
    ),
    "same bytes twice": (built({"a": row(), "b": row()}), "overlaps"),
    "one inside another": (
        built({"a": row(shape=[3], offsets=[0, 12]), "b": row(offsets=[4, 8])}, bytes(12)),
        "overlaps",
    ),
    "empty tensor inside another": (
        built({"a": row(), "b": row("I8", [0], [2, 2])}),
        "overlaps",
    ),
    "empty tensor after the end": (built({"a": row(), "b": row("I8", [0], [9, 9])}), "hole"),
    # ---- other things under this name
    "zip (PyTorch)": (b"PK\x03\x04" + bytes(60), "zip archive"),
    "pickle protocol 2": (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "Python pickle"),
    "pickle protocol 4": (b"\x80\x04\x95" + bytes(40), "Python pickle"),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(40), "GGUF"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
    "HTML page": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
    "XML error": (b'<?xml version="1.0"?><Error/>', "HTML or XML"),
    "PNG picture": (b"\x89PNG\r\n\x1a\n" + bytes(40), "a picture, not a model"),
    "JPEG picture": (b"\xff\xd8\xff\xe0" + bytes(40), "a picture, not a model"),
    "zeros": (bytes(4096), "header length 0"),
}


def test_the_table_starts_from_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD)
    assert list(open_safetensors(path).tensors) == ["x"]
    print(f"{len(TABLE)} corruptions, {sum(k.startswith(BEYOND) for k in TABLE)} of them beyond the library's checks")


@pytest.mark.parametrize("name", TABLE)
def test_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    content, expected = TABLE[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        open_safetensors(path)
    message = str(caught.value)
    assert expected in message
    assert "x.safetensors" in message
    assert len(message) < 1200
    assert message.isprintable()


def test_damaged_header_whose_length_looks_like_a_magic_number_is_not_called_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw(b'{"x":7}'.ljust(0x280)))  # begins with 80 02, as pickles do
    with pytest.raises(ModelFileError, match="needs exactly"):
        open_safetensors(path)


def test_too_many_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    inner = b'{"dtype":"I8","shape":[0],"data_offsets":[0,0]}'
    path.write_bytes(raw(b"{" + b",".join(b'"%d":%b' % (i, inner) for i in range(100_001)) + b"}"))
    with pytest.raises(ModelFileError, match="100001 tensors"):
        open_safetensors(path)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: os.mkfifo(p), "not a regular file"),
        (lambda p: p.symlink_to(p.parent / "nowhere"), "no such file"),
        (lambda p: p.symlink_to(p), "cannot be read"),
        (lambda p: p.symlink_to("/dev/zero"), "not a regular file"),
    ],
    ids=["missing", "folder", "pipe", "dangling link", "link to itself", "device"],
)
def test_things_that_are_no_files(tmp_path: Path, make: object, expected: str) -> None:
    path = tmp_path / "x.safetensors"
    make(path)  # type: ignore[operator]
    with pytest.raises(ModelFileError, match=expected):
        open_safetensors(path)


@pytest.mark.parametrize("name", ["a\0b", "n" * 300 + ".safetensors"], ids=["NUL", "too long"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        open_safetensors(str(tmp_path) + "/" + name)
