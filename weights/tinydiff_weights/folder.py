"""Opening a diffusers folder: model_index.json names the parts, each part has its folder.

    model_index.json   {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], ...}
    unet/ vae/         config.json and weights (see weight_files.py)
    text_encoder/      config.json and weights; SDXL has text_encoder_2/ as well
    tokenizer/         vocabulary; SDXL has tokenizer_2/
    scheduler/         scheduler_config.json
    tinydiff.json      optional: defaults for steps, guidance, width and height; a file of few-step additions
    taesd/             optional: a small autoencoder (AutoencoderTiny) on the same latents, with config.json and weights

The safety checker, its feature extractor and an image encoder are optional and not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinydiff_weights.errors import ModelFileError, UnsupportedModelError
from tinydiff_weights.folder_kinds import explain_folder
from tinydiff_weights.jsonfile import read_json
from tinydiff_weights.rename_old import hub_clip_names, modern_vae_names
from tinydiff_weights.safetensors import StoredTensor, open_safetensors
from tinydiff_weights.source import Component, FewStepsSource, ModelSource, TokenizerSource
from tinydiff_weights.tokenizer_files import open_tokenizer
from tinydiff_weights.vae_file import fitted
from tinydiff_weights.weight_files import open_weights

PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
)
_CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
_TOKENIZER = ("CLIPTokenizer", "CLIPTokenizerFast")
CLASSES = {  # what may stand in model_index.json; a scheduler may be any, tinydiff.schedulers judges it
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny"),
    "taesd": ("AutoencoderTiny",),
    "text_encoder": _CLIP,
    "text_encoder_2": _CLIP,
    "tokenizer": _TOKENIZER,
    "tokenizer_2": _TOKENIZER,
}
TAESD = "AutoencoderTiny"
IGNORED = frozenset(["safety_checker", "feature_extractor", "image_encoder"])
MOST_FEW_STEPS = 8
_WHOLE_DEFAULTS = ("num_inference_steps", "width", "height")


def open_folder(path: str | Path, *, vae: Component | None = None) -> ModelSource:
    """Open a diffusers folder, with `vae` in place of its own if given.

    Raises ModelFileError for what is missing or damaged, UnsupportedModelError for models of other kinds.
    """
    root = Path(path)
    index_path = root / "model_index.json"
    if not index_path.is_file():
        raise explain_folder(root)
    index = read_json(index_path)
    pipeline = _check_index(index, root, replaced=() if vae is None else ("vae",))
    unet = open_component(root, "unet", index)
    family, why = _family(unet, index)
    encoders = ("text_encoder", "text_encoder_2") if family == "sdxl" else ("text_encoder",)
    own_vae = open_component(root, "vae", index) if vae is None else _replacement(vae, root, family)
    components = {"unet": unet, "vae": own_vae}
    defaults = _defaults(root / "tinydiff.json", pipeline)
    position_ids = 0
    for name in encoders:
        component = open_component(root, name, index)
        stored = {n: t for n, t in component.tensors.items() if isinstance(t, StoredTensor)}
        tensors, dropped = hub_clip_names(stored)
        components[name] = Component(name, component.config, tensors, component.path)
        position_ids += dropped
    return ModelSource(
        path=root,
        kind="folder",
        family=family,
        why=why,
        pipeline_class=pipeline,
        components=components,
        scheduler=_scheduler(root, index),
        tokenizers={e.replace("text_encoder", "tokenizer"): _tokenizer(root, e, family) for e in encoders},
        index=index,
        defaults=defaults,
        few_steps=_few_steps(root, defaults),
        taesd=_taesd(root),
        leftovers={"position_ids": position_ids} if position_ids else {},
    )


def open_component(root: Path, name: str, index: Mapping[str, Any]) -> Component:
    """One network of the model in `root`: its config and its tensors under today's names."""
    folder = root / name
    named = _class_in_index(index, name)
    if named is None:
        hint = "Give one with --vae" if name == "vae" else None
        raise ModelFileError(root / "model_index.json", f"has no {name}", hint=hint)
    if not folder.is_dir():
        hint = "Give one with --vae, or fetch the model again" if name == "vae" else "Fetch the model again"
        raise ModelFileError(folder, f"no such folder, but model_index.json has a {name}", hint=hint)
    return _component(folder, root, name, named)


def open_vae_folder(path: str | Path) -> Component:
    """An autoencoder from a folder of its own (AutoencoderKL or AutoencoderTiny), or from a whole model's folder."""
    root = Path(path)
    if (root / "model_index.json").is_file():
        return open_component(root, "vae", read_json(root / "model_index.json"))
    if not (root / "config.json").is_file():
        raise ModelFileError(root, "has no config.json, so it is no VAE of diffusers")
    named = read_json(root / "config.json").get("_class_name", "AutoencoderKL")
    _check_class("vae", named, root / "config.json")
    return _component(root, root, "vae", str(named))


def _replacement(vae: Component, root: Path, family: str) -> Component:
    """A VAE from elsewhere; one without a scaling factor (a file cannot tell it) takes that of the VAE it replaces."""
    own = root / "vae" / "config.json"
    if vae.config["_class_name"] == "AutoencoderKL" and "scaling_factor" not in vae.config and own.is_file():
        factor = read_json(own).get("scaling_factor")
        if factor is not None:
            return Component(vae.name, {**vae.config, "scaling_factor": factor}, vae.tensors, vae.path)
    return fitted(vae, family)


