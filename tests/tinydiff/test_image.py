"""Pixels from decoded numbers, PNG files written and image files read, hostile ones too."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tinydiff import image
from tinydiff.errors import InvalidArgumentError, NonFiniteError, OutputError


def _pixels(height: int = 5, width: int = 7) -> np.ndarray:
    return (np.arange(height * width * 3) * 37 % 256).astype(np.uint8).reshape(height, width, 3)


# --------------------------------------------------------------------------------------------------- numbers


def test_from_decoded_is_row_order_and_clipped() -> None:
    decoded = np.zeros((2, 3, 4, 5), np.float32)
    decoded[1, 2, 3, 4], decoded[0, 0, 1, 2], decoded[0, 1, 0, 0] = 0.5, -1.75, 3.0
    images = image.from_decoded(decoded)
    assert images.shape == (2, 4, 5, 3)
    assert images.dtype == np.float32
    assert images.flags.c_contiguous
    assert (images[1, 3, 4, 2], images[0, 1, 2, 0], images[0, 0, 0, 1], images[0, 0, 0, 0]) == (0.75, 0, 1, 0.5)


def test_to_uint8_rounds_half_to_even() -> None:
    values = np.array([0, 0.5 / 255, 1.5 / 255, 2.5 / 255, 127.5 / 255, 1, -0.1, 1.1, 254.4 / 255], np.float64)
    assert image.to_uint8(values.reshape(1, 3, 3)).ravel().tolist() == [0, 0, 2, 2, 128, 255, 0, 255, 254]


def test_to_uint8_keeps_all_256_levels() -> None:
    levels = np.arange(256, dtype=np.float32).repeat(3).reshape(16, 16, 3) / 255
    assert (image.to_uint8(levels) == np.arange(256).repeat(3).reshape(16, 16, 3)).all()


BAD_ARRAYS: dict[str, tuple[Any, type[Exception]]] = {
    "nan": (np.full((2, 2, 3), np.nan, np.float32), NonFiniteError),
    "infinity": (np.full((2, 2, 3), np.inf, np.float32), NonFiniteError),
    "four channels": (np.zeros((2, 2, 4), np.float32), InvalidArgumentError),
    "no channels": (np.zeros((2, 2), np.float32), InvalidArgumentError),
    "integers": (np.zeros((2, 2, 3), np.int64), InvalidArgumentError),
    "empty": (np.zeros((0, 2, 3), np.float32), InvalidArgumentError),
    "a batch": (np.zeros((1, 2, 2, 3), np.float32), InvalidArgumentError),
    "uint8 of a wrong shape": (np.zeros((3, 2, 2), np.uint8), InvalidArgumentError),
}


@pytest.mark.parametrize(("array", "error"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_bad_arrays(array: Any, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error):
        image.save_png(tmp_path / "a.png", array)
    assert list(tmp_path.iterdir()) == []


def test_bad_decoded() -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(B, 3, H, W\)"):
        image.from_decoded(np.zeros((1, 4, 2, 2), np.float32))


def test_to_pil() -> None:
    pictures = image.to_pil(np.stack([_pixels(), 255 - _pixels()]).astype(np.float32) / 255)
    assert [(picture.mode, picture.size) for picture in pictures] == [("RGB", (7, 5))] * 2
    np.testing.assert_array_equal(np.asarray(pictures[1]), 255 - _pixels())


# ---------------------------------------------------------------------------------------------------- writing


def test_round_trip_of_pixels_and_texts(tmp_path: Path) -> None:
    texts = {"parameters": "a café\nSteps: 2", "tinydiff": "{}", "other": "猫 🐱\nline"}
    path = image.save_png(tmp_path / "a.png", _pixels(), texts)
    assert path == tmp_path / "a.png"
    np.testing.assert_array_equal(image.open_image(path), _pixels())
    with Image.open(path) as opened:
        assert opened.format == "PNG"
        assert dict(opened.info) == texts
    content = path.read_bytes()
    assert b"tEXtparameters\0a caf\xe9" in content
    assert b"iTXtother\0" in content
    assert list(tmp_path.iterdir()) == [path]


def test_floats_and_pil_images_are_written_alike(tmp_path: Path) -> None:
    expected = image.encode_png(_pixels())
    assert image.encode_png(_pixels().astype(np.float32) / 255) == expected
    assert image.encode_png(Image.fromarray(_pixels())) == expected
    assert image.encode_png(_pixels().transpose(1, 0, 2)) != expected


def test_texts_that_png_cannot_hold_are_made_harmless(tmp_path: Path) -> None:
    path = image.save_png(tmp_path / "a.png", _pixels(), {"parameters": "nul \0 surrogate \udc80 end"})
    with Image.open(path) as opened:
        assert opened.info["parameters"] == "nul \ufffd surrogate ? end"


def test_umask_decides_the_mode(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        path = image.save_png(tmp_path / "a.png", _pixels())
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_existing_file_stays_without_force(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"a\.png' exists already; --force"):
        image.save_png(path, _pixels())
    assert path.read_bytes() == b"mine"
    image.save_png(path, _pixels(), force=True)
    np.testing.assert_array_equal(image.open_image(path), _pixels())
    assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------------------------------------------- reading


def _encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_formats(form: str, tmp_path: Path) -> None:
    flat = Image.new("RGB", (8, 4), (10, 200, 30))
    (tmp_path / "a").write_bytes(_encoded(flat, form))
    pixels = image.open_image(tmp_path / "a")
    assert pixels.shape == (4, 8, 3)
    assert np.abs(pixels.astype(int) - [10, 200, 30]).max() <= 4


GREY16 = np.array([[0, 65535, 32768, 256]], np.uint16)
MODES: dict[str, tuple[Image.Image, list[list[int]]]] = {
    "L": (Image.new("L", (1, 1), 7), [[7, 7, 7]]),
    "LA": (Image.new("LA", (1, 1), (7, 0)), [[7, 7, 7]]),
    "1": (Image.new("1", (1, 1), 1), [[255, 255, 255]]),
    "RGBA": (Image.new("RGBA", (1, 1), (1, 2, 3, 0)), [[1, 2, 3]]),
    "P": (Image.new("RGB", (1, 1), (9, 8, 7)).convert("P", palette=Image.Palette.ADAPTIVE), [[9, 8, 7]]),
    "16-bit grey": (Image.fromarray(GREY16), [[0] * 3, [255] * 3, [128] * 3, [1] * 3]),
}


@pytest.mark.parametrize(("picture", "expected"), MODES.values(), ids=MODES.keys())
def test_modes_of_png(picture: Image.Image, expected: list[list[int]], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_encoded(picture, "PNG"))
    assert image.open_image(tmp_path / "a.png")[0].tolist() == expected


def test_palette_with_transparent_bytes(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([1, 2, 3, 4, 5, 6])
    picture.putdata([0, 1])
    (tmp_path / "a.png").write_bytes(_encoded(picture, "PNG", transparency=b"\x00\x80"))
    assert image.open_image(tmp_path / "a.png").tolist() == [[[1, 2, 3], [4, 5, 6]]]


@pytest.mark.parametrize("orientation", range(9))
def test_exif_orientation_as_pillow_does_it(orientation: int, tmp_path: Path) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[image.ORIENTATION] = orientation
    (tmp_path / "a.png").write_bytes(_encoded(Image.fromarray(_pixels()), "PNG", exif=exif))
    with Image.open(tmp_path / "a.png") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    pixels = image.open_image(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.flags.c_contiguous


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *extra: bytes, rows: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = _chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + b"".join(extra) + body + _chunk(b"IEND", b"")


GOOD = _encoded(Image.fromarray(_pixels()), "PNG")
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot be read"),
    "text": (b"hello", "cannot be read"),
    "truncated": (GOOD[:-30], "cannot be read"),
    "header only": (GOOD[:20], "cannot be read"),
    "bad checksum": (GOOD.replace(b"IDAT", b"IDAU"), "cannot be read"),
    "one pixel too many": (_png(4001, 4000), "4001x4000 pixels, more than 16,000,000"),
    "81 million pixels": (_png(9000, 9000, rows=bytes(1000)), "9000x9000 pixels"),
    "2 billion pixels": (_png(2**31 - 1, 1), "cannot be read|pixels"),
    "more than Pillow's own cap": (_png(60000, 60000), "cannot be read|pixels"),
    "size 0": (_png(0, 5), "cannot be read"),
    "no rows": (_png(10, 10), "cannot be read"),
    "text bomb": (_png(1, 1, _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**24))), rows=bytes(4)), "cannot be read"),
    "GIF": (_encoded(Image.new("L", (2, 2)), "GIF"), "cannot be read as PNG, JPEG or WebP"),
    "BMP": (_encoded(Image.new("L", (2, 2)), "BMP"), "cannot be read"),
    "TIFF": (_encoded(Image.new("L", (2, 2)), "TIFF"), "cannot be read"),
    "too large a file": (GOOD + bytes(32 * 2**20), "larger than 32 MiB"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        image.open_image(tmp_path / "a.png")
    assert "a.png" in str(caught.value)


def test_bad_places(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    places = {"missing.png": "No such file", "": "directory|not a file", "pipe": "not a file", "a\0b": "null"}
    for name, message in places.items():
        with pytest.raises(InvalidArgumentError, match=message):
            image.open_image(f"{tmp_path}/{name}")
    with pytest.raises(InvalidArgumentError, match="not a file"):
        image.open_image("/dev/zero")


def test_damaged_exif_counts_as_upright(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_encoded(Image.fromarray(_pixels()), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))
    np.testing.assert_array_equal(image.open_image(tmp_path / "a.png"), _pixels())


SEEDS_OF_FUZZ = [GOOD, _encoded(Image.fromarray(_pixels()), "JPEG"), _encoded(Image.fromarray(_pixels()), "WEBP")]


@given(st.sampled_from(SEEDS_OF_FUZZ), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_end_in_our_error_or_pixels(
    tmp_path: Path, content: bytes, changes: list[tuple[int, int]]
) -> None:
    changed = bytearray(content)
    for position, value in changes:
        changed[position % len(changed)] = value
    (tmp_path / "a").write_bytes(changed)
    try:
        pixels = image.open_image(tmp_path / "a")
    except InvalidArgumentError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


def test_heavy_libraries_are_imported_when_used() -> None:
    script = (
        "import sys, tinydiff.image, tinydiff.metadata, tinydiff.rng, tinydiff.tokenizer\n"
        "print([name for name in ('PIL', 'tokenizers', 'numba', 'torch', 'huggingface_hub') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
