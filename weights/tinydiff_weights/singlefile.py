"""Opening single-file checkpoints, as Stability, A1111, ComfyUI and the model sites distribute them.

    model.diffusion_model.*                                        the UNet, in Stability's names
    first_stage_model.*  or  vae.*                                 the VAE
    cond_stage_model.transformer.*  or  cond_stage_model.model.*   the text encoder of SD 1 or SD 2
    conditioner.embedders.0.transformer.* and .1.model.*           the two text encoders of SDXL

Nothing but the file is needed: configs are inferred (`detect`), names mapped (`names`), what the file leaves
unsaid is set as published (`settings`). What is not a Stable Diffusion is refused by name (`kinds`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tinydiff_weights import kinds, settings
from tinydiff_weights.claims import Claims
from tinydiff_weights.detect import clip_config, recognise, unet_config, unet_layout
from tinydiff_weights.errors import ModelFileError, UnsupportedModelError
from tinydiff_weights.folder import open_vae_folder
from tinydiff_weights.names import Mapped, map_clip, map_open_clip, map_unet
from tinydiff_weights.safetensors import SafetensorsFile, StoredTensor, open_safetensors
from tinydiff_weights.source import Component, ModelSource, TokenizerSource
from tinydiff_weights.vae_file import fitted, incomplete, open_vae_file, read_vae_file, vae_component

__all__ = ["open_single_file", "open_vae_file"]


class TextPlace(NamedTuple):
    """Where a text encoder may lie, the first that has tensors wins, and what its kind is."""

    prefixes: tuple[str, ...]
    activation: str  # OpenAI trained CLIP-L with quick_gelu, LAION its encoders with gelu
    projection: bool = False
    drop_last: bool = False  # SD 2 reads the penultimate layer and diffusers stores no more
    pad_token: str = "<|endoftext|>"


TEXT_PLACES: dict[str, dict[str, TextPlace]] = {
    "sd1": {"text_encoder": TextPlace(("cond_stage_model.transformer.", "cond_stage_model.model."), "quick_gelu")},
    "sd2": {
        "text_encoder": TextPlace(
            ("cond_stage_model.model.", "cond_stage_model.transformer."), "gelu", drop_last=True, pad_token="!"
        )
    },
    "sdxl": {
        "text_encoder": TextPlace(("conditioner.embedders.0.transformer.",), "quick_gelu"),
        "text_encoder_2": TextPlace(
            ("conditioner.embedders.1.model.", "conditioner.embedders.1.transformer."),
            "gelu",
            projection=True,
            pad_token="!",
        ),
    },
}
LAYERS_BEFORE_LAST = 23  # OpenCLIP ViT-H has 24; a file that was saved without the last has this many already
PIPELINES = {
    ("sdxl", 4): "StableDiffusionXLPipeline",
    ("sdxl", 9): "StableDiffusionXLInpaintPipeline",
    ("sd", 4): "StableDiffusionPipeline",
    ("sd", 9): "StableDiffusionInpaintPipeline",
}


def open_single_file(path: str | Path, *, vae: Path | Component | None = None) -> ModelSource:
    """Open a checkpoint; `vae` (a file, a diffusers folder or an opened component) takes the place of its VAE.

    Raises ModelFileError (damaged, incomplete) or UnsupportedModelError (says what the file is instead).
    """
    path = Path(path)
    file = open_safetensors(path)
    _refuse_others(file, path)
    claims = Claims(file)
    unet = claims.claim(kinds.UNET, map_unet, path, "UNet")
    layout = unet_layout(unet, path)
    family, why = recognise(layout, path)
    _require_parts(file, path, family, own_vae=vae is None)

    predicted = settings.prediction(family, file.tensors, file.metadata, inpainting=layout.in_channels == 9)
    distilled = layout.guidance_features is not None
    components = {"vae": _vae(claims, path, family, vae)}
    for name, place in TEXT_PLACES[family].items():
        components[name] = _text_encoder(claims, path, name, place)
    pooled = components["text_encoder_2"].config["projection_dim"] if family == "sdxl" else None
    size = settings.latent_size(family, predicted.kind)
    config = unet_config(layout, family, sample_size=size, pooled=pooled)
    components = {"unet": Component("unet", config, unet, path), **components}

    pipeline = PIPELINES["sdxl" if family == "sdxl" else "sd", layout.in_channels]
    index = {"_class_name": pipeline} | ({"force_zeros_for_empty_prompt": True} if family == "sdxl" else {})
    factor = _pixels_per_latent(components["vae"])
    return ModelSource(
        path=path,
        kind="single_file",
        family=family,
        why=why,
        pipeline_class=pipeline,
        components=components,
        scheduler=settings.scheduler_config(family, predicted, distilled=distilled),
        tokenizers={
            name.replace("text_encoder", "tokenizer"): TokenizerSource(pad_token=place.pad_token)
            for name, place in TEXT_PLACES[family].items()
        },
        index=index,
        defaults=settings.default_settings(family, predicted.kind, factor=factor, distilled=distilled),
        hints=(*settings.hints(family, distilled=distilled), *predicted.hints),
        leftovers=dict(claims.leftovers()),
        unused=claims.unused(),
    )


# ---------------------------------------------------------------------------------------------------- refusals


def _refuse_others(file: SafetensorsFile, path: Path) -> None:
    names = file.tensors
    if any(name.startswith(f"{kinds.UNET}input_blocks.") for name in names):
        kind = kinds.foreign(names)
    else:
        kind = kinds.other({name: tensor.shape for name, tensor in names.items()})
        if kind is None:
            some = ", ".join(repr(name) for name in list(names)[:3]) or "none"
            raise ModelFileError(
                path, f"is no checkpoint that tinydiff knows (its first tensors: {some})", hint=kinds.TAKE_SD
            )
    if kind is not None:
        raise UnsupportedModelError(f"{str(path)!r}: this is {kind.what}. {kind.hint}")


def _require_parts(file: SafetensorsFile, path: Path, family: str, *, own_vae: bool) -> None:
    """A checkpoint without VAE can be helped with --vae; without text encoder it needs another form."""
    places = TEXT_PLACES[family]
    lacking = [name.replace("_", " ") for name, place in places.items() if _place(file, place) is None]
    no_vae = own_vae and not any(name.startswith(kinds.VAE) for name in file.tensors)
    if lacking and no_vae and len(lacking) == len(places):
        raise UnsupportedModelError(
            f"{str(path)!r}: this is a UNet alone ({family}). It lacks the VAE and the text encoder; take the whole "
            "checkpoint, or a diffusers folder"
        )
    if lacking:
        hint = "Take the whole checkpoint, or a diffusers folder; --vae replaces the VAE only"
        raise ModelFileError(path, f"has no {' and no '.join(lacking)}", hint=hint)
    if no_vae:
        raise ModelFileError(path, "has no VAE", hint="Give one with --vae, or take a diffusers folder")


# -------------------------------------------------------------------------------------------------- components


def _place(file: SafetensorsFile, place: TextPlace) -> str | None:
    """The prefix under which the file has this text encoder, or None."""
    for prefix in place.prefixes:
        if any(name.startswith(prefix) and name.endswith("token_embedding.weight") for name in file.tensors):
            return prefix
    return None


def _text_encoder(claims: Claims, path: Path, name: str, place: TextPlace) -> Component:
    prefix = _place(claims.file, place)
    assert prefix is not None  # _require_parts looked
    inside, part = claims.under(prefix), name.replace("_", " ")
    open_clip = prefix.endswith(".model.")
    layers = {int(n.split(".")[2]) for n in inside if re.match(r"transformer\.resblocks\.\d{1,3}\.", n)}
    drop_last = open_clip and place.drop_last and len(layers) != LAYERS_BEFORE_LAST

    def mapper(tensors: Mapping[str, StoredTensor]) -> Mapped:
        if open_clip:
            return map_open_clip(tensors, projection=place.projection, drop_last=drop_last)
        return map_clip(tensors, projection=place.projection)

    tensors = claims.claim(prefix, mapper, path, part)
    if place.projection and "text_projection.weight" not in tensors:
        raise incomplete(path, part, (f"{prefix}text_projection",))
    if drop_last and layers:
        last = f"transformer.resblocks.{max(layers)}."
        claims.set_aside("last text layer", [prefix + n for n in inside if n.startswith(last)])
    if not place.projection:
        unread = [prefix + n for n in ("text_projection", "text_projection.weight") if n in inside]
        claims.set_aside("text projection", unread)
    return Component(name, clip_config(tensors, activation=place.activation, path=path), tensors, path)


def _vae(claims: Claims, path: Path, family: str, vae: Path | Component | None) -> Component:
    """The file's own VAE, or the one given instead."""
    if vae is not None:
        for prefix in kinds.VAE:
            claims.set_aside("VAE (replaced)", [prefix + name for name in claims.under(prefix)])
        return fitted(_given_vae(claims, vae), family)
    prefix = next(p for p in kinds.VAE if claims.under(p))
    inside = claims.under(prefix)
    component, unmatched = vae_component(inside, path, family=family, prefix=prefix)
    claims.mark(prefix, inside, unmatched)
    return component


def _given_vae(claims: Claims, vae: Path | Component) -> Component:
    if isinstance(vae, Component):
        return vae
    if vae.is_dir():
        return open_vae_folder(vae)
    component, claims.elsewhere = read_vae_file(vae)
    return component


def _pixels_per_latent(vae: Component) -> int:
    """Each level of a VAE but the last halves the picture; what its config does not say counts as 8."""
    levels = vae.config.get("block_out_channels") or vae.config.get("num_encoder_blocks")
    return 2 ** (len(levels) - 1) if isinstance(levels, list | tuple) and 0 < len(levels) < 8 else 8