def _taesd(root: Path) -> Component | None:
    folder = root / "taesd"
    return _component(folder, root, "taesd", TAESD) if (folder / "config.json").is_file() else None


def _component(folder: Path, root: Path, name: str, named: str) -> Component:
    config = read_json(folder / "config.json")
    own = config.get("_class_name", named)
    if own != named:
        raise ModelFileError(folder / "config.json", f"is of a {own!r:.60}, but {named} is expected")
    tensors = open_weights(folder, root)
    if named == "AutoencoderKL":
        tensors = modern_vae_names(tensors)
    return Component(name, {**config, "_class_name": named}, tensors, folder)


# ------------------------------------------------------------------------------------------------- the index


def _check_index(index: Mapping[str, Any], root: Path, replaced: tuple[str, ...]) -> str:
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        known = ", ".join(PIPELINES)
        raise UnsupportedModelError(f"'{root}': is a {pipeline!r:.60}, which tinydiff does not run (it runs {known})")
    for name in index:
        named = _class_in_index(index, name)
        if named is None or name in IGNORED or name in replaced or name == "scheduler":
            continue
        if name not in CLASSES:
            raise UnsupportedModelError(f"'{root}': has a part {name!r:.60} ({named!r:.60}) that tinydiff does not run")
        _check_class(name, named, root / "model_index.json")
    return str(pipeline)


def _class_in_index(index: Mapping[str, Any], name: str) -> str | None:
    """The class of a part; None where the index has none, or an option of the pipeline under that name."""
    entry = index.get(name)
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], str):
        return None
    return entry[1]


def _check_class(name: str, named: object, where: Path) -> None:
    if named not in CLASSES[name]:
        raise UnsupportedModelError(
            f"'{where}': {name} is a {named!r:.60}; tinydiff runs {' and '.join(CLASSES[name])}"
        )


def _family(unet: Component, index: Mapping[str, Any]) -> tuple[str, str]:
    """sd1, sd2 or sdxl, by what the UNet's config says."""
    config = unet.config
    width = config.get("cross_attention_dim")
    if config.get("addition_embed_type") == "text_time":
        if index.get("requires_aesthetics_score") is True or width == 1280:
            raise UnsupportedModelError(
                f"'{unet.path}': is the SDXL refiner, which refines pictures of another model; open SDXL base instead"
            )
        return "sdxl", "the UNet takes text and time embeddings (addition_embed_type text_time), as SDXL does"
    if config.get("addition_embed_type") is not None:
        kind = config["addition_embed_type"]
        raise UnsupportedModelError(
            f"'{unet.path}': addition_embed_type {kind!r:.60} is not one of tinydiff's families"
        )
    if width == 1024 or config.get("use_linear_projection") is True:
        return "sd2", f"the UNet attends to text of width {width} with linear projections, as Stable Diffusion 2 does"
    known = "as Stable Diffusion 1 does" if width == 768 else "a model of Stable Diffusion 1's kind in its own size"
    return "sd1", f"the UNet attends to text of width {width}, {known}"


# ---------------------------------------------------------------------------------- scheduler, tokenizer, defaults


def _scheduler(root: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    path = root / "scheduler" / "scheduler_config.json"
    config = read_json(path)
    named = config.get("_class_name") or _class_in_index(index, "scheduler")
    if not isinstance(named, str):
        raise ModelFileError(path, "does not name its class (_class_name)")
    return {**config, "_class_name": named}


def _tokenizer(root: Path, encoder: str, family: str) -> TokenizerSource:
    pad = "!" if family == "sd2" or encoder == "text_encoder_2" else "<|endoftext|>"
    return open_tokenizer(root / encoder.replace("text_encoder", "tokenizer"), pad)


def _defaults(path: Path, pipeline: str) -> dict[str, Any]:
    """The model's own (tinydiff.json); those of diffusers' pipeline where it has its own; else none."""
    if not path.is_file():
        return {"num_inference_steps": 4, "guidance_scale": 8.5} if "LatentConsistency" in pipeline else {}
    table = read_json(path)
    for key in (*_WHOLE_DEFAULTS, "guidance_scale"):
        value = table.get(key, 1)
        whole = type(value) is int
        if not (whole or (type(value) is float and key not in _WHOLE_DEFAULTS)) or not 0 <= value < 100_000:
            raise ModelFileError(path, f"{key} is {value!r:.60}")
    return table


def _few_steps(root: Path, defaults: Mapping[str, Any]) -> FewStepsSource | None:
    """`"few_steps": {"file": NAME, "num_inference_steps": N, "default": true}` of tinydiff.json."""
    entry = defaults.get("few_steps")
    if entry is None:
        return None
    where = root / "tinydiff.json"
    if not isinstance(entry, dict):
        raise ModelFileError(where, f"few_steps is {entry!r:.60}")
    file, steps, default = (entry.get(key) for key in ("file", "num_inference_steps", "default"))
    if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
        raise ModelFileError(where, f"few_steps names the file {file!r:.60}; expected NAME.safetensors in this folder")
    if type(steps) is not int or not 1 <= steps <= MOST_FEW_STEPS:
        raise ModelFileError(where, f"few_steps asks for {steps!r:.60} steps; expected 1 to {MOST_FEW_STEPS}")
    if not isinstance(default, bool):
        raise ModelFileError(where, f"few_steps has the default {default!r:.60}; expected true or false")
    opened = open_safetensors(root / file)
    return FewStepsSource(opened.path, opened.tensors, steps, default)
