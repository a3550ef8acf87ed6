"""What a packed file will hold, before a number of it is written: which format for which layer, and what lies where.

build ── plan_packing ── formats ── layout, header
         uses, order     bits       sizes and offsets follow from shapes
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from tinydiff._version import __version__
from tinydiff.bits import Costs, choose_bits, sensitivities
from tinydiff.errors import InvalidArgumentError
from tinydiff.loading import Model, build
from tinydiff.pack_layer import are_halves
from tinydiff.packing_plan import ComponentPlan, LayerUse, all_layers, plan_component, plan_packing
from tinydiff.recipe import INTEGERS, kind_of
from tinydiff.stored_vocabulary import to_json, vocabulary_of
from tinydiff.suggest import unknown
from tinydiff_weights.packed_format import FORMAT, LARGEST, VERSION, LayerFormat
from tinydiff_weights.packed_layout import Slot, data_start, header_text, lay_out
from tinydiff_weights.packed_tensors import AnyTensor
from tinydiff_weights.safetensors import StoredTensor
from tinydiff_weights.source import ModelSource, TokenizerSource

CHOICES = ("int8", "int4", "mixed")
WIDE = ("auto", "float16", "float32")
UNKNOWN_SNR, UNKNOWN_DIGEST = -9999.99, "0" * 64  # as long as any that takes their place


@dataclass(frozen=True)
class Recipe:
    """What the caller chooses.

    `keep`: patterns (`*`, `?`) of "component.layer" that stay wide beside those of `recipe.is_wide`. `wide`: how wide
    layers and tables are stored: "auto" as float16 where that loses nothing, else float32; or as named. `target_size`:
    bytes of the whole file, for "mixed"; None: half-way between 4 bits for all that can have them and 8 for all.
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


def plan(source: ModelSource, recipe: Recipe, losses: Costs | None = None) -> Packing:
    """Everything but the numbers. `losses`: measured, for "mixed" (`tinydiff.quality.sensitivities`)."""
    if source.kind == "packed":
        raise InvalidArgumentError(f"{str(source.path)!r} is packed already; quantize takes the model it was made from")
    plans = plan_packing(_build(source))
    if source.taesd is not None:
        plans.append(plan_component(source.taesd, _build(source.with_taesd())))
    extra = {f"{n}/vocabulary": v for n, t in source.tokenizers.items() if (v := _vocabulary(t)) is not None}
    tables = {f"{p.component.name}/{t.name}": _wide(t, "plain", recipe) for p in plans for t in p.tables}
    options = _options(plans, recipe)

    def packing(formats: Mapping[str, LayerFormat]) -> Packing:
        slots = lay_out(_tensors(source, plans, formats, tables, extra))
        made = Packing(source, recipe, plans, formats, extra, slots, 0)
        return replace(made, start=data_start(header_text(slots, metadata_of(made, {}))))

    smallest = packing({name: min(formats, key=lambda f: f.nbytes) for name, formats in options.items()})
    return smallest if recipe.weights != "mixed" else _mixed(smallest, options, packing, losses or {})


def _build(source: ModelSource) -> Model:
    unsaid = source.scheduler.get("prediction_type", "") is None
    return build(source, weights="auto", backend="reference", prediction_type="epsilon" if unsaid else None)


# ---------------------------------------------------------------------------------------------------- formats


def _options(plans: list[ComponentPlan], recipe: Recipe) -> dict[str, tuple[LayerFormat, ...]]:
    """What each layer may become; more than one where the recipe is "mixed"."""
    layers, configs = list(all_layers(plans)), {p.component.name: p.component.config for p in plans}
    kept, options = _kept(layers, recipe.keep), dict[str, tuple[LayerFormat, ...]]()
    for layer in layers:
        levels = configs[layer.component].get("block_out_channels") or ()
        smallest = kind_of(layer.component, "int8" if recipe.weights == "int8" else "int4", len(levels))(layer.handle)
        if layer.key in kept or smallest not in INTEGERS.values():
            kinds: tuple[str, ...] = (_wide(layer.weight, layer.use, recipe),)
        else:
            kinds = ("i4", "i8") if recipe.weights == "mixed" else (smallest,)
        options[layer.key] = tuple(
            LayerFormat(layer.name, kind, layer.weight.shape, layer.use, layer.bias is not None) for kind in kinds
        )
    return options


def _mixed(
    smallest: Packing,
    options: Mapping[str, tuple[LayerFormat, ...]],
    packing: Callable[[Mapping[str, LayerFormat]], Packing],
    measured: Costs,
) -> Packing:
    """8 bits where they help most for their bytes, within the target size. Layers not measured are estimated."""
    sizes = {name: {f.kind: f.nbytes for f in formats} for name, formats in options.items() if len(formats) > 1}
    least, most = (sum(pick(size.values()) for size in sizes.values()) for pick in (min, max))
    target = smallest.recipe.target_size or smallest.size + (most - least) // 2
    if smallest.size > target:
        words = f"the smallest file of this model is of {smallest.size / 2**20:.2f} MB"
        raise InvalidArgumentError(f"target_size {target / 2**20:.2f} MB: {words}")
    losses: dict[str, Mapping[str, float]] = {n: loss for n, loss in measured.items() if {"i4", "i8"} <= loss.keys()}
    unknown_ones = [u for u in all_layers(smallest.plans) if u.key in sizes and u.key not in losses]
    losses |= sensitivities([(u, options[u.key]) for u in unknown_ones])
    room = least + target - smallest.size
    while True:
        kinds = choose_bits(losses, sizes, room)
        made = packing({n: next(f for f in fs if f.kind == kinds.get(n, f.kind)) for n, fs in options.items()})
        if made.size <= target:
            return made
        room -= made.size - target  # padding between tensors


def _kept(layers: list[LayerUse], patterns: tuple[str, ...]) -> set[str]:
    kept: set[str] = set()
    for pattern in patterns:
        matching = {u.key for u in layers if fnmatchcase(f"{u.component}.{u.name}", pattern)}
        if not matching:
            example = f"{layers[0].component}.{layers[0].name}"
            raise InvalidArgumentError(f"keep: no layer matches {pattern!r:.80}; names are such as {example!r}")
        kept |= matching
    return kept


def _wide(tensor: AnyTensor, use: str, recipe: Recipe) -> str:
    """f16 where the recipe allows it; sums of weights are no halves (`LayerFormat.problem`)."""
    if use == "upsampled" or recipe.wide == "float32":
        return "f32"
    return "f16" if are_halves(stored_of(tensor), nearly=recipe.wide == "float16") else "f32"


def stored_of(tensor: AnyTensor) -> StoredTensor:
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
        layers = [(u.key, formats[u.key]) for u in part.layers]
        for tensor in part.vectors:
            yield f"{component}/{tensor.name}", "F32", tensor.shape
        for key, layer in layers:
            for p in layer.parts():
                if not p.big:
                    yield f"{key}.{p.name}", p.dtype, p.shape
        for tensor in part.tables:
            key = f"{component}/{tensor.name}"
            yield key, tables[key].upper(), tensor.shape
        for key, layer in layers:
            for p in layer.parts():
                if p.big:
                    yield f"{key}.{p.name}", p.dtype, p.shape
    if source.few_steps is not None:
        for name, stored in source.few_steps.tensors.items():
            yield f"few_steps/{name}", stored.dtype, stored.shape


def metadata_of(packing: Packing, done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
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
        layers = [{**packing.formats[u.key].as_json(), "snr": done.get(u.key, _NOTHING)["snr"]} for u in part.layers]
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
