"""Single-file miniatures for tests: real block structure, tiny widths, and the way back from diffusers' names.

The names here are made by formulas from the block numbers, as Stability's code numbers its blocks; the mapping
under test walks over what it finds. Neither uses the other.

    CHECKPOINTS                      what a miniature of each family is made of
    components(kind)                 diffusers name -> array, for each network
    single_file(kind)                the same arrays under the names of a single file
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from miniatures import TEXT_ENCODERS, UNETS, VAES, declared_shapes
from numpy.typing import NDArray
from safetensors.numpy import save_file

Json = dict[str, Any]
Arrays = dict[str, NDArray[Any]]
CROSS, PLAIN, UP_CROSS, UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
CLIP_ENTRIES = 49408  # a single file brings no vocabulary: its token table must fit the packaged one
CONTEXT = 24  # text width of SD 1 and 2 miniatures


@dataclass(frozen=True)
class Checkpoint:
    """One miniature: changes to a base config, the numbering of its blocks, and what must be inferred."""

    family: str
    unet: Json
    text: str = "clip"  # naming of the first text encoder: "clip" or "open_clip"
    stride: int | None = None  # blocks per stage where the numbering has gaps (pruned UNets in SD 1's numbers)


_WIDTHS = {"block_out_channels": [32, 32, 64, 64], "norm_num_groups": 32}
_SD1 = {**UNETS["sd1"], **_WIDTHS, "attention_head_dim": 8, "sample_size": 64}
_SD2 = {
    **_SD1,
    "attention_head_dim": [1, 1, 1, 2],
    "block_out_channels": [32, 64, 64, 128],
    "use_linear_projection": True,
}
_SDXL = {
    **UNETS["sdxl"],
    **_WIDTHS,
    "block_out_channels": [32, 64, 128],
    "attention_head_dim": [1, 1, 2],
    "sample_size": 128,
}
_SMALL = {"layers_per_block": 1, "mid_block_type": None}
_TINY = {
    **_SMALL,
    "block_out_channels": [32, 32, 64],
    "down_block_types": [CROSS] * 3,
    "up_block_types": [UP_CROSS] * 3,
}
_SSD1B = {
    "mid_block_type": "UNetMidBlock2D",
    "transformer_layers_per_block": [1, [2, 2], [4, 4]],
    "reverse_transformer_layers_per_block": [[4, 4, 5], [2, 1, 1], 1],
}
CHECKPOINTS: dict[str, Checkpoint] = {
    "sd1": Checkpoint("sd1", _SD1),
    "sd1_inpainting": Checkpoint("sd1", {**_SD1, "in_channels": 9}),
    "sd1_lcm": Checkpoint("sd1", {**_SD1, "time_cond_proj_dim": 12}),
    "sd1_one_stage": Checkpoint(
        "sd1", {**_SD1, "block_out_channels": [32], "down_block_types": [CROSS], "up_block_types": [UP_CROSS]}
    ),
    "sd1_three_layers": Checkpoint("sd1", {**_SD1, "layers_per_block": 3}),
    "sd1_many_layers": Checkpoint(  # block numbers of two digits, which sort otherwise as text than as numbers
        "sd1",
        {
            **_SD1,
            "block_out_channels": [32, 32],
            "down_block_types": [CROSS, PLAIN],
            "layers_per_block": 11,
            "up_block_types": [UP, UP_CROSS],
        },
    ),
    "bk_base": Checkpoint("sd1", {**_SD1, "layers_per_block": 1}),
    "bk_small": Checkpoint("sd1", {**_SD1, **_SMALL}),
    "bk_small_gaps": Checkpoint("sd1", {**_SD1, **_SMALL}, stride=3),
    "bk_tiny": Checkpoint("sd1", {**_SD1, **_TINY}),
    "bk_tiny_gaps": Checkpoint("sd1", {**_SD1, **_TINY}, stride=3),
    "sd2": Checkpoint("sd2", _SD2, text="open_clip"),
    "sd2_inpainting": Checkpoint("sd2", {**_SD2, "in_channels": 9}, text="open_clip"),
    "sd2_hf_names": Checkpoint("sd2", _SD2),
    "sdxl": Checkpoint("sdxl", _SDXL),
    "sdxl_inpainting": Checkpoint("sdxl", {**_SDXL, "in_channels": 9}),
    "sdxl_lcm": Checkpoint("sdxl", {**_SDXL, "time_cond_proj_dim": 12}),
    "ssd1b": Checkpoint("sdxl", {**_SDXL, **_SSD1B}),
    "vega": Checkpoint(
        "sdxl", {**_SDXL, "mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [1, 1, 2]}
    ),
}
_VAE = {**VAES["kl_sdxl"], "block_out_channels": [32, 32, 64, 64], "norm_num_groups": 32}


def configs(kind: str) -> dict[str, Json]:
    """The configs a miniature is built from, by component."""
    checkpoint = CHECKPOINTS[kind]
    found = {"unet": checkpoint.unet, "vae": _VAE, "text_encoder": TEXT_ENCODERS["clip_l"]}
    return found | ({"text_encoder_2": TEXT_ENCODERS["open_clip_g"]} if checkpoint.family == "sdxl" else {})


def class_of(config: Mapping[str, Any]) -> str:
    return str(config.get("_class_name") or config["architectures"][0])


def components(kind: str, *, dtype: str = "float16") -> dict[str, Arrays]:
    """Diffusers name -> array for every network of a miniature; every array's bytes are its own."""
    rng = np.random.default_rng(len(kind))
    return {
        part: {
            name: rng.standard_normal(shape, np.float32).astype(dtype)
            for name, shape in declared_shapes(class_of(config), config).items()
        }
        for part, config in configs(kind).items()
    }


