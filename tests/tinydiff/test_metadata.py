"""Texts in PNG files: A1111's form written and read, our JSON, chunks of strangers."""

from __future__ import annotations

import json
import os
import re
import struct
import time
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from tinydiff import __version__
from tinydiff.errors import InvalidArgumentError
from tinydiff.image import encode_png, save_png
from tinydiff.metadata import (
    Record,
    parameters_text,
    parse_parameters,
    parse_record,
    png_texts,
    read_png,
    record_text,
)
from tinydiff.png_text import read_texts

PIXELS = np.zeros((2, 3, 3), np.uint8)
RECORD = Record(
    prompt="a lighthouse at night, (stars:1.2)",
    negative_prompt="blurry",
    steps=20,
    sampler="DPM++ 2M",
    schedule_type="Karras",
    guidance_scale=7.5,
    seed=1,
    width=512,
    height=768,
    model="v1-5-pruned",
    model_hash="6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa",
)

# ---------------------------------------------------------------------------------------------- A1111's form


def test_the_text_as_a1111_writes_it() -> None:
    assert parameters_text(RECORD) == (
        "a lighthouse at night, (stars:1.2)\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 1, Size: 512x768, "
        f"Model hash: 6ce0161689, Model: v1-5-pruned, RNG: CPU, Version: tinydiff {__version__}"
    )


def test_what_is_left_out_and_what_is_quoted() -> None:
    record = replace(
        RECORD, negative_prompt="", model_hash="", model="a, b: c", vae='"v"', guidance_scale=7, clip_skip=2
    )
    assert parameters_text(record).split("\n")[1] == (
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x768, "
        f'Model: "a, b: c", VAE: "\\"v\\"", Clip skip: 2, RNG: CPU, Version: tinydiff {__version__}'
    )


def test_a_text_of_a1111_itself() -> None:
    """In the shape its documentation shows, with a lora hash in quotes."""
    text = (
        "close-up of a maple leaf\nsecond line, <lora:x:0.5>\n"
        "Negative prompt: lowres, bad anatomy\nworst quality\n"
        "Steps: 28, Sampler: Euler a, CFG scale: 7, Seed: 2690818103, Size: 640x448, Model hash: e6415c4892, "
        'Denoising strength: 0.5, Lora hashes: "x: 1a2b, y: 3c4d", Version: v1.6.0'
    )
    assert parse_parameters(text) == {
        "Clip skip": "1",
        "RNG": "GPU",
        "Schedule type": "Automatic",
        "Prompt": "close-up of a maple leaf\nsecond line, <lora:x:0.5>",
        "Negative prompt": "lowres, bad anatomy\nworst quality",
        "Steps": "28",
        "Sampler": "Euler a",
        "CFG scale": "7",
        "Seed": "2690818103",
        "Size-1": "640",
        "Size-2": "448",
        "Model hash": "e6415c4892",
        "Denoising strength": "0.5",
        "Lora hashes": "x: 1a2b, y: 3c4d",
        "Version": "v1.6.0",
    }


def test_a_last_line_of_fewer_than_three_fields_is_prompt() -> None:
    text = "a cat\nSteps: 20, Seed: 1"
    assert parse_parameters(text) == {"Prompt": text, "Negative prompt": ""}
    assert parse_parameters("Negative prompt: x") == {"Prompt": "", "Negative prompt": "x"}
    assert parse_parameters("") == {}


ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
PIECES = st.sampled_from(
    ["\n", ",", ":", '"', "\\", "a: b, c: d, e: f", "Negative prompt:", "512x512", "é", "猫", " ", "\r"]
)
ODD = st.lists(st.one_of(PIECES, ANY), max_size=6).map("".join)
NAMES = ODD.filter(lambda text: not re.fullmatch(r"\d+x\d+", text))


def _as_a1111_reads(prompt: str) -> str:
    """What its reader makes of a prompt: lines stripped, empty ones in front gone."""
    return "\n".join(line.strip() for line in prompt.split("\n")).lstrip("\n")


