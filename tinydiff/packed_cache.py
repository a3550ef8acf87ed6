"""`weights="int8"` of a model that is not packed: a packed copy in the cache folder, made once, mapped ever after.

    $XDG_CACHE_HOME/tinydiff/models/NAME-KEY-int8.safetensors

KEY stands for the source's files (path, size, time of change) and configs, the version of tinydiff, of its recipe and
of the format: another source gets another copy. Nothing is deleted here; the folder may be emptied at any time. Small
models are quantised in memory instead, which takes a moment and no disk.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path

from tinydiff._version import __version__
from tinydiff.backends import chosen
from tinydiff.errors import ModelFileError
from tinydiff.packing import Recipe
from tinydiff.quantize import Progress, identity, quantize
from tinydiff.recipe import INTEGERS, REVISION
from tinydiff_weights.errors import worded
from tinydiff_weights.hashes import cache_folder
from tinydiff_weights.open import open_model
from tinydiff_weights.packed_format import VERSION
from tinydiff_weights.packed_layout import dumps
from tinydiff_weights.source import ModelSource

SMALL = 64 * 2**20  # bytes of tensors


def packed_source(
    source: ModelSource, weights: str, backend: str = "auto", progress: Progress | None = None
) -> ModelSource:
    """What to load for these weights: the source itself, or its packed copy, which is made if it is not there yet.

    Raises ModelFileError (source, cache folder, disk).
    """
    size = sum(t.nbytes for c in source.components.values() for t in c.tensors.values())
    if weights not in INTEGERS or source.kind == "packed" or size <= SMALL or chosen(backend)[0] == "reference":
        return source
    path = cached_path(source, weights)
    with worded(path, "read"):
        there = path.exists()
    if there:
        try:
            return replace(open_model(path), origin=source)
        except ModelFileError:  # damaged since it was written: made again
            pass
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made: {error.strerror or error}"
        raise ModelFileError(path.parent, reason, hint="Set XDG_CACHE_HOME, or use tinydiff quantize") from error
    quantize(source, path, Recipe(weights), progress, force=True)
    return replace(open_model(path), origin=source)


def packed_if_there(source: ModelSource, weights: str) -> tuple[ModelSource, bool]:
    """(what `packed_source` would load, without making a copy; whether a copy would have to be made)."""
    size = sum(t.nbytes for c in source.components.values() for t in c.tensors.values())
    if weights not in INTEGERS or source.kind == "packed" or size <= SMALL:
        return source, False
    path = cached_path(source, weights)
    return (replace(open_model(path), origin=source), False) if path.exists() else (source, True)


def cached_path(source: ModelSource, weights: str) -> Path:
    """Where the copy of a source lies."""
    configs = {name: dict(component.config) for name, component in source.components.items()}
    with worded(source.path, "read"):
        files = identity(source)
    facts = [files, configs, dict(source.scheduler), weights, VERSION, REVISION, __version__]
    key = hashlib.sha256(dumps(facts).encode()).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", os.path.basename(source.path.absolute()).removesuffix(".safetensors"))
    return cache_folder() / "models" / f"{name[:80] or 'model'}-{key}-{weights}.safetensors"
