"""Pictures: from the decoder's numbers to pixels, and PNG files in and out.

    decoded (B, 3, H, W), nominally -1..1 ── from_decoded ── (B, H, W, 3), 0..1 ── to_uint8 ── save_png

Pillow is imported when it is first needed. Files opened are treated as hostile: what is wrong with one ends in
InvalidArgumentError, whatever Pillow makes of it.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinydiff.errors import InvalidArgumentError, NonFiniteError
from tinydiff.output import write_output

if TYPE_CHECKING:
    from PIL import Image

F32: TypeAlias = NDArray[np.float32]
U8: TypeAlias = NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP")  # of Pillow's more than 40: the fewer decoders a stranger's file reaches, the better
MAX_FILE_BYTES = 32 * 2**20
MAX_PIXELS = 16 * 10**6
ORIENTATION = 0x0112  # EXIF tag; values 2 to 8 are below, 1 is upright


def from_decoded(decoded: F32) -> F32:
    """The decoder's output (B, 3, H, W) in [-1, 1], overshoot included -> (B, H, W, 3) in [0, 1], clipped.

    float32, contiguous, as diffusers has it: x / 2 + 0.5.
    """
    if decoded.ndim != 4 or decoded.shape[1] != 3:
        raise InvalidArgumentError(f"decoded images have shape (B, 3, H, W), not {decoded.shape}")
    rows = np.ascontiguousarray(decoded.transpose(0, 2, 3, 1), np.float32)
    clipped: F32 = np.clip(rows * np.float32(0.5) + np.float32(0.5), 0.0, 1.0)
    return clipped


def to_uint8(image: NDArray[Any]) -> U8:
    """An image (H, W, 3), or a batch of them, floating point 0..1 -> uint8, rounded half to even as in diffusers.

    Values beyond 0..1 are clipped. Raises NonFiniteError for NaN and infinity.
    """
    if image.ndim not in (3, 4) or image.shape[-1] != 3 or not np.issubdtype(image.dtype, np.floating):
        raise InvalidArgumentError(f"an image is floating point, (H, W, 3), not {image.dtype} {image.shape}")
    if not np.isfinite(image).all():
        raise NonFiniteError("the image has NaN or infinite pixels")
    scaled: NDArray[np.floating] = np.clip(image, 0.0, 1.0) * 255
    return scaled.round().astype(np.uint8)


def to_pil(images: NDArray[np.floating]) -> list[Image.Image]:
    """A batch (B, H, W, 3), 0..1 -> Pillow images, 8 bits RGB."""
    from PIL import Image

    return [Image.fromarray(pixels) for pixels in to_uint8(images)]


def save_png(
    path: str | os.PathLike[str],
    image: NDArray[np.floating] | U8 | Image.Image,
    metadata: Mapping[str, str] | None = None,
    *,
    force: bool = False,
) -> Path:
    """Write an image (H, W, 3), floating point 0..1 or uint8, as a PNG file with text chunks; returns its path.

    `metadata`: keyword -> text (`tinydiff.metadata.png_texts` makes it). The file appears whole or not at all, and
    an existing one is replaced only with `force`. Raises OutputError.
    """
    data = encode_png(image, metadata)
    return write_output(path, data, force=force)


def encode_png(image: NDArray[np.floating] | U8 | Image.Image, metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a PNG file. A text goes into a tEXt chunk if it is Latin-1, else into an iTXt chunk (UTF-8)."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    if isinstance(image, np.ndarray):
        pixels = image if image.dtype == np.uint8 else to_uint8(image)
        if pixels.ndim != 3 or pixels.shape[-1] != 3 or 0 in pixels.shape:
            raise InvalidArgumentError(f"an image has shape (H, W, 3), not {image.shape}")
        image = Image.fromarray(np.ascontiguousarray(pixels))
    texts = PngInfo()
    for keyword, text in (metadata or {}).items():
        # PNG (ISO 15948, 11.3.4) forbids NUL in texts, UTF-8 forbids lone surrogates.
        clean = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
        try:
            clean.encode("latin-1")
            texts.add_text(keyword, clean)
        except UnicodeEncodeError:
            texts.add_itxt(keyword, clean)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


def holds_picture(path: str | os.PathLike[str], image: Image.Image) -> bool:
    """Whether the file at `path` is an image with these very pixels (RGB). False for what cannot be read."""
    try:
        pixels = open_image(path)
    except InvalidArgumentError:
        return False
    return bool(np.array_equal(pixels, np.asarray(image)))


def open_image(path: str | os.PathLike[str]) -> U8:
    """A PNG, JPEG or WebP file -> its pixels, upright, RGB, uint8 (H, W, 3). Transparency is dropped.

    Of an animation the first frame. At most 32 MiB of file and 16 million pixels, both checked before any
    pixel is decoded. Raises InvalidArgumentError.
    """
    from PIL import Image

    content = _read_capped(path)
    name = os.fspath(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images and odd metadata; our own cap decides
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    reason = f"has {width}x{height} pixels, more than {MAX_PIXELS:,}; scale it down"
                    raise InvalidArgumentError(f"image {name!r} {reason}")
                picture.load()
                return _upright(_rgb(picture), _orientation(picture))
    except InvalidArgumentError:
        raise
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, struct.error, ValueError ...
        raise InvalidArgumentError(f"image {name!r} cannot be read as PNG, JPEG or WebP: {error!s:.160}") from error


def _read_capped(path: str | os.PathLike[str]) -> bytes:
    """The content of a regular file of at most MAX_FILE_BYTES; a pipe or device is refused without waiting for it."""
    name = os.fspath(path)
    try:
        with open(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidArgumentError(f"image {name!r} is not a file")
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidArgumentError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidArgumentError(f"image {name!r} cannot be opened: {reason}") from error
    if len(content) > MAX_FILE_BYTES:
        raise InvalidArgumentError(f"image {name!r} is larger than {MAX_FILE_BYTES // 2**20} MiB")
    return content


def _rgb(picture: Image.Image) -> U8:
    """Pixels of any mode as 8-bit RGB."""
    if picture.mode.startswith("I"):  # 16-bit grey, on which Pillow's conversion would clip at 255
        grey = np.clip(np.asarray(picture), 0, 65535).astype(np.uint32)
        return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode == "P":
        picture = picture.convert("RGBA")
    return np.array(picture.convert("RGB"))


def _orientation(picture: Image.Image) -> int:
    """How the camera was held, 1 to 8, from EXIF; damaged EXIF data count as upright."""
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _upright(pixels: U8, orientation: int) -> U8:
    """Undo an EXIF orientation (Exif 2.3, 4.6.4): 5 to 8 have rows and columns exchanged."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
