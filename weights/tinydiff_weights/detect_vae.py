"""The diffusers config of an autoencoder (AutoencoderKL or AutoencoderTiny), from its tensors' shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tinydiff_weights.detect import Tensors, extent
from tinydiff_weights.errors import ModelFileError, UnsupportedModelError
from tinydiff_weights.safetensors import StoredTensor

# One divided by the standard deviation of the latents, measured by the makers; the same for every VAE of a
# family. No tensor tells it.
SCALING_FACTOR = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}
LATENT_CHANNELS = 4
BLOCK = re.compile(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.resnets\.(\d+)\.")
TINY_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(?:(conv)\.)?")


def vae_config(vae: Tensors, path: Path, *, family: str | None, sample_size: int = 512) -> dict[str, Any]:
    """The `config.json` of an AutoencoderKL with diffusers names.

    `family` decides the scaling factor; None (a VAE file of its own) leaves the key out, and the caller sets
    that of the model it serves.
    """
    down, up = _levels(vae, "encoder.down"), _levels(vae, "decoder.up")
    if not down or [count + 1 for count in reversed(down)] != up or len(set(down)) != 1:
        raise ModelFileError(
            path,
            f"its VAE has {up} layers in the decoder's levels and {down} in the encoder's, which do not match",
            hint="The file is damaged, or an autoencoder of another kind",
        )
    widths = [extent(vae, f"encoder.down_blocks.{i}.resnets.0.conv1.weight", 0, path) for i in range(len(down))]
    latent = extent(vae, "decoder.conv_in.weight", 1, path)
    if latent != LATENT_CHANNELS:
        raise UnsupportedModelError(
            f"{str(path)!r}: a VAE with {latent} latent channels, of SD3, Flux or a later model; "
            f"Stable Diffusion has {LATENT_CHANNELS}"
        )
    config: dict[str, Any] = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "force_upcast": family == "sdxl",
        "in_channels": extent(vae, "encoder.conv_in.weight", 1, path),
        "latent_channels": latent,
        "layers_per_block": down[0],
        "mid_block_add_attention": any(name.startswith("decoder.mid_block.attentions.") for name in vae),
        "norm_num_groups": 32,
        "out_channels": extent(vae, "decoder.conv_out.weight", 0, path),
        "sample_size": sample_size,
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "use_post_quant_conv": "post_quant_conv.weight" in vae,
        "use_quant_conv": "quant_conv.weight" in vae,
    }
    return config if family is None else config | {"scaling_factor": SCALING_FACTOR[family]}


def _levels(vae: Tensors, side: str) -> list[int]:
    """How many resnets each level has, from level 0."""
    layers: dict[int, set[int]] = {}
    for name in vae:
        match = BLOCK.match(name)
        if match is not None and match[1] == side:
            layers.setdefault(int(match[2]), set()).add(int(match[3]))
    return [len(layers[level]) for level in sorted(layers)]


# ----------------------------------------------------------------------------------------------------- TAESD


def tiny_vae_config(vae: Tensors, path: Path) -> dict[str, Any]:
    """The `config.json` of an AutoencoderTiny (TAESD, Bohan 2023) with diffusers names.

    Both halves are one flat list of layers: plain convolutions, each the border of a stage, and residual
    blocks between them.
    """
    encoder, decoder = _runs(vae, "encoder", path), _runs(vae, "decoder", path)
    latent = extent(vae, "decoder.layers.0.weight", 1, path)
    if latent != LATENT_CHANNELS:
        raise UnsupportedModelError(
            f"{str(path)!r}: a TAESD autoencoder with {latent} latent channels, of SD3, Flux or a later model; "
            f"Stable Diffusion has {LATENT_CHANNELS}"
        )
    width = extent(vae, "encoder.layers.0.weight", 0, path)
    return {
        "_class_name": "AutoencoderTiny",
        "act_fn": "relu",
        "decoder_block_out_channels": [extent(vae, "decoder.layers.0.weight", 0, path)] * len(decoder),
        "encoder_block_out_channels": [width] * len(encoder),
        "force_upcast": False,
        "in_channels": extent(vae, "encoder.layers.0.weight", 1, path),
        "latent_channels": latent,
        "latent_magnitude": 3,
        "latent_shift": 0.5,
        "num_decoder_blocks": decoder,
        "num_encoder_blocks": encoder,
        "out_channels": extent(vae, f"decoder.layers.{_last(vae, 'decoder')}.weight", 0, path),
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
    }


def _last(vae: Tensors, half: str) -> int:
    return max(int(m[2]) for name in vae if (m := TINY_LAYER.match(name)) and m[1] == half)


def _runs(vae: Tensors, half: str, path: Path) -> list[int]:
    """Lengths of the runs of blocks between plain convolutions: `num_encoder_blocks` or `num_decoder_blocks`."""
    kinds: dict[int, bool] = {}  # layer -> is a block
    for name in vae:
        match = TINY_LAYER.match(name)
        if match is not None and match[1] == half:
            kinds[int(match[2])] = kinds.get(int(match[2]), False) or match[3] is not None
    order = [kinds[layer] for layer in sorted(kinds)]
    if len(order) < 3 or order[0] or order[-1]:
        raise ModelFileError(
            path, f"its TAESD {half} does not begin and end with a convolution", hint="Both halves are needed"
        )
    runs = [0]
    for is_block in order[1:-1]:
        if is_block:
            runs[-1] += 1
        else:
            runs.append(0)
    return runs


def is_tiny_half(names: Iterable[str]) -> str | None:
    """Which half it is, if these are the names of one in TAESD's own numbering (0.weight, 3.conv.0.weight ...)."""
    names = list(names)
    if not names or not all(re.match(r"\d{1,2}\.(weight|bias|conv\.[024]\.|skip\.weight)", name) for name in names):
        return None
    return "encoder" if "0.weight" in names else "decoder"


def from_tiny_half(tensors: Tensors, half: str) -> dict[str, StoredTensor]:
    """TAESD's own numbering to diffusers': the decoder's counts its clamp, which holds no weights, as layer 0."""
    shift = 1 if half == "decoder" else 0
    renamed: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        number, _, leaf = name.partition(".")
        target = f"{half}.layers.{int(number) - shift}.{leaf}"
        renamed[target] = tensor.renamed(target)
    return renamed
