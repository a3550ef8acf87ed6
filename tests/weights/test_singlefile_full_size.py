"""Checkpoints of the published sizes, as sparse files: the configs are those on the hub, opening costs nothing.

The files have the headers of the real ones (names and shapes in full) and no data on the disk.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from checkpoints import OPEN_CLIP, OPEN_CLIP_LAYER, ldm_unet_name, ldm_vae_name
from miniatures import TEXT_ENCODERS, UNETS, VAES, declared_shapes

from tinydiff_weights.singlefile import open_single_file

Shape = tuple[int, ...]
Json = dict[str, Any]

# The keys of the published config.json files that say what the network is.
SD15: Json = {
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "in_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
SD2: Json = {
    **SD15,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
SDXL: Json = {
    **SD15,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
    "use_linear_projection": True,
}
VAE: Json = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32}
CLIP_L: Json = {
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
}
CLIP_H: Json = {
    **CLIP_L,
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
}
CLIP_G: Json = {
    **CLIP_L,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
# name: UNet, text encoders, parameters of the UNet as published
MODELS: dict[str, tuple[Json, list[Json], int]] = {
    "sd15": (SD15, [CLIP_L], 859_520_964),
    "sd15_inpainting": ({**SD15, "in_channels": 9}, [CLIP_L], 859_535_364),
    "sd21": (SD2, [CLIP_H], 865_910_724),
    "sdxl": (SDXL, [CLIP_L, CLIP_G], 2_567_463_684),
}


def full(base: Json, changes: Json) -> Json:
    return {**base, **changes}


def header_shapes(model: str) -> dict[str, Shape]:
    """The names and shapes of the whole checkpoint."""
    unet, texts, _ = MODELS[model]
    shapes: dict[str, Shape] = {}
    cross = [t.startswith("CrossAttn") for t in unet["up_block_types"]]
    for name, shape in declared_shapes("UNet2DConditionModel", full(UNETS["sd1"], unet)).items():
        shapes["model.diffusion_model." + ldm_unet_name(name, 2, cross)] = shape
    for name, shape in declared_shapes("AutoencoderKL", full(VAES["kl"], VAE)).items():
        conv = "attentions" in name and len(shape) == 2
        shapes["first_stage_model." + ldm_vae_name(name, 4)] = (*shape, 1, 1) if conv else shape
    prefixes = ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")
    for number, text in enumerate(texts):
        prefix = prefixes[number] if len(texts) > 1 else "cond_stage_model.transformer."
        config = full(TEXT_ENCODERS["clip_l"], text)
        named = declared_shapes(config["architectures"][0], config)
        if text is CLIP_H or text is CLIP_G:
            prefix = "cond_stage_model.model." if text is CLIP_H else prefix
            named = open_clip_shapes(named)
        shapes |= {prefix + name: shape for name, shape in named.items()}
    return shapes


def open_clip_shapes(named: dict[str, Shape]) -> dict[str, Shape]:
    """As `checkpoints.open_clip_names`, for shapes."""
    found: dict[str, Shape] = {}
    for name, shape in named.items():
        if name == "text_projection.weight":
            found["text_projection"] = shape[::-1]
        elif name in OPEN_CLIP:
            found[OPEN_CLIP[name]] = shape
        else:
            number, leaf = name.split(".", 4)[3:]
            module, _, parameter = leaf.rpartition(".")
            place = f"transformer.resblocks.{number}."
            if re.search(r"[qkv]_proj", module):
                found[f"{place}attn.in_proj_{parameter}"] = (3 * shape[0], *shape[1:])
            else:
                found[f"{place}{OPEN_CLIP_LAYER[module]}.{parameter}"] = shape
    return found


def sparse_file(path: Path, shapes: dict[str, Shape], dtype: str = "F16", size: int = 2) -> Path:
    """A safetensors file with this header and a hole where its data would be."""
    table, position = {}, 0
    for name, shape in shapes.items():
        end = position + size * math.prod(shape)
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)
    return path


def anonymous_kib() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("model", MODELS)
def test_published_configs_are_inferred(model: str, tmp_path: Path) -> None:
    unet, texts, parameters = MODELS[model]
    source = open_single_file(sparse_file(tmp_path / "model.safetensors", header_shapes(model)))
    found = source.components["unet"].config
    assert {k: found[k] for k in unet} == unet
    assert sum(t.parameters for t in source.components["unet"].tensors.values()) == parameters
    assert {k: source.components["vae"].config[k] for k in VAE} == VAE
    assert sum(t.parameters for t in source.components["vae"].tensors.values()) == 83_653_863
    for name, text in zip(("text_encoder", "text_encoder_2"), texts, strict=False):
        assert {k: source.components[name].config[k] for k in text} == text
    assert source.unused == ()


def test_a_whole_sdxl_opens_without_memory(tmp_path: Path) -> None:
    path = sparse_file(tmp_path / "model.safetensors", header_shapes("sdxl"))
    open_single_file(path)  # imports and caches
    before = anonymous_kib()
    source = open_single_file(path)
    grown = anonymous_kib() - before
    total = sum(t.nbytes for c in source.components.values() for t in c.tensors.values())
    print(f"{total / 2**30:.2f} GiB of tensors opened with {grown} KiB of anonymous memory")
    assert total > 6 * 2**30
    assert grown < 8 * 1024  # names, shapes and views of 2,500 tensors
