"""Configs of the model families that are benchmarked and predicted, as diffusers and transformers write them.

Only what decides shapes; the rest is diffusers' defaults. Published parameter counts check them (tests).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinydiff.clip import CLIPTextEncoder
from tinydiff.config import CLIPConfig, TinyVAEConfig, UNetConfig, VAEConfig
from tinydiff.parameters import Parameters
from tinydiff.taesd import TinyVAE
from tinydiff.unet import UNet
from tinydiff.vae import VAE
from tinydiff_kernels.backend import Backend

Json = Mapping[str, Any]

_CROSS_DOWN, _DOWN, _CROSS_UP, _UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
_UNET: Json = {"_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4, "norm_num_groups": 32}
_VAE: Json = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
_CLIP: Json = {"architectures": ["CLIPTextModel"], "vocab_size": 49408, "max_position_embeddings": 77}

NETWORKS: dict[str, Json] = {
    "sd15-unet": {
        **_UNET,
        "sample_size": 64,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [_CROSS_DOWN, _CROSS_DOWN, _CROSS_DOWN, _DOWN],
        "up_block_types": [_UP, _CROSS_UP, _CROSS_UP, _CROSS_UP],
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "sd21-unet": {
        **_UNET,
        "sample_size": 96,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [_CROSS_DOWN, _CROSS_DOWN, _CROSS_DOWN, _DOWN],
        "up_block_types": [_UP, _CROSS_UP, _CROSS_UP, _CROSS_UP],
        "layers_per_block": 2,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "sdxl-unet": {
        **_UNET,
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": [_DOWN, _CROSS_DOWN, _CROSS_DOWN],
        "up_block_types": [_CROSS_UP, _CROSS_UP, _UP],
        "layers_per_block": 2,
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "bk-tiny-unet": {
        **_UNET,
        "sample_size": 64,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": [_CROSS_DOWN] * 3,
        "mid_block_type": None,
        "up_block_types": [_CROSS_UP] * 3,
        "layers_per_block": 1,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "sd-vae": _VAE,
    "taesd": {"_class_name": "AutoencoderTiny", "latent_channels": 4},
    "clip-l": {
        **_CLIP,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
    },
    "openclip-h": {  # 23 layers: the last one is not used
        **_CLIP,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
    "openclip-g": {
        **_CLIP,
        "architectures": ["CLIPTextModelWithProjection"],
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "hidden_act": "gelu",
        "projection_dim": 1280,
    },
}
PARTS = {  # model -> its text encoders, UNet, decoder
    "sd15": (("clip-l",), "sd15-unet", "sd-vae"),
    "sd21": (("openclip-h",), "sd21-unet", "sd-vae"),
    "sdxl": (("clip-l", "openclip-g"), "sdxl-unet", "sd-vae"),
    "bk-tiny": (("clip-l",), "bk-tiny-unet", "taesd"),
}
LATENT = 8  # pixels to a latent
TOKENS = 77


def build(config: Json, parameters: Parameters, backend: Backend) -> Any:
    """The network that a config describes."""
    kind = config["_class_name"] if "_class_name" in config else config["architectures"][0]
    if kind == "UNet2DConditionModel":
        return UNet(UNetConfig.from_json(config, kind), parameters, backend)
    if kind == "AutoencoderKL":
        return VAE(VAEConfig.from_json(config, kind), parameters, backend)
    if kind == "AutoencoderTiny":
        return TinyVAE(TinyVAEConfig.from_json(config, kind), parameters, backend)
    return CLIPTextEncoder(CLIPConfig.from_json(config, kind), parameters, backend)


def caller(config: Json, network: Any, size: int, batch: int = 1) -> Callable[[], Any]:
    """One step, decode or prompt on zeros: a picture of `size` x `size` pixels."""
    if isinstance(network, CLIPTextEncoder):
        tokens = np.zeros((batch, TOKENS), np.int64)
        return lambda: network(tokens)
    latents = np.zeros((batch, 4, size // LATENT, size // LATENT), np.float32)
    if not isinstance(network, UNet):
        return lambda: network.decode(latents)
    context = np.zeros((batch, TOKENS, network.config.cross_attention_dim[0]), np.float32)
    added = None
    if network.config.text_time is not None:
        pooled = network.config.text_time[1] - 6 * network.config.text_time[0]
        added = {
            "text_embeds": np.zeros((batch, pooled), np.float32),
            "time_ids": np.zeros((batch, 6), np.float32),
        }
    return lambda: network(latents, 500.0, context, added=added)
