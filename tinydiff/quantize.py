"""From any model to one packed file, layer by layer: `tinydiff quantize`.

    open_model ── build ── plan_packing ── formats ── layout ── for each layer: read, quantise, write ── header, name
                           uses, order     bits       sizes      a few MB at a time, journalled

The header says what was lost in each layer, which is known at the end: room is kept for it at the beginning. What the
file holds depends on the source's numbers and the settings alone: the same give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from tinydiff._version import __version__
from tinydiff.bits import choose_bits, sensitivities
from tinydiff.errors import InvalidArgumentError, ModelFileError
from tinydiff.loading import build
from tinydiff.pack_layer import Error, are_halves, digest, pack_blocks, padded_bias, row_blocks
from tinydiff.packing_plan import ComponentPlan, LayerUse, all_layers, plan_packing
from tinydiff.recipe import INTEGERS, kind_of
from tinydiff.stored_vocabulary import to_json, vocabulary_of
from tinydiff.suggest import unknown
from tinydiff_weights.packed_format import BITS, FORMAT, LARGEST, VERSION, LayerFormat
from tinydiff_weights.packed_layout import Slot, data_start, dumps, header_bytes, header_text, lay_out
from tinydiff_weights.packed_tensors import AnyTensor
from tinydiff_weights.partial_file import PartialFile, open_partial
from tinydiff_weights.safetensors import StoredTensor, check_unchanged
from tinydiff_weights.source import ModelSource, TokenizerSource

CHOICES = ("int8", "int4", "mixed")
WIDE = ("auto", "float16", "float32")
UNKNOWN_SNR, UNKNOWN_DIGEST = -9999.99, "0" * 64  # as long as any that takes their place
Progress = Callable[[int, int], None]  # bytes of the source: done, in all


@dataclass(frozen=True)
class Recipe:
    """What the caller chooses.

    `keep`: patterns (`*`, `?`) of "component.layer" that stay wide beside those of `recipe.is_wide`. `wide`: how wide
    layers and tables are stored: "auto" as float16 where that loses nothing, else float32; or as named. `target_size`:
    bytes of the whole file, for "mixed"; None: half-way between int4 and int8.
    """

    weights: str
    keep: tuple[str, ...] = ()
    wide: str = "auto"
    target_size: int | None = None

    def __post_init__(self) -> None:
        if self.weights not in CHOICES:
            raise unknown("weights", self.weights, CHOICES)
        if self.wide not in WIDE:
            raise unknown("wide", self.wide, WIDE)
        if self.target_size is not None and self.weights != "mixed":
            raise InvalidArgumentError("target_size belongs to weights='mixed'; int8 and int4 have the size they have")


@dataclass(frozen=True)
class Packing:
    """A file before it is written: what lies where."""

    source: ModelSource
    recipe: Recipe
    plans: list[ComponentPlan]
    formats: Mapping[str, LayerFormat]  # "component/layer"
    extra: Mapping[str, bytes]  # vocabularies
    slots: list[Slot]
    start: int  # of the first tensor in the file

    @property
    def size(self) -> int:
        return self.start + self.slots[-1].begin + self.slots[-1].nbytes


@dataclass(frozen=True)
class Report:
    """What became of a model."""

    path: Path
    size: int
    formats: Mapping[str, LayerFormat]
    snr: Mapping[str, float | None]  # "component/layer" -> decibels


def quantize(
    source: ModelSource, target: str | Path, recipe: Recipe, progress: Progress | None = None, *, force: bool = False
) -> Report:
    """Write `target`. An interrupted run goes on where it was when it is asked for again.

    `force`: replace `target`. Raises ModelFileError (source, target, disk) and what `open_model` raises.
    """
    path = Path(target)
    _check_target(source, path, force=force)
    packing = plan(source, recipe)
    key = hashlib.sha256(dumps([_identity(source), _metadata(packing, {}), __version__]).encode()).hexdigest()
    with open_partial(path, packing.size, key) as partial:
        _write_all(packing, partial, progress)
        check_unchanged(t for c in source.components.values() for t in c.tensors.values())
        metadata = _metadata(packing, partial.done)
        partial.publish(header_bytes(header_text(packing.slots, metadata), packing.start), overwrite=force)
        snr = {name: partial.done[name]["snr"] for name in packing.formats}
    return Report(path, packing.size, packing.formats, snr)


def plan(source: ModelSource, recipe: Recipe) -> Packing:
    """Everything but the numbers."""
    if source.kind == "packed":
        raise InvalidArgumentError(f"{str(source.path)!r} is packed already; quantize takes the model it was made from")
    unsaid = source.scheduler.get("prediction_type", "") is None
    model = build(source, weights="auto", backend="reference", prediction_type="epsilon" if unsaid else None)
    plans = plan_packing(model)
    extra = {f"{n}/vocabulary": v for n, t in source.tokenizers.items() if (v := _vocabulary(t)) is not None}
    tables = {t.name: _wide(t, "plain", recipe) for p in plans for t in p.tables}
    table_bytes = sum(t.parameters * BITS[tables[t.name]] // 8 for p in plans for t in p.tables)
    formats = _formats(source, plans, recipe, table_bytes)
    slots = lay_out(_tensors(source, plans, formats, tables, extra))
    packing = Packing(source, recipe, plans, formats, extra, slots, 0)
    return replace(packing, start=data_start(header_text(slots, _metadata(packing, {}))))


# ---------------------------------------------------------------------------------------------------- formats


def _formats(
    source: ModelSource, plans: list[ComponentPlan], recipe: Recipe, table_bytes: int
) -> dict[str, LayerFormat]:
    layers = list(all_layers(plans))
    kept = _kept(layers, recipe.keep)
    chosen: dict[str, LayerFormat] = {}
    undecided: list[tuple[LayerUse, tuple[LayerFormat, LayerFormat]]] = []
    for layer in layers:
        key = f"{layer.component}/{layer.name}"
        levels = source.components[layer.component].config.get("block_out_channels") or ()
        smaller = kind_of(layer.component, "int4" if recipe.weights == "int4" else "int8", len(levels))(layer.handle)
        if key in kept or smaller not in INTEGERS.values():
            chosen[key] = _format(layer, _wide(layer.weight, layer.use, recipe))
        elif recipe.weights == "mixed":
            undecided.append((layer, (_format(layer, "i4"), _format(layer, "i8"))))
        else:
            chosen[key] = _format(layer, smaller)
    if undecided:
        sizes = {f"{u.component}/{u.name}": {f.kind: f.nbytes for f in options} for u, options in undecided}
        if recipe.target_size is None:
            room = sum(sum(size.values()) for size in sizes.values()) // 2
        else:
            vectors = sum(4 * t.parameters for p in plans for t in p.vectors)
            room = recipe.target_size - sum(f.nbytes for f in chosen.values()) - vectors - table_bytes
        kinds = choose_bits(sensitivities(undecided), sizes, room)
        chosen |= {f"{u.component}/{u.name}": _format(u, kinds[f"{u.component}/{u.name}"]) for u, _ in undecided}
    return {f"{u.component}/{u.name}": chosen[f"{u.component}/{u.name}"] for u in layers}


def _kept(layers: list[LayerUse], patterns: tuple[str, ...]) -> set[str]:
    kept: set[str] = set()
    for pattern in patterns:
        matching = {f"{u.component}/{u.name}" for u in layers if fnmatchcase(f"{u.component}.{u.name}", pattern)}
        if not matching:
            example = f"{layers[0].component}.{layers[0].name}"
            raise InvalidArgumentError(f"keep: no layer matches {pattern!r:.80}; names are such as {example!r}")
        kept |= matching
    return kept


def _format(layer: LayerUse, kind: str) -> LayerFormat:
    return LayerFormat(layer.name, kind, layer.weight.shape, layer.use, layer.bias is not None)


def _wide(tensor: AnyTensor, use: str, recipe: Recipe) -> str:
    """f16 where the recipe allows it; sums of weights are no halves (`LayerFormat.problem`)."""
    if use == "upsampled" or recipe.wide == "float32":
        return "f32"
    return "f16" if are_halves(_stored(tensor), nearly=recipe.wide == "float16") else "f32"


def _stored(tensor: AnyTensor) -> StoredTensor:
    """The source is no packed file (`plan` looked), though its VAE may come from one."""
    if not isinstance(tensor, StoredTensor):
        raise InvalidArgumentError(f"{tensor.file!r} is packed already; quantize takes a VAE that is not")
    return tensor


# ---------------------------------------------------------------------------------------------------- layout


def _tensors(
    source: ModelSource,
    plans: list[ComponentPlan],
    formats: Mapping[str, LayerFormat],
    tables: Mapping[str, str],
    extra: Mapping[str, bytes],
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of every tensor in the order of the file: of each network first all that is small, which
    stays in memory, then tables and weights in the order of their use, which may stream."""
    for name, data in extra.items():
        yield name, "U8", (len(data),)
    for part in plans:
        component = part.component.name
        layers = [(f"{component}/{u.name}", formats[f"{component}/{u.name}"]) for u in part.layers]
        for tensor in part.vectors:
            yield f"{component}/{tensor.name}", "F32", tensor.shape
        for key, layer in layers:
            for p in layer.parts():
                if not p.big:
                    yield f"{key}.{p.name}", p.dtype, p.shape
        for tensor in part.tables:
            yield f"{component}/{tensor.name}", tables[tensor.name].upper(), tensor.shape
        for key, layer in layers:
            for p in layer.parts():
                if p.big:
                    yield f"{key}.{p.name}", p.dtype, p.shape
    if source.few_steps is not None:
        for name, stored in source.few_steps.tensors.items():
            yield f"few_steps/{name}", stored.dtype, stored.shape


