"""Miniature models of every family: real block structure, tiny widths, random weights, no torch.

    UNETS, VAES, TEXT_ENCODERS    configs as diffusers and transformers write them, by name
    random_tensors(class, config, seed)         weights for any of them, scaled so that signals keep their size
    network(class, config, tensors, backend)    ours, built on them
    write_folder(path, family, seed=...)        a whole diffusers folder, which diffusers opens too

Weights come from the shapes that the networks declare, so a miniature can be of any config that we support.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
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
from tinydiff_kernels.backend import Backend
from tinydiff_kernels.plan import Plan
from tinydiff_weights.safetensors import StoredTensor
from tinydiff_weights.write import save_safetensors

Json = dict[str, Any]

# ------------------------------------------------------------------------------------------------- configs

_CROSS, _PLAIN, _UP_CROSS, _UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"

_SD1: Json = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.30.0",
    "act_fn": "silu",
    "attention_head_dim": 4,
    "block_out_channels": [16, 24, 32, 32],
    "center_input_sample": False,
    "cross_attention_dim": 24,
    "down_block_types": [_CROSS, _CROSS, _CROSS, _PLAIN],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 8,
    "out_channels": 4,
    "sample_size": 8,
    "up_block_types": [_UP, _UP_CROSS, _UP_CROSS, _UP_CROSS],
}
_SDXL: Json = {
    **_SD1,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "attention_head_dim": [2, 4, 8],
    "block_out_channels": [16, 32, 32],
    "cross_attention_dim": 56,
    "down_block_types": [_PLAIN, _CROSS, _CROSS],
    "projection_class_embeddings_input_dim": 6 * 8 + 20,
    "transformer_layers_per_block": [1, 2, 3],
    "up_block_types": [_UP_CROSS, _UP_CROSS, _UP],
    "use_linear_projection": True,
}
UNETS: dict[str, Json] = {
    "sd1": _SD1,
    "sd2": {**_SD1, "attention_head_dim": [2, 3, 4, 4], "use_linear_projection": True, "upcast_attention": True},
    "sdxl": _SDXL,
    "bk_small": {**_SD1, "layers_per_block": 1, "mid_block_type": None},
    "bk_tiny": {
        **_SD1,
        "block_out_channels": [16, 24, 32],
        "down_block_types": [_CROSS] * 3,
        "layers_per_block": 1,
        "mid_block_type": None,
        "up_block_types": [_UP_CROSS] * 3,
    },
    "ssd1b": {
        **_SDXL,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 5], [2, 1, 1], 1],
    },
    "lcm": {**_SD1, "time_cond_proj_dim": 12},
    "inpainting": {**_SD1, "in_channels": 9},
    "scale_shift": {**_SD1, "resnet_time_scale_shift": "scale_shift"},
    "no_attention_above": {
        **_SD1,
        "block_out_channels": [16, 32],
        "conv_in_kernel": 5,
        "conv_out_kernel": 1,
        "down_block_types": [_PLAIN, _CROSS],
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "layers_per_block": [1, 3],
        "norm_num_groups": 4,
        "time_embedding_dim": 40,
        "up_block_types": [_UP_CROSS, _UP],
    },
    "one_level": {
        **_SD1,
        "block_out_channels": [16],
        "down_block_types": [_CROSS],
        "out_channels": 3,
        "up_block_types": [_UP_CROSS],
    },
}

_KL: Json = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.30.0",
    "act_fn": "silu",
    "block_out_channels": [16, 16, 24, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "out_channels": 3,
    "sample_size": 64,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def _levels(n: int, **changes: Any) -> Json:
    lists = {k: _KL[k][-n:] for k in ("block_out_channels", "down_block_types", "up_block_types")}
    return {**_KL, **lists, **changes}


_TINY: Json = {
    "_class_name": "AutoencoderTiny",
    "_diffusers_version": "0.30.0",
    "act_fn": "relu",
    "decoder_block_out_channels": [8] * 4,
    "encoder_block_out_channels": [8] * 4,
    "force_upcast": False,
    "in_channels": 3,
    "latent_channels": 4,
    "num_decoder_blocks": [3, 3, 3, 1],
    "num_encoder_blocks": [1, 3, 3, 3],
    "out_channels": 3,
    "scaling_factor": 1.0,
    "upsampling_scaling_factor": 2,
}
VAES: dict[str, Json] = {
    "kl": _KL,
    "kl_sdxl": {**_KL, "scaling_factor": 0.13025, "force_upcast": True, "layers_per_block": 2},
    "kl_no_quant": _levels(3, use_quant_conv=False, use_post_quant_conv=False, latent_channels=3),
    "kl_no_attention": _levels(2, mid_block_add_attention=False, shift_factor=0.1),
    "taesd": _TINY,
    "taesd_three": {
        **_TINY,
        "decoder_block_out_channels": [12] * 3,
        "encoder_block_out_channels": [8] * 3,
        "num_decoder_blocks": [2, 1, 2],
        "num_encoder_blocks": [1, 2, 1],
    },
}

# A byte-level vocabulary in CLIP's file format: 256 letters, the same at the end of a word, merges, two marks.
MERGES = ["c a", "ca t</w>", "d o", "do g</w>", "a p", "ap p", "l e</w>", "app le</w>", "r e", "re d</w>"]
VOCAB_SIZE = 512 + len(MERGES) + 2
EOS = VOCAB_SIZE - 1

_CLIP: Json = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 2,  # what the published configs say; it stands for the largest id
    "hidden_act": "quick_gelu",
    "hidden_size": 24,
    "intermediate_size": 48,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "pad_token_id": 1,
    "projection_dim": 24,
    "vocab_size": VOCAB_SIZE,
}
TEXT_ENCODERS: dict[str, Json] = {
    "clip_l": _CLIP,
    "open_clip_h": {**_CLIP, "hidden_act": "gelu", "num_hidden_layers": 4, "projection_dim": 16},
    "open_clip_g": {
        **_CLIP,
        "architectures": ["CLIPTextModelWithProjection"],
        "eos_token_id": EOS,
        "hidden_act": "gelu",
        "hidden_size": 32,
        "intermediate_size": 80,
        "projection_dim": 20,
    },
}

_TRAINED: Json = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
_PNDM: Json = {**_TRAINED, "_class_name": "PNDMScheduler", "set_alpha_to_one": False, "skip_prk_steps": True}
_V: Json = {**_TRAINED, "_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False}
_EULER: Json = {**_TRAINED, "_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear"}
_LCM: Json = {**_TRAINED, "_class_name": "LCMScheduler", "original_inference_steps": 50, "set_alpha_to_one": True}
del _LCM["steps_offset"]

_SD, _XL = ("StableDiffusionPipeline", "clip_l", None), ("StableDiffusionXLPipeline", "clip_l", "open_clip_g")
# family: pipeline class, text encoder, second text encoder, VAE, scheduler; the UNet has the family's name
FAMILIES: dict[str, tuple[str, str, str | None, str, Json]] = {
    "sd1": (*_SD, "kl", _PNDM),
    "sd2": ("StableDiffusionPipeline", "open_clip_h", None, "kl", {**_V, "prediction_type": "v_prediction"}),
    "sdxl": (*_XL, "kl_sdxl", _EULER),
    "bk_small": (*_SD, "kl", _PNDM),
    "bk_tiny": (*_SD, "kl", _PNDM),
    "ssd1b": (*_XL, "kl_sdxl", _EULER),
    "lcm": ("LatentConsistencyModelPipeline", "clip_l", None, "kl", _LCM),
    "inpainting": ("StableDiffusionInpaintPipeline", "clip_l", None, "kl", _PNDM),
}

# ------------------------------------------------------------------------------------------------- networks

_BUILDERS: dict[str, tuple[Any, Any]] = {
    "UNet2DConditionModel": (UNetConfig, UNet),
    "AutoencoderKL": (VAEConfig, VAE),
    "AutoencoderTiny": (TinyVAEConfig, TinyVAE),
    "CLIPTextModel": (CLIPConfig, CLIPTextEncoder),
    "CLIPTextModelWithProjection": (CLIPConfig, CLIPTextEncoder),
}


def class_name(config: Mapping[str, Any]) -> str:
    """The diffusers or transformers class that a config belongs to."""
    return str(config["_class_name"] if "_class_name" in config else config["architectures"][0])


def network(config: Mapping[str, Any], tensors: Mapping[str, Any] | None, backend: Backend, **options: Any) -> Any:
    """Our network of `config` on `tensors` (arrays or StoredTensors by name; None: on declared shapes)."""
    reader, builder = _BUILDERS[class_name(config)]
    if tensors is None:
        parameters = Parameters.declare()
    else:
        wrap = StoredTensor.from_array
        named = {n: t if isinstance(t, StoredTensor) else wrap(n, t) for n, t in tensors.items()}
        parameters = Parameters(named, "miniature")
    return builder(reader.from_json(config, "miniature"), parameters, backend, **options)


def declared_shapes(component_class: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that the network needs."""
    reader, builder = _BUILDERS[component_class]
    parameters = Parameters.declare()
    builder(reader.from_json(config, "miniature"), parameters, Plan())
    return parameters.declared


