"""From an opened model to networks that run: configs checked, every tensor accounted for, parts fitted together.

open_model(path) -> ModelSource -> build() -> Model: text stack, UNet, VAE, scheduler config, defaults
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinydiff.backends import BACKENDS, Backends
from tinydiff.clip import CLIPTextEncoder
from tinydiff.config import CLIPConfig, TinyVAEConfig, UNetConfig, VAEConfig
from tinydiff.errors import ModelFileError, UnsupportedModelError
from tinydiff.few_steps import FewSteps
from tinydiff.observers import CancelToken
from tinydiff.packed import mapped
from tinydiff.parameters import NamedTensor, Parameters, Seen, first_names
from tinydiff.recipe import WEIGHTS
from tinydiff.schedulers import sd_pipeline_config
from tinydiff.suggest import unknown
from tinydiff.taesd import TinyVAE
from tinydiff.text import TextStack
from tinydiff.tokenizer import Tokenizer
from tinydiff.unet import UNet
from tinydiff.vae import VAE
from tinydiff_kernels.backend import Backend
from tinydiff_kernels.handles import SlicedTensor
from tinydiff_weights.packed import weights_of
from tinydiff_weights.residency import hold
from tinydiff_weights.safetensors import check_unchanged
from tinydiff_weights.source import Component, ModelSource

if TYPE_CHECKING:
    from tinydiff.memory.keeper import Keeper


@dataclass(frozen=True)
class Defaults:
    """What the model's maker would use when the caller says nothing; for models with additions, of the guided model."""

    steps: int
    guidance_scale: float
    width: int  # pixels
    height: int


@dataclass(eq=False)
class Model:
    """A model ready to run. `scheduler_config` is diffusers' JSON with prediction_type settled."""

    source: ModelSource
    text: TextStack
    unet: UNet
    vae: VAE | TinyVAE
    scheduler_config: Mapping[str, Any]
    defaults: Defaults
    cancel: CancelToken
    hints: tuple[str, ...]
    few_steps: FewSteps | None = None
    keeper: Keeper | None = None  # under a memory limit

    def check_files(self) -> None:
        """Raise ModelFileError if a file of the model was changed, cut or replaced since it was opened."""
        check_unchanged(self.source.stored(), replaced=True)


def build(
    source: ModelSource,
    *,
    weights: str,
    backend: str,
    prediction_type: str | None,
    threads: int | None = None,
    limited: bool = False,
) -> Model:
    """Raises ModelFileError (tensors, configs), UnsupportedModelError (kinds), InvalidArgumentError (names)."""
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    if weights not in WEIGHTS:
        raise unknown("weights", weights, WEIGHTS)
    if source.kind == "packed":
        weights = _packed_weights(source, weights)
    in_place = source.kind != "packed" or weights == "auto"
    cancel = CancelToken()
    backends = Backends(backend, weights, cancel, threads, limited=limited)

    def parts(name: str) -> tuple[Component, Parameters, Backend]:
        component = source.components[name]
        tensors: Mapping[str, NamedTensor] = mapped(component.tensors, in_place=in_place)
        if weights == "float16":
            tensors = {k: Halved(v) for k, v in tensors.items()}
        return component, Parameters(tensors, component.path), backends.make(name, component.config)

    unet_part, p, b = parts("unet")
    unet = UNet(UNetConfig.from_json(unet_part.config, unet_part.path), p, b)
    vae_part, p, b = parts("vae")
    vae: VAE | TinyVAE
    if vae_part.config.get("_class_name") == "AutoencoderTiny":
        vae = TinyVAE(TinyVAEConfig.from_json(vae_part.config, vae_part.path), p, b)
    else:
        vae = VAE(VAEConfig.from_json(vae_part.config, vae_part.path), p, b)
    pairs = []
    for name in ("text_encoder", "text_encoder_2"):
        if name in source.components:
            part, p, b = parts(name)
            encoder = CLIPTextEncoder(
                CLIPConfig.from_json(part.config, part.path), p, b, penultimate=unet.config.text_time is not None
            )
            pairs.append((Tokenizer(source.tokenizers[name.replace("text_encoder", "tokenizer")]), encoder))
    text = TextStack(pairs, zero_empty=bool(source.index.get("force_zeros_for_empty_prompt")))
    _check_fit(source, text, unet, vae)
    config, hints = _settle_prediction(source, text, unet, prediction_type)
    model = Model(
        source,
        text,
        unet,
        vae,
        config,
        _defaults(source, unet, vae, config),
        cancel,
        (*source.hints, *hints, *_unused(source)),
        None if source.few_steps is None else FewSteps(source.few_steps, unet.weights),
    )
    hold((t.raw for component in source.components.values() for t in component.tensors.values()), model)
    return model


def _packed_weights(source: ModelSource, weights: str) -> str:
    """Its own name means "auto": used where it lies. Any other makes new weights, in memory, of what the file means."""
    return "auto" if weights == weights_of(source) else weights


