"""Full-size models of random weights, for measuring memory and time: their pictures are noise.

    python bench/random_models.py sd15|sdxl|taesd FOLDER

A diffusers folder in half precision (the weights of a published model have the same names, shapes and formats). Values
are drawn from a pool, scaled by 1/sqrt(fan in), so that no layer overflows.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff.clip import CLIPTextEncoder
from tinydiff.config import CLIPConfig, TinyVAEConfig, UNetConfig, VAEConfig
from tinydiff.parameters import Parameters
from tinydiff.taesd import TinyVAE
from tinydiff.unet import UNet
from tinydiff.vae import VAE
from tinydiff_kernels.plan import Plan
from tinydiff_weights.safetensors import StoredTensor
from tinydiff_weights.write import save_safetensors

CROSS, PLAIN, UP_CROSS, UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
UNET = {
    "_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False, "cross_attention_dim": 768,
    "down_block_types": [CROSS, CROSS, CROSS, PLAIN], "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0,
    "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-5, "norm_num_groups": 32,
    "out_channels": 4, "sample_size": 64, "up_block_types": [UP, UP_CROSS, UP_CROSS, UP_CROSS],
}  # fmt: skip
UNET_XL = UNET | {
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048, "down_block_types": [PLAIN, CROSS, CROSS],
    "projection_class_embeddings_input_dim": 2816, "sample_size": 128, "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": [UP_CROSS, UP_CROSS, UP], "use_linear_projection": True,
}  # fmt: skip
KL = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4, "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
    "norm_num_groups": 32, "out_channels": 3, "sample_size": 512, "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
TAESD = {
    "_class_name": "AutoencoderTiny", "act_fn": "relu", "in_channels": 3, "out_channels": 3, "latent_channels": 4,
    "encoder_block_out_channels": [64] * 4, "decoder_block_out_channels": [64] * 4, "num_encoder_blocks": [1, 3, 3, 3],
    "num_decoder_blocks": [3, 3, 3, 1], "upsampling_scaling_factor": 2, "latent_magnitude": 3, "latent_shift": 0.5,
    "scaling_factor": 1.0, "force_upcast": False,
}  # fmt: skip
CLIP_L = {
    "architectures": ["CLIPTextModel"], "hidden_act": "quick_gelu", "hidden_size": 768, "intermediate_size": 3072,
    "layer_norm_eps": 1e-5, "max_position_embeddings": 77, "num_attention_heads": 12, "num_hidden_layers": 12,
    "projection_dim": 768, "vocab_size": 49408, "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1,
    "model_type": "clip_text_model",
}  # fmt: skip
CLIP_G = CLIP_L | {
    "architectures": ["CLIPTextModelWithProjection"], "hidden_act": "gelu", "hidden_size": 1280,
    "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32, "projection_dim": 1280,
}  # fmt: skip
EULER = {
    "_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "steps_offset": 1, "prediction_type": "epsilon",
}  # fmt: skip
MODELS: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {"unet": UNET, "vae": KL, "text_encoder": CLIP_L},
    "sdxl": {
        "unet": UNET_XL, "vae": KL | {"scaling_factor": 0.13025, "force_upcast": True, "sample_size": 1024},
        "text_encoder": CLIP_L, "text_encoder_2": CLIP_G,
    },
}  # fmt: skip
BUILDERS: dict[str, tuple[Any, Any]] = {
    "UNet2DConditionModel": (UNetConfig, UNet),
    "AutoencoderKL": (VAEConfig, VAE),
    "AutoencoderTiny": (TinyVAEConfig, TinyVAE),
    "CLIPTextModel": (CLIPConfig, CLIPTextEncoder),
    "CLIPTextModelWithProjection": (CLIPConfig, CLIPTextEncoder),
}
POOL = 2**26  # numbers; a larger tensor does not occur


def class_of(config: dict[str, Any]) -> str:
    return str(config["_class_name"] if "_class_name" in config else config["architectures"][0])


class Pool:
    """Random halves of deviation 2^-k, for each k once."""

    def __init__(self) -> None:
        self._base = np.random.default_rng(0).standard_normal(POOL, np.float32)
        self._scaled: dict[float, NDArray[np.float16]] = {}

    def take(self, shape: tuple[int, ...], deviation: float, mean: float = 0.0) -> NDArray[np.float16]:
        if mean:
            return (mean + deviation * self._base[: math.prod(shape)]).reshape(shape).astype(np.float16)
        exponent = math.floor(math.log2(deviation))
        if exponent not in self._scaled:
            self._scaled[exponent] = (self._base * np.float32(2.0**exponent)).astype(np.float16)
        return self._scaled[exponent][: math.prod(shape)].reshape(shape)


def write_network(folder: Path, config: dict[str, Any], pool: Pool) -> None:
    reader, builder = BUILDERS[class_of(config)]
    parameters = Parameters.declare()
    builder(reader.from_json(config, "random"), parameters, Plan())
    tensors = {}
    for name, shape in parameters.declared.items():
        if name.endswith(".bias"):
            values = pool.take(shape, 0.05)
        elif len(shape) == 1:
            values = pool.take(shape, 0.1, 1.0)
        else:
            values = pool.take(shape, 0.3 if "embedding.weight" in name else 1 / math.sqrt(math.prod(shape[1:])))
        tensors[name] = StoredTensor.from_array(name, values)
    stem = "model" if "architectures" in config else "diffusion_pytorch_model"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_safetensors(folder / f"{stem}.safetensors", tensors, {"format": "pt"})


def write_model(name: str, folder: Path) -> None:
    pool = Pool()
    if name == "taesd":
        write_network(folder, TAESD, pool)
        return
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if name == "sdxl" else "StableDiffusionPipeline",
        "_diffusers_version": "0.30.0", "scheduler": ["diffusers", EULER["_class_name"]],
    }  # fmt: skip
    if name == "sdxl":
        index["force_zeros_for_empty_prompt"] = True
    else:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    for part, config in MODELS[name].items():
        index[part] = ["transformers" if part.startswith("text") else "diffusers", class_of(config)]
        if part.startswith("text"):
            index[part.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"]
        write_network(folder / part, config, pool)
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(EULER, indent=2))
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


if __name__ == "__main__":
    write_model(sys.argv[1], Path(sys.argv[2]))