def _metadata(packing: Packing, done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the header says beside names and shapes; figures that are not known yet get the room they may need."""
    source, few = packing.source, packing.source.few_steps
    model = {
        "family": source.family,
        "why": source.why,
        "pipeline_class": source.pipeline_class,
        "scheduler": dict(source.scheduler),
        "index": dict(source.index),
        "defaults": {key: value for key, value in source.defaults.items() if key != "few_steps"},
        "hints": list(source.hints),
        "tokenizers": {name: _tokenizer(name, t, packing.extra) for name, t in source.tokenizers.items()},
    }
    if few is not None:
        model["few_steps"] = {"steps": few.steps, "default": few.default, "tensors": list(few.tensors)}
    components = {}
    for part in packing.plans:
        name = part.component.name
        layers = [
            {**packing.formats[f"{name}/{u.name}"].as_json(), "snr": done.get(f"{name}/{u.name}", _NOTHING)["snr"]}
            for u in part.layers
        ]
        tensors = [t.name for t in (*part.vectors, *part.tables)]
        components[name] = {"config": dict(part.component.config), "layers": layers, "tensors": tensors}
    rows = [f"{name} {facts['sha256']}" for name, facts in sorted(done.items())]
    provenance = {
        "tinydiff": __version__,
        "source_sha256": hashlib.sha256("\n".join(rows).encode()).hexdigest() if rows else UNKNOWN_DIGEST,
        "recipe": asdict(packing.recipe),
        "wmax": LARGEST,
    }
    return {
        "format": FORMAT, "format_version": str(VERSION), "model": model, "components": components,
        "provenance": provenance,
    }  # fmt: skip


_NOTHING = {"snr": UNKNOWN_SNR}


def _vocabulary(tokenizer: TokenizerSource) -> bytes | None:
    """None for CLIP's own, which every installation has."""
    found = to_json(vocabulary_of(tokenizer))
    own = TokenizerSource(pad_token=tokenizer.pad_token, model_max_length=tokenizer.model_max_length)
    return None if found == to_json(vocabulary_of(own)) else found


def _tokenizer(name: str, tokenizer: TokenizerSource, extra: Mapping[str, bytes]) -> dict[str, Any]:
    vocabulary = "stored" if f"{name}/vocabulary" in extra else "clip"
    return {
        "vocabulary": vocabulary, "pad_token": tokenizer.pad_token, "model_max_length": tokenizer.model_max_length,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------- writing


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
            yield f"{component}/{tensor.name}", None, _stored(tensor)
        for layer in part.layers:
            yield f"{component}/{layer.name}", layer, _stored(layer.weight)


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
        bias = _stored(layer.bias)
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
        files = {t.file for c in source.components.values() for t in c.tensors.values()}
        if any(Path(f).exists() and target.samefile(f) for f in files):
            raise InvalidArgumentError(f"{str(target)!r:.200} is the model itself; quantize writes another file")


def _identity(source: ModelSource) -> list[list[Any]]:
    """The files that the source lies in, as they are now."""
    files = sorted({t.file for c in source.components.values() for t in c.tensors.values()})
    status = [(f, Path(f).stat()) for f in files]
    return [[str(Path(f).absolute()), s.st_size, s.st_mtime_ns] for f, s in status]