@dataclass(frozen=True)
class Halved(Seen):
    """A tensor whose values are rounded to half precision when used (`weights="float16"`)."""

    def float32(self) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):  # an overflow to infinity is the watchdog's to name
            return self.tensor.float32().astype(np.float16).astype(np.float32)

    @property
    def raw(self) -> NDArray[Any]:
        return self.tensor.raw if isinstance(self.tensor, SlicedTensor) else self.float32()

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Some rows, in float16."""
        rows = self.tensor.rows(start, stop) if isinstance(self.tensor, SlicedTensor) else self.float32()[start:stop]
        with np.errstate(over="ignore"):
            return rows.astype(np.float16, copy=False)


def _unused(source: ModelSource) -> tuple[str, ...]:
    """Tensors of the file that no network claims, as one line; the most telling come first."""
    if not source.unused:
        return ()
    return (f"{len(source.unused)} tensors of the file are not used: {first_names(source.unused)}",)


def _check_fit(source: ModelSource, text: TextStack, unet: UNet, vae: VAE | TinyVAE) -> None:
    """Parts of different models in one folder would run and make noise: refuse them by name."""
    c = unet.config
    for width in c.cross_attention_dim:
        if width != text.width:
            raise ModelFileError(
                source.path, f"the UNet attends to text of {width} channels, the text encoders give {text.width}"
            )
    latents = vae.config.latent_channels
    if c.in_channels not in (latents, 2 * latents + 1) or c.out_channels != latents:
        if c.in_channels == 2 * latents:
            kind = "an instruct-pix2pix or upscaling UNet, which needs an image and is not supported"
            raise UnsupportedModelError(f"'{source.path}': a UNet of {c.in_channels} input channels is {kind}")
        raise ModelFileError(
            source.path,
            f"the UNet maps {c.in_channels} channels to {c.out_channels}, the VAE has {latents} latent channels",
        )
    for tokenizer, encoder in text.pairs:
        if tokenizer.largest_id >= encoder.config.vocab_size:
            raise ModelFileError(
                source.path,
                f"the tokenizer's ids go to {tokenizer.largest_id}, its text encoder has vectors for 0 to "
                f"{encoder.config.vocab_size - 1}",
                tensor=f"{encoder.tokens.name}.weight",
                hint="Take tokenizer and text encoder of the same model",
            )
        if tokenizer.max_length > encoder.config.positions:
            raise ModelFileError(
                source.path,
                f"the tokenizer makes texts of {tokenizer.max_length} tokens, its text encoder takes "
                f"{encoder.config.positions} at most",
            )
        if tokenizer.max_length != text.pairs[0][0].max_length:
            raise ModelFileError(source.path, "its two tokenizers make texts of different lengths")
    if c.text_time is not None:
        pooled = text.pairs[-1][1].config.projection_dim
        if pooled is None or pooled + 6 * c.text_time[0] != c.text_time[1]:
            raise ModelFileError(
                source.path,
                f"the UNet adds a vector of {c.text_time[1]}; {pooled} pooled and 6 x {c.text_time[0]} do not fit",
            )


def _settle_prediction(
    source: ModelSource, text: TextStack, unet: UNet, wanted: str | None
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The scheduler config with a prediction_type: the caller's, the model's, or found by a trial forward."""
    config = dict(source.scheduler)
    if source.pipeline_class.startswith("StableDiffusion") and not source.pipeline_class.startswith(
        "StableDiffusionXL"
    ):
        config = sd_pipeline_config(config)
    if wanted is not None:
        kinds = ("epsilon", "v_prediction", "sample")
        if wanted not in kinds:
            raise unknown("prediction_type", wanted, kinds)
        return {**config, "prediction_type": wanted}, ()
    if "prediction_type" in config and config["prediction_type"] is None:
        found = trial_prediction(text, unet)
        hint = f"prediction type found by a trial forward: {found} (prediction_type= overrides)"
        return {**config, "prediction_type": found}, (hint,)
    return config, ()


def trial_prediction(text: TextStack, unet: UNet) -> str:
    """epsilon or v_prediction, as AUTOMATIC1111's web UI tells them apart in Stable Diffusion 2 checkpoints.

    At the last timestep a sample is nearly all noise: an epsilon model gives it back, a v model gives the
    negative of the picture. With a constant input of 0.5 the mean of output - input lies near 0 or below -1.
    """
    sample = np.full((1, unet.config.in_channels, 8, 8), 0.5, np.float32)
    out = unet(sample, 999.0, text.encode("").hidden[None])
    return "v_prediction" if float((out - sample[:, : out.shape[1]]).mean()) < -1 else "epsilon"


def _defaults(source: ModelSource, unet: UNet, vae: VAE | TinyVAE, scheduler: Mapping[str, Any]) -> Defaults:
    """The model's own (tinydiff.json, or by family), else diffusers' 50 steps at guidance 7.5."""
    d, factor = dict(source.defaults), vae.config.factor
    height, width = (n * factor for n in unet.config.sample_size)
    # Stable Diffusion 2 as a single file: tensors do not tell base (512) from v (768), the prediction type does.
    d |= d.get("by_prediction_type", {}).get(scheduler.get("prediction_type"), {})
    return Defaults(
        steps=int(d.get("num_inference_steps", 50)),
        guidance_scale=float(d.get("guidance_scale", 5.0 if source.family == "sdxl" else 7.5)),
        width=int(d.get("width", width)),
        height=int(d.get("height", height)),
    )
