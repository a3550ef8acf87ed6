"""SHA-256 of model files, remembered: hashing 2 GB takes seconds, and A1111's PNG text wants it every time.

The memory is `hashes.json` in tinydiff's cache folder: absolute path -> [size, mtime_ns, sha256]. It is a
convenience: when it is damaged or cannot be written, hashes are computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.mapping import open_regular
from tinydiff_weights.write import atomic_write_bytes

_BLOCK = 2**20
_MAX_ENTRIES = 1000  # the oldest are forgotten
_MAX_BYTES = 8 * 2**20


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/tinydiff`, or `~/.cache/tinydiff`. Not created here."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "tinydiff"


def cached_sha256(path: str | Path, cache_dir: str | Path | None = None) -> str | None:
    """The hash of `path` if it was computed before for this size and modification time, else None."""
    path = Path(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return _known(_read(_file(cache_dir)), path, status)


def sha256_of(
    path: str | Path,
    cache_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """The SHA-256 of a file in lower-case hexadecimal, from the cache or computed and put there.

    `progress(bytes_done, bytes_total)` is called about once a megabyte. Raises ModelFileError.
    """
    path = Path(path)
    with open_regular(path) as descriptor:
        before = os.fstat(descriptor)
        known = _known(_read(_file(cache_dir)), path, before)
        if known is not None:
            return known
        digest, done = hashlib.sha256(), 0
        while block := os.read(descriptor, _BLOCK):
            digest.update(block)
            done += len(block)
            if progress is not None:
                progress(done, before.st_size)
        after = os.fstat(descriptor)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or done != after.st_size:
        raise ModelFileError(path, "changes while it is hashed", hint="Wait until it is written, then try again")
    _remember(_file(cache_dir), path, after, digest.hexdigest())
    return digest.hexdigest()


def _file(cache_dir: str | Path | None) -> Path:
    return (cache_folder() if cache_dir is None else Path(cache_dir)) / "hashes.json"


def _key(path: Path) -> str:
    return os.fsencode(path.absolute()).decode("utf-8", "backslashreplace")


def _known(table: dict[str, list[Any]], path: Path, status: os.stat_result) -> str | None:
    row = table.get(_key(path))
    return str(row[2]) if row is not None and row[:2] == [status.st_size, status.st_mtime_ns] else None


def _read(file: Path) -> dict[str, list[Any]]:
    """The table, without any row that is not of our making."""
    try:
        with open(file, "rb") as stream:
            table = json.loads(stream.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(table, dict):
        return {}
    return {key: row for key, row in table.items() if _is_row(row)}


def _is_row(row: object) -> bool:
    if not isinstance(row, list) or len(row) != 3 or type(row[0]) is not int or type(row[1]) is not int:
        return False
    return isinstance(row[2], str) and len(row[2]) == 64 and set(row[2]) <= set("0123456789abcdef")


def _remember(file: Path, path: Path, status: os.stat_result, digest: str) -> None:
    table = _read(file)
    table.pop(_key(path), None)
    table[_key(path)] = [status.st_size, status.st_mtime_ns, digest]
    kept = dict(list(table.items())[-_MAX_ENTRIES:])
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic_write_bytes(file, json.dumps(kept, indent=0).encode())
