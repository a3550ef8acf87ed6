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
from miniature_configs import EOS, FAMILIES, MERGES, TEXT_ENCODERS, UNETS, VAES, VOCAB_SIZE, Json
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

__all__ = [
    "EOS",
    "FAMILIES",
    "MERGES",
    "TEXT_ENCODERS",
    "UNETS",
    "VAES",
    "VOCAB_SIZE",
    "class_name",
    "components",
    "declared_shapes",
    "network",
    "random_tensors",
    "stored",
    "write_component",
    "write_folder",
    "write_tokenizer",
]

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
