"""The healthy files that `fuzz_packed.py` damages: packed models with every kind of tensor, as small as they get.

One level of a UNet with cross-attention (a gated layer), a TAESD of two levels (an upsampled convolution), one layer
of text encoder, a stored vocabulary, few-step additions: 150 parameters, where the miniatures of other tests have 500.
Reading takes time by the tensor, so that a small model is damaged many times as often. Their numbers are few, so that
damaged files that are kept (`packed_corpus`) compress well.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from miniature_configs import FAMILIES, TEXT_ENCODERS, UNETS, VAES
from miniatures import class_name, random_tensors, stored, write_component, write_tokenizer
from numpy.typing import NDArray

from tinydiff.packing import Recipe
from tinydiff.quantize import quantize
from tinydiff_weights.open import open_model
from tinydiff_weights.write import save_safetensors

NETWORKS = {
    "unet": {
        **UNETS["bk_tiny"],
        "block_out_channels": [16],
        "down_block_types": ["CrossAttnDownBlock2D"],
        "up_block_types": ["UpBlock2D"],
    },
    "vae": {
        **VAES["taesd"],
        "decoder_block_out_channels": [8, 8],
        "encoder_block_out_channels": [8, 8],
        "num_decoder_blocks": [1, 1],
        "num_encoder_blocks": [1, 1],
    },
    "text_encoder": {**TEXT_ENCODERS["clip_l"], "num_hidden_layers": 1},
}
RECIPES = {
    "int8": Recipe("int8"),
    "int4": Recipe("int4", wide="float16"),
    "mixed": Recipe("mixed", keep=("unet.*.conv1",)),
}
FACTOR = 2  # pixels for a latent


def write_model(root: Path) -> Path:
    """The model as a diffusers folder."""
    pipeline, _, _, _, scheduler = FAMILIES["bk_tiny"]
    index: dict[str, object] = {"_class_name": pipeline, "_diffusers_version": "0.30.0"}
    for number, (name, config) in enumerate(NETWORKS.items()):
        index[name] = ["transformers" if name == "text_encoder" else "diffusers", class_name(config)]
        tensors = random_tensors(class_name(config), config, number)
        write_component(root / name, config, stored({n: coarse(values) for n, values in tensors.items()}, "F32"))
    index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", scheduler["_class_name"]]}
    write_tokenizer(root / "tokenizer", "<|endoftext|>")
    few_steps = {"file": "few.safetensors", "num_inference_steps": 4, "default": False}
    for file, table in (
        ("scheduler/scheduler_config.json", scheduler),
        ("model_index.json", index),
        ("tinydiff.json", {"num_inference_steps": 4, "guidance_scale": 3.0, "few_steps": few_steps}),
    ):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text(json.dumps(table))
    rng = np.random.default_rng(0)
    layer = "unet.down_blocks.0.resnets.0.conv1"
    down, up = rng.standard_normal((2, 16, 3, 3), np.float32), rng.standard_normal((16, 2, 1, 1), np.float32)
    save_safetensors(root / "few.safetensors", {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up})
    return root


def coarse(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """To multiples of a power of two, a fourth to half of the largest."""
    unit = np.float32(2.0 ** (np.floor(np.log2(np.abs(values).max())) - 1))
    return np.rint(values / unit) * unit


def packed(folder: Path) -> dict[str, bytes]:
    """The model, packed each way: the same bytes whenever it is made."""
    source, made = open_model(write_model(folder / "model")), folder / "seed.safetensors"
    seeds = {}
    for name, recipe in RECIPES.items():
        quantize(source, made, recipe, force=True)
        seeds[name] = made.read_bytes()
    return seeds
