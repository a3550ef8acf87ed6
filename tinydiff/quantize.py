"""From any model to one packed file, layer by layer: `tinydiff quantize`.

    open_model ── plan ── for each layer: read, quantise, write ── header, name
                          a few MB at a time, journalled

The header says what was lost in each layer, which is known at the end: room is kept for it at the beginning. What the
file holds depends on the source's numbers and the settings alone: the same give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinydiff._version import __version__
from tinydiff.bits import Costs
from tinydiff.errors import InvalidArgumentError, ModelFileError
from tinydiff.pack_layer import Error, digest, pack_blocks, padded_bias, row_blocks
from tinydiff.packing import Packing, Recipe, metadata_of, plan, stored_of
from tinydiff.packing_plan import LayerUse
from tinydiff_weights.errors import worded
from tinydiff_weights.packed_format import LayerFormat
from tinydiff_weights.packed_layout import dumps, header_bytes, header_text
from tinydiff_weights.partial_file import PartialFile, open_partial
from tinydiff_weights.safetensors import StoredTensor, check_unchanged
from tinydiff_weights.source import ModelSource

Progress = Callable[[int, int], None]  # bytes of the source: done, in all


@dataclass(frozen=True)
class Report:
    """What became of a model."""

    path: Path
    size: int
    formats: Mapping[str, LayerFormat]
    snr: Mapping[str, float | None]  # "component/layer" -> decibels


def quantize(
    source: ModelSource,
    target: str | Path,
    recipe: Recipe,
    progress: Progress | None = None,
    *,
    force: bool = False,
    losses: Costs | None = None,
) -> Report:
    """Write `target`. An interrupted run goes on where it was when it is asked for again.

    `losses`: of layers, as measured, for "mixed". `force`: replace `target`. Raises ModelFileError (source, target,
    disk) and what `open_model` raises.
    """
    path = Path(target)
    with worded(path):
        _check_target(source, path, force=force)
    with worded(source.path, "read"):
        packing, files = plan(source, recipe, losses), identity(source)
    key = hashlib.sha256(dumps([files, metadata_of(packing, {}), __version__]).encode()).hexdigest()
    with open_partial(path, packing.size, key) as partial:
        _write_all(packing, partial, progress)
        check_unchanged(t for c in source.parts() for t in c.tensors.values())
        metadata = metadata_of(packing, partial.done)
        partial.publish(header_bytes(header_text(packing.slots, metadata), packing.start), overwrite=force)
        snr = {name: partial.done[name]["snr"] for name in packing.formats}
    return Report(path, packing.size, packing.formats, snr)


def _write_all(packing: Packing, partial: PartialFile, progress: Progress | None) -> None:
    """Every piece that is not there yet."""
    places = {slot.name: packing.start + slot.begin for slot in packing.slots}
    dtypes = {slot.name: slot.dtype for slot in packing.slots}
    total, done = sum(t.nbytes for _, _, t in _pieces(packing)), 0
    for name, layer, tensor in _pieces(packing):
        if name not in partial.done:
            if layer is None:
                half = dtypes[name] == "F16"
                _write_plain(partial, places[name], tensor, half=half, name=name)
            else:
                _write_layer(partial, places, packing.formats[name], layer, tensor, name)
        done += tensor.nbytes
        if progress is not None:
            progress(done, total)
    for name, data in packing.extra.items():
        partial.write(places[name], data)
    if packing.source.few_steps is not None:
        for name, stored in packing.source.few_steps.tensors.items():
            partial.write(places[f"few_steps/{name}"], stored.raw)
            partial.record(f"few_steps/{name}", snr=None, sha256=digest(stored))


def _pieces(packing: Packing) -> Iterator[tuple[str, LayerUse | None, StoredTensor]]:
    """(name, layer or None, tensor) of everything that is converted, in the order of use."""
    for part in packing.plans:
        component = part.component.name
        for tensor in (*part.vectors, *part.tables):
            yield f"{component}/{tensor.name}", None, stored_of(tensor)
        for layer in part.layers:
            yield layer.key, layer, stored_of(layer.weight)


def _write_plain(partial: PartialFile, place: int, tensor: StoredTensor, *, half: bool, name: str) -> None:
    for block in row_blocks(tensor):
        values = block.float32().astype(np.float16 if half else np.float32, copy=False)
        partial.write(place, values)
        place += values.nbytes
    partial.record(name, snr=None, sha256=digest(tensor))


def _write_layer(
    partial: PartialFile,
    places: Mapping[str, int],
    wanted: LayerFormat,
    layer: LayerUse,
    tensor: StoredTensor,
    name: str,
) -> None:
    """Block by block; all parts of a layer grow from their beginnings."""
    found, error = digest(tensor), Error()
    at = {part.name: places[f"{name}.{part.name}"] for part in wanted.parts()}
    for block in pack_blocks(wanted, tensor, error):
        for suffix, packed in block:
            for part in ("data", "group_scales", "scales", "sums"):
                values = getattr(packed, part)
                if values is not None:
                    partial.write(at[f"{part}{suffix}"], values)
                    at[f"{part}{suffix}"] += values.nbytes
    if layer.bias is not None:
        bias = stored_of(layer.bias)
        partial.write(at["bias"], padded_bias(wanted, bias))
        found = hashlib.sha256(f"{found} {digest(bias)}".encode()).hexdigest()
    partial.record(name, snr=error.snr, sha256=found)


def _check_target(source: ModelSource, target: Path, *, force: bool) -> None:
    """What can be judged before any work."""
    if target.suffix != ".safetensors":
        raise InvalidArgumentError(f"{str(target)!r:.200}: packed files are named NAME.safetensors")
    if target.is_dir():
        raise ModelFileError(target, "is a folder, expected a file to write")
    if not target.parent.is_dir():
        raise ModelFileError(target.parent, "no such folder")
    if target.exists():
        if not force:
            raise ModelFileError(target, "exists", hint="Choose another name, or --force to replace it")
        files = {t.file for c in source.parts() for t in c.tensors.values()}
        if any(Path(f).exists() and target.samefile(f) for f in files):
            raise InvalidArgumentError(f"{str(target)!r:.200} is the model itself; quantize writes another file")


def identity(source: ModelSource) -> list[list[Any]]:
    """The files that the source lies in, as they are now."""
    files = {t.file for c in source.parts() for t in c.tensors.values()}
    files |= set() if source.few_steps is None else {str(source.few_steps.path)}
    status = [(f, Path(f).stat()) for f in sorted(files)]
    return [[str(Path(f).absolute()), s.st_size, s.st_mtime_ns] for f, s in status]
