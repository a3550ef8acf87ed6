"""Whether a model is the very one that an interrupted picture was begun with.

    {"files": {path: [size, mtime_ns, sha256 or null]}, "configs": sha256 of configs and tokenizers}

Hashing gigabytes would keep the first picture waiting: a large file's hash is used where it is known, else its size and
time of modification must be the same. A file that was only touched or copied is then hashed to find out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.hashes import cached_sha256, sha256_of
from tinydiff_weights.source import ModelSource

SMALL = 64 * 2**20  # bytes of a model that are hashed while somebody waits


def fingerprint(source: ModelSource) -> dict[str, Any]:
    """What tells this model from any other, as JSON. Raises ModelFileError."""
    files = sorted({t.file for t in source.stored()})
    statuses = {file: _stat(file) for file in files}
    small = sum(s.st_size for s in statuses.values()) <= SMALL
    rows = {
        os.path.abspath(file): [s.st_size, s.st_mtime_ns, sha256_of(file) if small else cached_sha256(file)]
        for file, s in statuses.items()
    }
    return {"files": rows, "configs": _configs(source)}


def what_changed(saved: Mapping[str, Any], source: ModelSource) -> str | None:
    """The part of the model that differs from a saved fingerprint, in words; None if it is the same model.

    A saved fingerprint of a wrong form differs, too.
    """
    now = fingerprint(source)
    files = saved.get("files")
    if not isinstance(files, dict) or files.keys() != now["files"].keys():
        return "it consists of other files"
    for path, row in now["files"].items():
        if not _same_file(path, files[path], row):
            return f"{path!r} was changed"
    return None if saved.get("configs") == now["configs"] else "a config or tokenizer was changed"


def _same_file(path: str, before: object, now: list[Any]) -> bool:
    if not isinstance(before, list) or len(before) != 3 or before[0] != now[0]:
        return False
    if before[2] is None:
        return bool(before[1] == now[1])
    return before[:2] == now[:2] or before[2] == (now[2] or sha256_of(path))


def _configs(source: ModelSource) -> str:
    tables: dict[str, Any] = {name: dict(c.config) for name, c in source.components.items()}
    tables |= {"scheduler": dict(source.scheduler), "index": dict(source.index), "defaults": dict(source.defaults)}
    for name, tokenizer in source.tokenizers.items():
        paths = (tokenizer.vocab, tokenizer.merges, tokenizer.tokenizer_json)
        tables[name] = [tokenizer.pad_token, tokenizer.model_max_length, *(_digest(p) for p in paths)]
    return hashlib.sha256(json.dumps(tables, sort_keys=True, default=str).encode()).hexdigest()


def _digest(path: Path | None) -> str | None:
    return None if path is None else sha256_of(path)


def _stat(file: str) -> os.stat_result:
    try:
        return os.stat(file)
    except OSError as error:
        raise ModelFileError(file, f"cannot be read: {error.strerror}") from None