@given(ODD, ODD, NAMES, NAMES, st.integers(0, 2**64 - 1), st.floats(-1e6, 1e6), st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_round_trip_of_parameters(
    prompt: str, negative: str, model: str, vae: str, seed: int, scale: float, skip: int
) -> None:
    """Every field comes back exactly; prompts as A1111 would read them."""
    assume("Negative prompt:" not in prompt + negative)
    record = replace(RECORD, prompt=prompt, negative_prompt=negative, model=model, vae=vae)
    record = replace(record, seed=seed, guidance_scale=scale, clip_skip=skip)
    fields = parse_parameters(parameters_text(record))
    assert fields["Prompt"] == _as_a1111_reads(prompt)
    assert fields["Negative prompt"] == _as_a1111_reads(negative)
    assert fields.get("Model", "") == model
    assert fields.get("VAE", "") == vae
    assert fields["Seed"] == str(seed)
    assert float(fields["CFG scale"]) == scale
    assert fields["Clip skip"] == str(skip)
    assert (fields["Sampler"], fields["Schedule type"], fields["RNG"]) == ("DPM++ 2M", "Karras", "CPU")
    assert (fields["Size-1"], fields["Size-2"]) == ("512", "768")


PUBLISHED = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # re_param of A1111's infotext_utils.py


@given(st.lists(st.sampled_from(["Steps", "a b", " ", ":", ",", '"', "\\", "1", "x-y/z", "é", "\t"]), max_size=30))
@settings(max_examples=300, deadline=None)
def test_fields_are_found_as_the_published_expression_finds_them(pieces: list[str]) -> None:
    line = "".join(pieces).strip()
    assume(len(line) < 64)  # the longest name that ours takes
    expected = PUBLISHED.findall(line)
    fields = parse_parameters("prompt\n" + line)
    if len(expected) < 3:
        assert set(fields) == {"Prompt", "Negative prompt"}
        return
    assert {name for name, _ in expected} <= set(fields)
    for name, value in dict(expected).items():
        if not value.startswith('"'):
            assert fields[name] == value


HOSTILE_TEXTS: dict[str, str] = {
    "one long word": "a" * 2**20,
    "one long line of spaces": "a" + " " * (2**20 - 2) + "b",
    "many names": "ab:" * (2**20 // 3),
    "many open quotes": 'ab:"' * (2**20 // 4),
    "many escaped quotes": 'ab:"' + '\\"' * 2**18,
    "backslashes": 'ab:"' + "\\" * 2**19,
    "quotes and commas": 'ab:"\\",' * (2**20 // 8),
    "a short line of spaces": "x\n" + "a" + " " * 65_000 + "b",
    "short names": "x\n" + "a b-" * 16_000,
    "short quotes": "x\n" + 'ab: "\\"' * 9_000,
    "short blanks after a colon": "x\n" + "ab:" + " " * 65_000,
    "colons and blanks": "x\n" + ("ab:" + " " * 60) * 1_000,
    "negative prompts": "Negative prompt:\n" * 60_000,
    "lines": "\n" * 2**20,
    "too long": "a" * (2**20 + 1),
}


@pytest.mark.parametrize("text", HOSTILE_TEXTS.values(), ids=HOSTILE_TEXTS.keys())
def test_hostile_texts_take_no_time(text: str) -> None:
    start = time.process_time()
    fields = parse_parameters(text)
    assert time.process_time() - start < 3  # milliseconds; a quadratic reader would need hours
    assert all(isinstance(value, str) for value in fields.values())


# ------------------------------------------------------------------------------------------------- our JSON


@given(
    st.text(max_size=60),
    st.text(max_size=60),
    st.integers(0, 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
@settings(max_examples=300, deadline=None)
def test_round_trip_of_the_record(prompt: str, negative: str, seed: int, scale: float) -> None:
    timings = {"text": 0.25, "steps": [1.5, 1.25], "total": 3.0}
    record = replace(RECORD, prompt=prompt, negative_prompt=negative, seed=seed, guidance_scale=scale)
    record = replace(record, timings=timings, extra={"eta": 0.5})
    text = record_text(record)
    assert text.isascii()
    assert parse_record(text) == {"version": __version__, **asdict(record)}
    content = parse_record(text)
    assert content.pop("version") == __version__
    assert Record(**content) == record


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_a_mistake(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        record_text(replace(RECORD, guidance_scale=value))


BAD_JSON = [
    "",
    "x",
    "[1]",
    "1",
    '"a"',
    "null",
    "{",
    '{"a": ' * 50_000,
    "[" * 100_000,
    '{"a": ' + "9" * 5_000 + "}",
    "{}" + " " * 2**20,
]


@pytest.mark.parametrize("text", BAD_JSON, ids=lambda text: repr(text)[:12])
def test_bad_json_counts_as_missing(text: str) -> None:
    assert parse_record(text) == {}


# ------------------------------------------------------------------------------------------------- PNG files


@given(ODD, ODD)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip_through_a_file(tmp_path: Path, prompt: str, negative: str) -> None:
    record = replace(RECORD, prompt=prompt, negative_prompt=negative)
    path = save_png(tmp_path / "a.png", PIXELS, png_texts(record), force=True)
    found = read_png(path)
    content = dict(found.record)
    del content["version"]
    assert Record(**content) == record
    assert found.texts["parameters"] == parameters_text(record).replace("\0", "\ufffd")
    assert found.parameters == parse_parameters(found.texts["parameters"])
    with Image.open(path) as opened:
        assert dict(opened.info) == found.texts


def _chunk(kind: bytes, data: bytes, *, broken: bool = False) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ broken)


def _with_chunk(path: Path, *chunks: bytes) -> Path:
    """A good PNG file with chunks after its header."""
    data = encode_png(PIXELS)
    path.write_bytes(data[:33] + b"".join(chunks) + data[33:])
    return path


GOOD_CHUNKS: dict[str, tuple[bytes, dict[str, str]]] = {
    "tEXt": (_chunk(b"tEXt", b"k\0caf\xe9"), {"k": "café"}),
    "tEXt empty": (_chunk(b"tEXt", b"k\0"), {"k": ""}),
    "zTXt": (_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"caf\xe9" * 99)), {"k": "café" * 99}),
    "iTXt": (_chunk(b"iTXt", b"k\0\0\0de\0K\0" + "猫".encode()), {"k": "猫"}),
    "iTXt deflated": (_chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress("猫".encode())), {"k": "猫"}),
    "the later of two": (_chunk(b"tEXt", b"k\0a") + _chunk(b"tEXt", b"k\0b"), {"k": "b"}),
    "among others": (_chunk(b"gAMA", bytes(4)) + _chunk(b"tEXt", b"k\0a"), {"k": "a"}),
    "one mebibyte": (_chunk(b"tEXt", b"k\0" + b"a" * (2**20 - 2)), {"k": "a" * (2**20 - 2)}),
}


@pytest.mark.parametrize(("chunks", "expected"), GOOD_CHUNKS.values(), ids=GOOD_CHUNKS.keys())
def test_good_chunks(chunks: bytes, expected: dict[str, str], tmp_path: Path) -> None:
    path = _with_chunk(tmp_path / "a.png", chunks)
    assert read_texts(path) == expected
    with Image.open(path) as opened:
        assert {key: value for key, value in opened.info.items() if key != "gamma"} == expected


BAD_CHUNKS: dict[str, bytes] = {
    "wrong checksum": _chunk(b"tEXt", b"k\0a", broken=True),
    "no separator": _chunk(b"tEXt", b"ka"),
    "empty": _chunk(b"tEXt", b""),
    "no keyword": _chunk(b"tEXt", b"\0a"),
    "keyword too long": _chunk(b"tEXt", b"k" * 80 + b"\0a"),
    "larger than a mebibyte": _chunk(b"tEXt", b"k\0" + b"a" * 2**20),
    "inflates to too much": _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**20 + 1))),
    "a bomb": _chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(2**27), 9)),
    "zTXt of another method": _chunk(b"zTXt", b"k\0\1" + zlib.compress(b"a")),
    "zTXt without method": _chunk(b"zTXt", b"k\0"),
    "zTXt cut": _chunk(b"zTXt", b"k\0\0" + zlib.compress(b"abc" * 99)[:-5]),
    "zTXt of garbage": _chunk(b"zTXt", b"k\0\0garbage"),
    "iTXt not UTF-8": _chunk(b"iTXt", b"k\0\0\0\0\0\xff\xfe"),
    "iTXt with a surrogate": _chunk(b"iTXt", b"k\0\0\0\0\0\xed\xa0\x80"),
    "iTXt of another method": _chunk(b"iTXt", b"k\0\1\1\0\0" + zlib.compress(b"a")),
    "iTXt with flag 2": _chunk(b"iTXt", b"k\0\2\0\0\0a"),
    "iTXt cut": _chunk(b"iTXt", b"k\0\0\0\0"),
    "iTXt of a keyword": _chunk(b"iTXt", b"k\0"),
}