def single_file(kind: str, parts: Mapping[str, Arrays] | None = None) -> Arrays:
    """A miniature under the names of a single file."""
    checkpoint = CHECKPOINTS[kind]
    parts = components(kind) if parts is None else parts
    file: Arrays = {}
    cross = [t == UP_CROSS for t in checkpoint.unet["up_block_types"]]
    layers = checkpoint.unet["layers_per_block"]
    for name, array in parts["unet"].items():
        file["model.diffusion_model." + ldm_unet_name(name, layers, cross, checkpoint.stride)] = array
    levels = len(_VAE["block_out_channels"])
    for name, array in parts["vae"].items():
        file["first_stage_model." + ldm_vae_name(name, levels)] = conv_shaped(name, array)
    for part in ("text_encoder", "text_encoder_2"):
        if part in parts:
            file |= text_names(parts[part], checkpoint, part)
    return file


def single_file_parts(kind: str) -> dict[str, Arrays]:
    """Weights of a miniature, its token tables as long as CLIP's vocabulary; scaled so that values stay small."""
    parts = components(kind, dtype="float32")
    rng = np.random.default_rng(1)
    for arrays in parts.values():
        for name, array in arrays.items():
            if name.endswith("token_embedding.weight"):
                array = rng.standard_normal((CLIP_ENTRIES, array.shape[1]), np.float32)
            scale = 0.05 if array.ndim == 1 else np.prod(array.shape[1:]) ** -0.5
            arrays[name] = (array * scale).astype(np.float16)
    return parts


