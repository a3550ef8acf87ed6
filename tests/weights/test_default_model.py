"""The embedded model's master is complete, small, fp16, finite, licensed, and in the layout of any diffusers folder.

Read with the json module and a few lines of safetensors format on purpose: independent of our own reader.
"""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from master import MASTER as MODEL

CONFIGS = (
    "model_index.json",
    "tinydiff.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "taesd/config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/vocab.json",
)
WEIGHTS = tuple(sorted(path.relative_to(MODEL).as_posix() for path in MODEL.rglob("*.safetensors")))
PARTS = ("text_encoder", "unet", "vae", "taesd")


def read_json(name: str) -> dict:
    return json.loads((MODEL / name).read_text(encoding="utf-8"))


def read_tensors(name: str) -> dict[str, np.ndarray]:
    """Every tensor of a file that holds fp16 only; any other dtype fails here."""
    data = (MODEL / name).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    assert {entry["dtype"] for entry in header.values()} == {"F16"}
    tensors = {}
    for key, entry in header.items():
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        tensors[key] = np.frombuffer(data[start:stop], "<f2").reshape(entry["shape"])
    return tensors


def test_whole_folder_is_at_most_56_mb_in_files_of_at_most_16() -> None:
    sizes = [path.stat().st_size for path in MODEL.rglob("*") if path.is_file()]
    assert 1_000_000 < sum(sizes) <= 56_000_000
    assert max(sizes) <= 16_000_000


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_weights_and_an_index_names_its_files(part: str) -> None:
    files = {path.name for path in (MODEL / part).glob("*.safetensors")}
    assert files
    index = MODEL / part / "diffusion_pytorch_model.safetensors.index.json"
    assert index.exists() == (len(files) > 1)
    if index.exists():
        assert set(json.loads(index.read_text())["weight_map"].values()) == files


def test_unet_has_at_most_16_million_parameters() -> None:
    shards = [name for name in WEIGHTS if name.startswith("unet/")]
    assert 1_000_000 < sum(tensor.size for name in shards for tensor in read_tensors(name).values()) <= 16_000_000


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_are_json_objects(name: str) -> None:
    assert isinstance(read_json(name), dict)
    assert read_json(name)


@pytest.mark.parametrize("name", WEIGHTS)
def test_tensors_are_half_precision_finite_and_not_constant_zero(name: str) -> None:
    tensors = read_tensors(name)
    assert tensors
    for key, tensor in tensors.items():
        assert np.isfinite(tensor).all(), key
        assert tensor.any() or key.endswith("bias"), f"{key} is all zero"


def test_index_names_the_components_that_are_there() -> None:
    index = read_json("model_index.json")
    assert index["_class_name"] == "StableDiffusionPipeline"
    present = {name for name, value in index.items() if isinstance(value, list) and value[0] is not None}
    assert present == {"vae", "text_encoder", "tokenizer", "unet", "scheduler"}
    for name in present:
        assert (MODEL / name).is_dir()


def test_widths_of_the_networks_fit_together() -> None:
    text, unet, vae = (read_json(f"{part}/config.json") for part in ("text_encoder", "unet", "vae"))
    assert text["hidden_size"] == unet["cross_attention_dim"] <= 256
    assert unet["in_channels"] == unet["out_channels"] == vae["latent_channels"]
    defaults = read_json("tinydiff.json")
    assert defaults["width"] == defaults["height"] == 8 * unet["sample_size"] == vae["sample_size"]
    assert vae["scaling_factor"] > 0
    assert read_json("taesd/config.json")["latent_channels"] == vae["latent_channels"]
    embeddings = read_tensors("text_encoder/model.safetensors")
    assert embeddings["text_model.embeddings.token_embedding.weight"].shape == (text["vocab_size"], text["hidden_size"])
    assert embeddings["text_model.embeddings.position_embedding.weight"].shape[0] == 77


def test_scheduler_is_v_prediction_with_zero_terminal_snr() -> None:
    scheduler = read_json("scheduler/scheduler_config.json")
    assert scheduler["prediction_type"] == "v_prediction"
    assert scheduler["rescale_betas_zero_snr"] is True
    assert scheduler["timestep_spacing"] == "trailing"


def test_vocabulary_is_clip_format() -> None:
    vocabulary = read_json("tokenizer/vocab.json")
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len(vocabulary) == read_json("text_encoder/config.json")["vocab_size"] <= 8192
    assert list(vocabulary)[-2:] == ["<|startoftext|>", "<|endoftext|>"]
    text = read_json("text_encoder/config.json")
    assert text["bos_token_id"] == vocabulary["<|startoftext|>"]
    assert text["eos_token_id"] == vocabulary["<|endoftext|>"]
    version, *merges = (MODEL / "tokenizer/merges.txt").read_text(encoding="utf-8").splitlines()
    assert version.startswith("#version")
    for merge in merges:
        left, right = merge.split(" ")
        assert {left, right, left + right} <= vocabulary.keys()


def test_defaults_are_usable() -> None:
    defaults = read_json("tinydiff.json")
    assert 1 <= defaults["num_inference_steps"] <= 50
    assert 1.0 <= defaults["guidance_scale"] <= 15.0
    assert defaults["prompt_examples"]
    assert all(isinstance(prompt, str) and prompt for prompt in defaults["prompt_examples"])


def test_licences_and_attribution_are_shipped() -> None:
    licences = (MODEL / "LICENSES.md").read_text(encoding="utf-8")
    for words in (
        "Noto Emoji",
        "Google Inc",
        "Apache-2.0",
        "Fluent Emoji",
        "Twemoji",
        "CC BY 4.0",
        "all-MiniLM-L6-v2",
        "Microsoft Corporation",
        "MIT",
        "emojibase",
    ):
        assert words in licences
    assert len((MODEL / "MODEL_CARD.md").read_text(encoding="utf-8")) > 500


def test_sample_grid_is_a_small_png() -> None:
    data = (MODEL / "samples.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(data) < 300_000