def random_tensors(component_class: str, config: Mapping[str, Any], seed: int) -> dict[str, NDArray[np.float32]]:
    """Random float32 weights: matrices of 1/sqrt(fan in), norms near 1, small biases."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in declared_shapes(component_class, config).items():
        values = rng.standard_normal(shape, np.float32)
        if name.endswith(".bias"):
            values *= 0.05
        elif len(shape) == 1:
            values = 1 + 0.1 * values
        elif "embedding.weight" in name:
            values *= 0.3
        else:
            values /= math.sqrt(math.prod(shape[1:]))
        tensors[name] = values
    return tensors


def stored(tensors: Mapping[str, NDArray[np.float32]], dtype: str) -> dict[str, StoredTensor]:
    """The tensors rounded to `dtype`: "F32", "F16" or "BF16" (to nearest, ties to even)."""
    result = {}
    for name, values in tensors.items():
        if dtype == "BF16":
            bits = values.view(np.uint32).astype(np.uint64)
            raw = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            result[name] = StoredTensor(name, "BF16", raw, "memory")
        else:
            result[name] = StoredTensor.from_array(name, values.astype({"F32": np.float32, "F16": np.float16}[dtype]))
    return result


# ------------------------------------------------------------------------------------------------- folders


def components(family: str) -> dict[str, Json]:
    """Configs of the networks of a family, by the name of their folder."""
    _, text, text_2, vae, _ = FAMILIES[family]
    found = {"unet": UNETS[family], "vae": VAES[vae], "text_encoder": TEXT_ENCODERS[text]}
    return found if text_2 is None else {**found, "text_encoder_2": TEXT_ENCODERS[text_2]}


def write_folder(
    path: str | Path, family: str, *, seed: int = 0, dtype: str = "F32", shards: bool = False, taesd: bool = False
) -> Path:
    """A complete diffusers folder of `family` at `path`. `shards`: every weight file in two; `taesd`: that VAE."""
    root = Path(path)
    pipeline, _, _, _, scheduler = FAMILIES[family]
    configs = components(family)
    if taesd:
        configs["vae"] = VAES["taesd"]
    index: Json = {"_class_name": pipeline, "_diffusers_version": "0.30.0"}
    if pipeline == "StableDiffusionXLPipeline":
        index["force_zeros_for_empty_prompt"] = True
    else:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    for number, (name, config) in enumerate(configs.items()):
        is_text = name.startswith("text_encoder")
        index[name] = ["transformers" if is_text else "diffusers", class_name(config)]
        tensors = random_tensors(class_name(config), config, 1000 * seed + number)
        write_component(root / name, config, stored(tensors, dtype), shards=shards)
        if is_text:
            tokenizer = name.replace("text_encoder", "tokenizer")
            index[tokenizer] = ["transformers", "CLIPTokenizer"]
            write_tokenizer(root / tokenizer, "!" if family == "sd2" or name.endswith("_2") else "<|endoftext|>")
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    _write_json(root / "scheduler" / "scheduler_config.json", scheduler)
    _write_json(root / "model_index.json", index)
    return root


def write_component(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], *, shards: bool = False
) -> None:
    """One network: its config.json and its weights, under the names of diffusers or transformers."""
    _write_json(folder / "config.json", config)
    _write_weights(folder, "model" if "architectures" in config else "diffusion_pytorch_model", tensors, shards)


def write_tokenizer(folder: Path, pad_token: str) -> None:
    """The small vocabulary in CLIP's files."""
    letters = _byte_letters()
    names = [*letters, *(c + "</w>" for c in letters), *(m.replace(" ", "") for m in MERGES)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    _write_json(folder / "vocab.json", {name: i for i, name in enumerate(names)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    settings = {**marks, "pad_token": pad_token, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "special_tokens_map.json", {**marks, "pad_token": pad_token})


def _byte_letters() -> list[str]:
    """GPT-2's letters for bytes: those that print stand for themselves, the others follow from 256 on."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printing]
    return [chr(b) for b in printing] + [chr(256 + i) for i in range(len(others))]


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def _write_weights(folder: Path, stem: str, tensors: Mapping[str, StoredTensor], shards: bool) -> None:
    if not shards:
        save_safetensors(folder / f"{stem}.safetensors", tensors, {"format": "pt"})
        return
    names = sorted(tensors)
    halves = [names[::2], names[1::2]]
    where = {}
    for number, half in enumerate(halves, 1):
        file = f"{stem}-{number:05}-of-00002.safetensors"
        save_safetensors(folder / file, {n: tensors[n] for n in half}, {"format": "pt"})
        where.update(dict.fromkeys(half, file))
    total = sum(t.nbytes for t in tensors.values())
    _write_json(folder / f"{stem}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