def text_names(arrays: Arrays, checkpoint: Checkpoint, part: str) -> Arrays:
    """A text encoder under its names in a single file. SD 2's gets a last layer that diffusers leaves out."""
    xl, second = checkpoint.family == "sdxl", part == "text_encoder_2"
    if second or checkpoint.text == "open_clip":
        prefix = "conditioner.embedders.1.model." if xl else "cond_stage_model.model."
        named = open_clip_names(arrays)
        if not xl:
            layers = 1 + max(int(n.split(".")[2]) for n in named if n.startswith("transformer.resblocks."))
            last, more = f"transformer.resblocks.{layers - 1}.", f"transformer.resblocks.{layers}."
            named |= {n.replace(last, more): a + 1 for n, a in named.items() if n.startswith(last)}
            named["text_projection"] = np.ones((CONTEXT, CONTEXT), np.float16)
            named["logit_scale"] = np.array(4.6, np.float16)
    else:
        prefix = "conditioner.embedders.0.transformer." if xl else "cond_stage_model.transformer."
        named = dict(arrays)
    return {prefix + name: array for name, array in named.items()}


# ----------------------------------------------------------------------------------- names, the other way round

UNET_FIXED = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def ldm_unet_name(name: str, layers: int, cross: list[bool], stride: int | None = None) -> str:
    """Stability's name of a UNet tensor. `cross`: which up blocks attend; `stride`: see Checkpoint."""
    module, _, parameter = name.rpartition(".")
    if module in UNET_FIXED:
        return f"{UNET_FIXED[module]}.{parameter}"
    step = layers + 1 if stride is None else stride
    side, rest = name.split("_block", 1)
    block = 0 if side == "mid" else int(rest.split(".")[1])
    if match := re.search(r"\.resnets\.(\d+)\.(\w+)\.", name):
        place, leaf = int(match[1]), UNET_RESNET[match[2]] + "." + parameter
        child = 0
    elif match := re.search(r"\.attentions\.(\d+)\.(.*)", name):
        place, leaf, child = int(match[1]), match[2], 1
    elif ".downsamplers.0.conv." in name:
        return f"input_blocks.{step * (block + 1)}.0.op.{parameter}"
    else:
        assert ".upsamplers.0.conv." in name, name
        # A gapped numbering comes from a script for SD 1, whose first up block alone has no attention.
        attends = cross[block] if stride is None else block > 0
        return f"output_blocks.{step * (block + 1) - 1}.{2 if attends else 1}.conv.{parameter}"
    if side == "mid":
        return f"middle_block.{1 if child else 2 * place}.{leaf}"
    first, base = ("input_blocks", 1) if side == "down" else ("output_blocks", 0)
    return f"{first}.{step * block + place + base}.{child}.{leaf}"


def ldm_vae_name(name: str, levels: int) -> str:
    """Stability's name of a VAE tensor."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    if "attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("to_out.0", "proj_out")
        name = re.sub(r"\.to_([qkv])\.", r".\1.", name).replace("group_norm", "norm")
    return name


def conv_shaped(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """The VAE's attention matrices as the 1x1 convolutions that old files have."""
    return array[:, :, None, None] if "attentions" in name and array.ndim == 2 else array


OPEN_CLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def open_clip_names(arrays: Arrays) -> Arrays:
    """A text model under open_clip's names: query, key and value in one, the projection transposed."""
    named: Arrays = {}
    for name, array in arrays.items():
        if name == "text_projection.weight":
            named["text_projection"] = np.ascontiguousarray(array.T)
        elif name in OPEN_CLIP:
            named[OPEN_CLIP[name]] = array
        elif ".q_proj." in name:
            stacked = np.concatenate([array, *(arrays[name.replace(".q_proj.", f".{k}_proj.")] for k in "kv")])
            number, parameter = name.split(".")[3], name.rpartition(".")[2]
            named[f"transformer.resblocks.{number}.attn.in_proj_{parameter}"] = stacked
        elif not re.search(r"\.[kv]_proj\.", name):
            number, leaf = name.split(".", 4)[3:]
            module, _, parameter = leaf.rpartition(".")
            named[f"transformer.resblocks.{number}.{OPEN_CLIP_LAYER[module]}.{parameter}"] = array
    return named


def write(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file, by the library."""
    save_file({n: np.ascontiguousarray(a) if a.ndim else a for n, a in arrays.items()}, path, metadata)
    return path