@pytest.mark.parametrize("chunk", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
def test_bad_chunks_are_left_out(chunk: bytes, tmp_path: Path) -> None:
    path = _with_chunk(tmp_path / "a.png", chunk, _chunk(b"tEXt", b"after\0b"))
    assert read_texts(path) == {"after": "b"}


def test_number_of_texts_is_capped(tmp_path: Path) -> None:
    path = _with_chunk(tmp_path / "a.png", *(_chunk(b"tEXt", b"k%d\0a" % i) for i in range(100)))
    assert len(read_texts(path)) == 64


def test_lengths_beyond_the_end_stop_the_reading(tmp_path: Path) -> None:
    path = _with_chunk(tmp_path / "a.png", _chunk(b"tEXt", b"k\0a"), struct.pack(">I", 2**32 - 1) + b"tEXt")
    assert read_texts(path) == {"k": "a"}


BAD_FILES: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello",
    "JPEG": b"\xff\xd8\xff\xe0",
    "half a signature": b"\x89PNG\r",
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_what_is_no_png(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=r"a\.png' is not a PNG file"):
        read_png(tmp_path / "a.png")


def test_bad_places(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    places: dict[Any, str] = {"gone": "No such file", "": "not a PNG|directory", "pipe": "not a PNG", "a\0": "null"}
    for name, message in places.items():
        with pytest.raises(InvalidArgumentError, match=message):
            read_png(f"{tmp_path}/{name}")


def test_a_png_without_texts(tmp_path: Path) -> None:
    found = read_png(save_png(tmp_path / "a.png", PIXELS))
    assert (found.texts, found.parameters, found.record) == ({}, {}, {})


SAMPLE = encode_png(PIXELS, {**png_texts(RECORD), "other": "猫"})


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=5), st.integers(0, len(SAMPLE)))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_and_cut_files(tmp_path: Path, changes: list[tuple[int, int]], length: int) -> None:
    changed = bytearray(SAMPLE)
    for position, value in changes:
        changed[position % len(changed)] = value
    (tmp_path / "a.png").write_bytes(changed[:length] if len(changes) % 2 else changed)
    try:
        found = read_png(tmp_path / "a.png")
    except InvalidArgumentError:
        return
    json.dumps(found.texts)
