"""Diffusers folders in miniature, for the tests of folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tinydiff_weights.write import save_safetensors

FIRST = "diffusion_pytorch_model-00001-of-00002.safetensors"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def tensors(*names: str, value: float = 0) -> dict[str, np.ndarray]:
    return {name: np.full((4, 4), value, np.float32) for name in names}


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def make_folder(root: Path, *, xl: bool = False) -> Path:
    """A model in miniature: all files of a Stable Diffusion folder, tensors of four by four."""
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": [None, None],
        "requires_safety_checker": True,
    }
    unet: dict[str, Any] = {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768, "in_channels": 4}
    encoders = ["text_encoder"]
    if xl:
        index |= {
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": True,
        }
        unet |= {"cross_attention_dim": 2048, "addition_embed_type": "text_time", "use_linear_projection": True}
        encoders.append("text_encoder_2")
    put(root / "model_index.json", index)
    put(root / "unet/config.json", unet)
    save_safetensors(root / "unet" / WEIGHTS, tensors("conv_in.weight", "conv_out.weight"))
    put(root / "vae/config.json", {"_class_name": "AutoencoderKL", "scaling_factor": 0.18215})
    save_safetensors(root / "vae" / WEIGHTS, tensors("decoder.conv_in.weight"))
    for encoder in encoders:
        put(root / encoder / "config.json", {"architectures": ["CLIPTextModel"], "hidden_act": "quick_gelu"})
        save_safetensors(root / encoder / "model.safetensors", tensors("text_model.final_layer_norm.weight"))
        tokenizer = root / encoder.replace("text_encoder", "tokenizer")
        put(tokenizer / "vocab.json", {"a": 0})
        put(tokenizer / "merges.txt", "#version: 0.2\n")
    put(root / "scheduler/scheduler_config.json", {"_class_name": "PNDMScheduler", "steps_offset": 1})
    return root


def edit(path: Path, **changes: Any) -> None:
    table = json.loads(path.read_text()) | changes
    put(path, {k: v for k, v in table.items() if v != "REMOVE"})


def make_shards(folder: Path, weight_map: dict[str, str] | None = None, name: str = "") -> Path:
    """Split the UNet in two, with an index; gives the index."""
    unet = folder / "unet"
    (unet / WEIGHTS).unlink(missing_ok=True)
    shards = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    save_safetensors(unet / shards[0], tensors("conv_in.weight", value=1))
    save_safetensors(unet / shards[1], tensors("conv_out.weight", value=2))
    index = unet / (name or "diffusion_pytorch_model.safetensors.index.json")
    if weight_map is None:
        weight_map = {"conv_in.weight": shards[0], "conv_out.weight": shards[1]}
    put(index, {"metadata": {"total_size": 128}, "weight_map": weight_map})
    return index
