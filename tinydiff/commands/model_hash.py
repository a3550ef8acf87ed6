"""The hash that names a model: of the single file, or of the UNet's weights in a folder.

A UNet in several shards has the SHA-256 of its shards' digests in the order of their names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from tinydiff_weights.hashes import cached_sha256, sha256_of
from tinydiff_weights.packed_tensors import AnyTensor
from tinydiff_weights.source import ModelSource

SMALL = 64 * 2**20  # bytes that may be hashed while somebody waits for a picture


def files_of(tensors: Iterable[AnyTensor]) -> list[Path]:
    return [Path(file) for file in sorted({t.file for t in tensors})]


def hashed_files(source: ModelSource) -> list[Path]:
    source = source.origin or source
    one_file = source.kind in ("single_file", "packed")
    return [source.path] if one_file else files_of(source.components["unet"].tensors.values())


def model_hash(source: ModelSource, *, compute: bool) -> str | None:
    """64 hexadecimal digits; None if it is not known and `compute` is not wanted. Raises ModelFileError."""
    files = hashed_files(source)
    digests = [sha256_of(f) if compute else cached_sha256(f) for f in files]
    known = [d for d in digests if d is not None]
    if not known or len(known) < len(files):
        return None
    return known[0] if len(known) == 1 else hashlib.sha256(bytes.fromhex("".join(known))).hexdigest()


def quick_model_hash(source: ModelSource) -> str | None:
    """The hash if it is known or the files are small; gigabytes are not read for it."""
    return model_hash(source, compute=sum(_size(f) for f in hashed_files(source)) <= SMALL)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
