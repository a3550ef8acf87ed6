"""The text chunks of a PNG file, read as the input of a stranger: no pixel is decoded, every size is capped.

PNG (ISO/IEC 15948): an 8-byte signature, then chunks of length, kind, data and CRC. Texts are in tEXt (keyword,
Latin-1), zTXt (the same, deflated) and iTXt (keyword, language, UTF-8, deflated or not).
"""

from __future__ import annotations

import os
import stat
import zlib
from typing import BinaryIO

from tinydiff.errors import InvalidArgumentError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT_BYTES = 2**20  # of one chunk, stored and inflated
MAX_TEXTS = 64  # so that all texts together stay below 64 MiB
MAX_CHUNKS = 2**18


def read_texts(path: str | os.PathLike[str]) -> dict[str, str]:
    """Keyword -> text of all readable text chunks; of two with the same keyword the later one.

    Chunks that are too large, damaged or not well formed are left out. InvalidArgumentError if the file cannot be
    opened or is not a PNG file; a file that ends early gives the texts before that.
    """
    name = os.fspath(path)
    try:
        with open(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or file.read(len(SIGNATURE)) != SIGNATURE:
                raise InvalidArgumentError(f"{name!r:.200} is not a PNG file")
            return _texts(file, status.st_size)
    except InvalidArgumentError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidArgumentError(f"{name!r:.200} cannot be opened: {reason}") from error


def _texts(file: BinaryIO, size: int) -> dict[str, str]:
    texts: dict[str, str] = {}
    for _ in range(MAX_CHUNKS):
        header = file.read(8)
        length, kind = int.from_bytes(header[:4], "big"), header[4:]
        if len(header) < 8 or kind == b"IEND" or file.tell() + length + 4 > size or len(texts) == MAX_TEXTS:
            break
        if kind not in (b"tEXt", b"zTXt", b"iTXt") or length > MAX_TEXT_BYTES:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        data, checksum = file.read(length), file.read(4)
        if zlib.crc32(kind + data) == int.from_bytes(checksum, "big"):
            entry = _decoded(kind, data)
            if entry is not None:
                texts[entry[0]] = entry[1]
    return texts


def _decoded(kind: bytes, data: bytes) -> tuple[str, str] | None:
    """(keyword, text) of a text chunk, or None if it is not well formed."""
    keyword, separator, rest = data.partition(b"\0")
    if not separator or not 1 <= len(keyword) <= 79:
        return None
    text: bytes | None = rest
    if kind == b"zTXt":
        text = _inflated(rest[1:]) if rest[:1] == b"\0" else None
    elif kind == b"iTXt":
        parts = rest[2:].split(b"\0", 2)  # language, translated keyword, text
        if len(parts) < 3 or rest[0] not in (0, 1) or rest[1] != 0:
            return None
        text = _inflated(parts[2]) if rest[0] else parts[2]
    if text is None:
        return None
    try:
        return keyword.decode("latin-1"), text.decode("utf-8" if kind == b"iTXt" else "latin-1")
    except UnicodeDecodeError:
        return None


def _inflated(data: bytes) -> bytes | None:
    """Inflated data, or None if they are damaged, cut or larger than MAX_TEXT_BYTES."""
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, MAX_TEXT_BYTES)
    except zlib.error:
        return None
    return text if stream.eof else None
