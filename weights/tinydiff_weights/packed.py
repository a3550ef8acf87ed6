"""Opening a packed file: one `.safetensors` file that is a whole model, in the order in which the kernels read it.

FORMAT.md describes it. Here every tensor is accounted for: what the metadata promises must be there with the right
format and shape, nothing else may be, and scales must be numbers that can scale. Sums of columns would need the whole
file: `packed_verify.verify` checks them when it is asked to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinydiff_weights.errors import ModelFileError, UnsupportedModelError
from tinydiff_weights.folder import CLASSES, MOST_FEW_STEPS, PIPELINES
from tinydiff_weights.jsonfile import parse_object
from tinydiff_weights.packed_format import (
    FORMAT,
    LARGEST,
    LARGEST_GROUP_SCALE,
    PADDING,
    VERSION,
    LayerFormat,
)
from tinydiff_weights.packed_tensors import AnyTensor, PackedWeight, PaddedBias
from tinydiff_weights.safetensors import SafetensorsFile, StoredTensor
from tinydiff_weights.source import Component, FewStepsSource, ModelSource, TokenizerSource
from tinydiff_weights.vae_file import fitted

COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2", "taesd")
FAMILIES = ("sd1", "sd2", "sdxl")
PLAIN = ("F32", "F16")  # of norms and tables
MAKE_ANEW = "Make it again with `tinydiff quantize`"


def is_packed(file: SafetensorsFile) -> bool:
    return file.metadata.get("format") == FORMAT


def open_packed(file: SafetensorsFile, *, vae: Component | None = None) -> ModelSource:
    """A model, with `vae` in place of its own if given. Raises ModelFileError, UnsupportedModelError."""
    path = file.path
    version = file.metadata.get("format_version", "")
    if version != str(VERSION):
        hint = f"Update tinydiff, or m{MAKE_ANEW[1:]}"
        raise ModelFileError(path, f"is a packed file of version {version!r:.20}; this is {VERSION}", hint=hint)
    model, parts, provenance = (_table(file, key) for key in ("model", "components", "provenance"))
    reader = _Reader(file)
    components = {name: reader.component(name, parts[name]) for name in parts}
    taesd = components.pop("taesd", None)
    if lacking := [n for n in COMPONENTS[:3] if n not in components]:
        raise ModelFileError(path, f"has no {lacking[0]}", hint=MAKE_ANEW)
    tokenizers = {n.replace("text_encoder", "tokenizer") for n in components if n.startswith("text_encoder")}
    found = _Fields(model, path, "model")
    given = found.table("tokenizers")
    if set(given) != tokenizers:
        raise ModelFileError(path, f"has tokenizers {sorted(given)!r:.60}, but text encoders for {sorted(tokenizers)}")
    source = ModelSource(
        path=path,
        kind="packed",
        family=found.one_of("family", FAMILIES),
        why=found.text("why"),
        pipeline_class=found.one_of("pipeline_class", PIPELINES),
        components=components,
        scheduler=found.table("scheduler"),
        tokenizers={name: reader.tokenizer(name, given[name]) for name in sorted(given)},
        index=found.table("index"),
        defaults=_defaults(found.table("defaults"), path),
        few_steps=reader.few_steps(model.get("few_steps")),
        taesd=taesd,
        hints=found.texts("hints"),
        provenance=provenance,
    )
    reader.finish()
    if vae is None:
        return source
    return _replaced(source, fitted(vae, source.family))


def packed_vae(file: SafetensorsFile) -> Component:
    """The autoencoder of a packed file."""
    return open_packed(file).components["vae"]


def weights_of(source: ModelSource) -> str:
    """The choice of weights that a packed file was made with: "int8", "int4", "mixed"; "" where it does not say."""
    recipe = source.provenance.get("recipe")
    weights = recipe.get("weights") if isinstance(recipe, dict) else None
    return weights if isinstance(weights, str) else ""


def _replaced(source: ModelSource, vae: Component) -> ModelSource:
    from dataclasses import replace

    return replace(source, components={**source.components, "vae": vae})


def _table(file: SafetensorsFile, key: str) -> dict[str, Any]:
    text = file.metadata.get(key)
    if text is None:
        raise ModelFileError(file.path, f"is a packed file without {key!r} in its metadata", hint=MAKE_ANEW)
    return parse_object(text, file.path, f"its metadata {key!r} ")


class _Fields:
    """Typed look-ups in a JSON object, with errors that say where."""

    def __init__(self, table: Mapping[str, Any], path: Path, where: str) -> None:
        self._table, self._path, self._where = table, path, where

    def _get(self, key: str, kind: type, what: str) -> Any:
        value = self._table.get(key)
        if type(value) is not kind:
            raise ModelFileError(self._path, f"its metadata: {key!r} of {self._where} is {value!r:.40}, not {what}")
        return value

    def text(self, key: str) -> str:
        return str(self._get(key, str, "text"))

    def flag(self, key: str) -> bool:
        return bool(self._get(key, bool, "true or false"))

    def whole(self, key: str) -> int:
        return int(self._get(key, int, "a whole number"))

    def table(self, key: str) -> dict[str, Any]:
        return dict(self._get(key, dict, "an object"))

    def items(self, key: str) -> list[Any]:
        return list(self._get(key, list, "a list"))

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.items(key)
        if not all(isinstance(v, str) for v in values):
            raise ModelFileError(self._path, f"its metadata: {key!r} of {self._where} is not a list of texts")
        return tuple(values)

    def one_of(self, key: str, known: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in known:
            raise UnsupportedModelError(f"'{self._path}': {key} is {value!r:.60}; known are {', '.join(known)}")
        return value


def _defaults(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """Steps and sizes are used as numbers: they must be."""
    by_type = table.get("by_prediction_type", {})
    rows = [table, *(by_type.values() if isinstance(by_type, dict) else [None])]
    for row in rows:
        if not isinstance(row, dict):
            raise ModelFileError(path, "its metadata: 'defaults' has a row that is no object")
        for key in ("num_inference_steps", "width", "height", "guidance_scale"):
            value = row.get(key, 1)
            whole = type(value) is int or (type(value) is float and key == "guidance_scale")
            if not whole or not 0 <= value < 100_000:
                raise ModelFileError(path, f"its metadata: the default {key} is {value!r:.60}")
    return table


class _Reader:
    """Takes tensors out of the file by name, and knows which are left."""

    def __init__(self, file: SafetensorsFile) -> None:
        self._file, self.path = file, file.path
        self._left = dict(file.tensors)

    def component(self, name: str, table: object) -> Component:
        if name not in COMPONENTS or not isinstance(table, dict):
            raise ModelFileError(self.path, f"its metadata has a component {name!r:.60} that tinydiff does not know")
        fields = _Fields(table, self.path, name)
        config = fields.table("config")
        architectures = config.get("architectures")
        listed = architectures[0] if isinstance(architectures, list) and architectures else None
        named = config.get("_class_name", listed)
        if named not in CLASSES[name]:
            raise UnsupportedModelError(f"'{self.path}': {name} is a {named!r:.60}, not {' or '.join(CLASSES[name])}")
        tensors: dict[str, AnyTensor] = {}
        for row in fields.items("layers"):
            for tensor in self._layer(name, row):
                self._put(tensors, tensor.name, tensor)
        for plain in fields.texts("tensors"):
            stored = self._take(f"{name}/{plain}")
            if stored.dtype not in PLAIN:
                raise ModelFileError(self.path, f"is {stored.dtype}, not {' or '.join(PLAIN)}", tensor=stored.name)
            self._put(tensors, plain, stored.renamed(plain))
        return Component(name, config, tensors, self.path)

    def _put(self, tensors: dict[str, AnyTensor], name: str, tensor: AnyTensor) -> None:
        if name in tensors:
            raise ModelFileError(self.path, "is listed twice in the metadata", tensor=name)
        tensors[name] = tensor

    def _layer(self, component: str, row: object) -> list[PackedWeight | PaddedBias]:
        if not isinstance(row, dict):
            raise ModelFileError(self.path, f"its metadata: a layer of {component} is no object")
        fields = _Fields(row, self.path, f"a layer of {component}")
        shape = tuple(d if type(d) is int else -1 for d in fields.items("shape"))
        layer = LayerFormat(
            fields.text("name"), fields.text("kind"), shape, fields.text("use"), bias=fields.flag("bias")
        )
        if (problem := layer.problem()) is not None:
            raise ModelFileError(self.path, problem, tensor=f"{component}/{layer.name}")
        parts = {}
        for part in layer.parts():
            stored = parts[part.name] = self._take(f"{component}/{layer.name}.{part.name}")
            if (stored.dtype, stored.shape) != (part.dtype, part.shape):
                found = f"is {stored.dtype} {list(stored.shape)}, but its layer ({layer.kind}, {list(layer.shape)}, "
                needs = f"{layer.use}) needs {part.dtype} {list(part.shape)}"
                raise ModelFileError(self.path, found + needs, tensor=stored.name)
            self._check_values(layer, part.name, stored)
        snr = row.get("snr")
        if snr is not None and type(snr) not in (int, float):
            raise ModelFileError(self.path, f"its metadata: 'snr' is {snr!r:.40}", tensor=layer.name)
        bias = parts.pop("bias", None)
        file = str(self.path)
        made: list[PackedWeight | PaddedBias] = [PackedWeight(f"{layer.name}.weight", layer, parts, snr, file)]
        return made if bias is None else [*made, PaddedBias(f"{layer.name}.bias", layer, bias, file)]

    def _check_values(self, layer: LayerFormat, part: str, stored: StoredTensor) -> None:
        """The small tensors of a layer: numbers that no quantiser writes are refused."""
        what = part.split(".")[0]
        if what == "scales":
            scales = stored.raw
            if not np.isfinite(scales).all() or (scales < 0).any():
                reason = "has a scale that is negative, infinite or no number"
                raise ModelFileError(self.path, reason, tensor=stored.name)
            used = layer.columns if layer.use == "gated" else layer.outputs  # columns beyond are padding
            if (scales[:used] == 0).any():
                raise ModelFileError(self.path, "has a scale of zero", tensor=stored.name)
        elif what == "sums":
            group = LARGEST_GROUP_SCALE if layer.kind == "i4" else 1
            most = LARGEST[layer.kind] * group * layer.taps * layer.shape[1]
            if (np.abs(stored.raw.astype(np.int64)) > most).any():
                raise ModelFileError(self.path, "has a sum that no such column can have", tensor=stored.name)

    def _take(self, name: str) -> StoredTensor:
        stored = self._left.pop(name, None)
        if stored is None:
            raise ModelFileError(self.path, "is in the metadata, but not in the file", tensor=name, hint=MAKE_ANEW)
        if stored.raw.size and stored.raw.ctypes.data % min(stored.raw.itemsize, 8):
            raise ModelFileError(self.path, "is not aligned", tensor=name, hint=MAKE_ANEW)
        return stored

    def tokenizer(self, name: str, table: object) -> TokenizerSource:
        if not isinstance(table, dict):
            raise ModelFileError(self.path, f"its metadata: {name} is no object")
        fields = _Fields(table, self.path, name)
        pad, length = fields.text("pad_token"), fields.whole("model_max_length")
        if not 0 < length <= 1000:
            raise ModelFileError(self.path, f"its metadata: 'model_max_length' of {name} is {length}")
        if fields.one_of("vocabulary", ("clip", "stored")) == "clip":
            return TokenizerSource(pad_token=pad, model_max_length=length)
        stored = self._take(f"{name}/vocabulary")
        if stored.dtype != "U8" or len(stored.shape) != 1:
            raise ModelFileError(self.path, "is not a row of bytes", tensor=stored.name)
        return TokenizerSource(pad_token=pad, model_max_length=length, stored=stored)

    def few_steps(self, table: object) -> FewStepsSource | None:
        if table is None:
            return None
        if not isinstance(table, dict):
            raise ModelFileError(self.path, "its metadata: 'few_steps' is no object")
        fields = _Fields(table, self.path, "few_steps")
        steps = fields.whole("steps")
        if not 1 <= steps <= MOST_FEW_STEPS:
            raise ModelFileError(self.path, f"its metadata: few_steps asks for {steps} steps")
        tensors = {n: self._take(f"few_steps/{n}").renamed(n) for n in fields.texts("tensors")}
        return FewStepsSource(self.path, tensors, steps, fields.flag("default"))

    def finish(self) -> None:
        unknown = [name for name in self._left if not name.startswith(PADDING)]
        if unknown:
            others = f" ({len(unknown) - 1} others too)" if len(unknown) > 1 else ""
            raise ModelFileError(self.path, f"is in the file, but not in its metadata{others}", tensor=unknown[0])
