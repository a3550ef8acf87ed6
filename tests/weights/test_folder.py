"""diffusers folders: what is found, which of several files wins, and what every refusal says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import WEIGHTS, edit, make_folder, make_shards, put, tensors

from tinydiff_weights.errors import ModelFileError, UnsupportedModelError
from tinydiff_weights.folder import open_folder, open_vae_folder
from tinydiff_weights.open import open_model, open_vae
from tinydiff_weights.source import Component
from tinydiff_weights.weight_files import weight_candidates
from tinydiff_weights.write import save_safetensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "model")


# ------------------------------------------------------------------------------------------------ healthy folders


def test_everything_is_found(folder: Path) -> None:
    source = open_folder(folder)
    assert (source.kind, source.family, source.pipeline_class) == ("folder", "sd1", "StableDiffusionPipeline")
    assert source.path == folder
    assert set(source.components) == {"unet", "vae", "text_encoder"}
    assert set(source.components["unet"].tensors) == {"conv_in.weight", "conv_out.weight"}
    assert source.components["vae"].config["scaling_factor"] == 0.18215
    assert source.components["text_encoder"].config["_class_name"] == "CLIPTextModel"
    assert source.components["text_encoder"].path == folder / "text_encoder"
    assert source.scheduler == {"_class_name": "PNDMScheduler", "steps_offset": 1}
    assert source.tokenizers["tokenizer"].vocab == folder / "tokenizer/vocab.json"
    assert source.index["requires_safety_checker"] is True
    assert "768" in source.why
    assert source.leftovers == {}
    assert open_model(folder).family == "sd1"
    assert open_model(str(folder) + "/").family == "sd1"


def test_sdxl_has_two_of_each(tmp_path: Path) -> None:
    source = open_folder(make_folder(tmp_path, xl=True))
    assert source.family == "sdxl"
    assert set(source.components) == {"unet", "vae", "text_encoder", "text_encoder_2"}
    assert set(source.tokenizers) == {"tokenizer", "tokenizer_2"}
    assert source.components["text_encoder_2"].config["_class_name"] == "CLIPTextModelWithProjection"


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"cross_attention_dim": 768}, "sd1"),
        ({"cross_attention_dim": 128}, "sd1"),
        ({"cross_attention_dim": 1024, "use_linear_projection": True}, "sd2"),
        ({"cross_attention_dim": 1024}, "sd2"),
        ({"cross_attention_dim": 32, "use_linear_projection": True}, "sd2"),
    ],
)
def test_family_from_the_unet(folder: Path, config: dict[str, Any], family: str) -> None:
    edit(folder / "unet/config.json", **config)
    source = open_folder(folder)
    assert source.family == family
    assert str(config["cross_attention_dim"]) in source.why


@pytest.mark.parametrize("name", ["safety_checker", "feature_extractor", "image_encoder"])
@pytest.mark.parametrize("entry", [[None, None], None, "REMOVE", ["transformers", "Anything"]])
def test_optional_parts(folder: Path, name: str, entry: Any) -> None:
    edit(folder / "model_index.json", **{name: entry})
    assert open_folder(folder).family == "sd1"


def test_defaults_of_tinydiff_json(folder: Path) -> None:
    defaults = {"num_inference_steps": 20, "guidance_scale": 4.5, "width": 128, "height": 128, "prompt_examples": ["x"]}
    put(folder / "tinydiff.json", defaults)
    assert open_folder(folder).defaults == defaults


def test_a_latent_consistency_pipeline_has_defaults_of_its_own(folder: Path) -> None:
    assert open_folder(folder).defaults == {}
    edit(folder / "model_index.json", _class_name="LatentConsistencyModelPipeline")
    assert open_folder(folder).defaults == {"num_inference_steps": 4, "guidance_scale": 8.5}


# ------------------------------------------------------------------------------------------------ which file wins


@pytest.mark.parametrize(
    ("names", "winner"),
    [
        (["a.fp16.", "a."], "a."),
        (["a.non_ema.", "a.fp16."], "a.fp16."),
        (["a.non_ema.", "a.bf16.", "a.fp16.non_ema."], "a.bf16."),
        (["a.non_ema."], "a.non_ema."),
        (["a.", "a.index"], "a."),
        (["a.index", "a.fp16."], "a.index"),
        (["a-00001-of-00002.", "a.index"], "a.index"),
    ],
)
def test_variants(names: list[str], winner: str) -> None:
    def full(name: str) -> str:
        if name.endswith("index"):
            return "diffusion_pytorch_model.safetensors.index.json"
        return f"diffusion_pytorch_model{name[1:]}safetensors"

    listed = [full(n) for n in names]
    for order in (listed, listed[::-1]):
        assert weight_candidates([*order, "config.json", "diffusion_pytorch_model.bin"])[0].name == full(winner)


@pytest.mark.parametrize(
    ("name", "variant", "sharded"),
    [
        ("model.safetensors", "", False),
        ("model.fp16.safetensors", "fp16", False),
        ("diffusion_pytorch_model.fp16.non_ema.safetensors", "fp16.non_ema", False),
        ("model.safetensors.index.json", "", True),
        ("model.safetensors.index.fp16.json", "fp16", True),
        ("model.safetensors.fp16.index.json", "fp16", True),
        ("model.fp16.safetensors.index.json", "fp16", True),
    ],
)
def test_names_of_weights(name: str, variant: str, sharded: bool) -> None:
    (found,) = weight_candidates([name])
    assert (found.variant, found.sharded) == (variant, sharded)


@pytest.mark.parametrize(
    "name",
    [
        "model-00001-of-00002.safetensors",
        "model.fp16-00001-of-00002.safetensors",
        "model.bin",
        "model.bin.index.json",
        "pytorch_model.safetensors.bin",
        "other.safetensors",
        "model.fp 16.safetensors",
        "model..safetensors",
    ],
)
def test_names_that_are_no_weights(name: str) -> None:
    assert weight_candidates([name]) == []


def test_the_winner_is_what_is_opened(folder: Path) -> None:
    for variant, value in [("non_ema", 3), ("fp16", 2)]:
        save_safetensors(folder / f"unet/diffusion_pytorch_model.{variant}.safetensors", tensors("x", value=value))
    (folder / "unet" / WEIGHTS).rename(folder / "unet/kept")
    assert open_folder(folder).components["unet"].tensors["x"].float32()[0, 0] == 2
    (folder / "unet/kept").rename(folder / "unet" / WEIGHTS)
    assert "conv_in.weight" in open_folder(folder).components["unet"].tensors


# ------------------------------------------------------------------------------------------------ old names


def test_old_vae_attention_names(folder: Path) -> None:
    old = {
        "encoder.mid_block.attentions.0.query.weight": (4, 4),
        "encoder.mid_block.attentions.0.key.bias": (4,),
        "encoder.mid_block.attentions.0.value.weight": (4, 4, 1, 1),
        "decoder.mid_block.attentions.0.proj_attn.weight": (4, 4),
        "decoder.mid_block.attentions.0.group_norm.weight": (4,),
    }
    save_safetensors(folder / "vae" / WEIGHTS, {n: np.zeros(s, np.float32) for n, s in old.items()})
    new = open_folder(folder).components["vae"].tensors
    assert {name: tensor.shape for name, tensor in new.items()} == {
        "encoder.mid_block.attentions.0.to_q.weight": (4, 4),
        "encoder.mid_block.attentions.0.to_k.bias": (4,),
        "encoder.mid_block.attentions.0.to_v.weight": (4, 4),
        "decoder.mid_block.attentions.0.to_out.0.weight": (4, 4),
        "decoder.mid_block.attentions.0.group_norm.weight": (4,),
    }
    assert all(name == tensor.name for name, tensor in new.items())


def test_clip_names_with_and_without_prefix_and_position_ids(folder: Path) -> None:
    bare = ["embeddings.token_embedding.weight", "encoder.layers.0.mlp.fc1.weight", "final_layer_norm.bias"]
    expected = {f"text_model.{n}" for n in bare} | {"text_projection.weight"}
    for prefix in ("", "text_model."):
        names = [prefix + n for n in (*bare, "embeddings.position_ids")] + ["text_projection.weight"]
        save_safetensors(folder / "text_encoder/model.safetensors", tensors(*names))
        source = open_folder(folder)
        assert set(source.components["text_encoder"].tensors) == expected
        assert source.leftovers == {"position_ids": 1}


def test_the_same_tensor_under_both_names_is_refused(folder: Path) -> None:
    both = tensors("final_layer_norm.weight", "text_model.final_layer_norm.weight")
    save_safetensors(folder / "text_encoder/model.safetensors", both)
    with pytest.raises(ModelFileError, match="twice"):
        open_folder(folder)


# ------------------------------------------------------------------------------------------------ tokenizers


def test_no_tokenizer_means_clips_own(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    source = open_folder(folder).tokenizers["tokenizer"]
    assert (source.vocab, source.merges, source.tokenizer_json) == (None, None, None)
    assert source.pad_token == "<|endoftext|>"
    edit(folder / "unet/config.json", cross_attention_dim=1024)
    assert open_folder(folder).tokenizers["tokenizer"].pad_token == "!"


def test_no_tokenizer_for_sdxl(tmp_path: Path) -> None:
    make_folder(tmp_path, xl=True)
    shutil.rmtree(tmp_path / "tokenizer_2")
    tokenizers = open_folder(tmp_path).tokenizers
    assert tokenizers["tokenizer"].pad_token == "<|endoftext|>"
    assert tokenizers["tokenizer_2"].pad_token == "!"


def test_tokenizer_json_alone(folder: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink()
    put(folder / "tokenizer/tokenizer.json", {"model": {}})
    source = open_folder(folder).tokenizers["tokenizer"]
    assert source.tokenizer_json == folder / "tokenizer/tokenizer.json"
    assert source.vocab is None


SETTINGS: list[tuple[dict[str, Any], dict[str, Any] | None, str]] = [
    ({}, None, "<|endoftext|>"),
    ({"pad_token": "!"}, None, "!"),
    ({"pad_token": {"content": "!", "lstrip": False}}, None, "!"),
    ({"pad_token": "<|endoftext|>"}, {"pad_token": "!"}, "!"),  # Stable Diffusion 2
    ({"pad_token": "<|endoftext|>"}, {"pad_token": {"content": "!"}}, "!"),
    ({"pad_token": "!", "added_tokens_decoder": {}}, {"pad_token": "<|endoftext|>"}, "!"),
    ({"pad_token": None}, None, "<|endoftext|>"),
]


@pytest.mark.parametrize(("config", "special", "pad"), SETTINGS)
def test_pad_token(folder: Path, config: dict[str, Any], special: dict[str, Any] | None, pad: str) -> None:
    put(folder / "tokenizer/tokenizer_config.json", config)
    if special is not None:
        put(folder / "tokenizer/special_tokens_map.json", special)
    assert open_folder(folder).tokenizers["tokenizer"].pad_token == pad


@pytest.mark.parametrize(
    ("given", "used"), [(77, 77), (64, 64), (10**30, 77), ("77", 77), (0, 77), (True, 77), (None, 77)]
)
def test_model_max_length(folder: Path, given: Any, used: int) -> None:
    put(folder / "tokenizer/tokenizer_config.json", {"model_max_length": given})
    assert open_folder(folder).tokenizers["tokenizer"].model_max_length == used


# ------------------------------------------------------------------------------------------------ shards


@pytest.mark.parametrize("name", ["", "diffusion_pytorch_model.safetensors.index.fp16.json"])
def test_shards(folder: Path, name: str) -> None:
    make_shards(folder, name=name)
    unet = open_folder(folder).components["unet"].tensors
    assert {n: t.float32()[0, 0] for n, t in unet.items()} == {"conv_in.weight": 1, "conv_out.weight": 2}


# ------------------------------------------------------------------------------------------------ another VAE


def make_vae(root: Path, **config: Any) -> Path:
    put(root / "config.json", {"scaling_factor": 0.5, **config})
    save_safetensors(root / WEIGHTS, tensors("decoder.mid_block.attentions.0.query.weight", value=7))
    return root


def test_vae_replaces_its_own_even_a_missing_or_strange_one(folder: Path, tmp_path: Path) -> None:
    vae = make_vae(tmp_path / "vae", _class_name="AutoencoderKL")
    for change in (lambda: None, lambda: shutil.rmtree(folder / "vae")):
        change()
        component = open_model(folder, vae=vae).components["vae"]
        assert component.config["scaling_factor"] == 0.5
        assert component.path == vae
        assert component.tensors["decoder.mid_block.attentions.0.to_q.weight"].float32()[0, 0] == 7
    edit(folder / "model_index.json", vae=["diffusers", "ConsistencyDecoderVAE"])
    assert open_model(folder, vae=vae).components["vae"].config["scaling_factor"] == 0.5


def test_a_vae_without_scaling_factor_takes_that_of_the_one_it_replaces(folder: Path, tmp_path: Path) -> None:
    """A file has no config and so cannot tell it; its place in the model does."""
    config = {"_class_name": "AutoencoderKL"}
    vae = Component("vae", config, {}, tmp_path / "vae.safetensors")
    edit(folder / "vae/config.json", scaling_factor=0.7)
    assert open_folder(folder, vae=vae).components["vae"].config["scaling_factor"] == 0.7
    edit(folder / "vae/config.json", scaling_factor="REMOVE")
    assert open_folder(folder, vae=vae).components["vae"].config["scaling_factor"] == 0.18215
    shutil.rmtree(folder / "vae")
    assert open_folder(folder, vae=vae).components["vae"].config["scaling_factor"] == 0.18215


def test_vae_folder_kinds(folder: Path, tmp_path: Path) -> None:
    tiny = make_vae(tmp_path / "tiny", _class_name="AutoencoderTiny")
    assert open_vae_folder(tiny).config["_class_name"] == "AutoencoderTiny"
    assert open_vae(folder).tensors.keys() == {"decoder.conv_in.weight"}  # the VAE of a whole model
    assert open_vae(folder / "vae").config["scaling_factor"] == 0.18215
    old = make_vae(tmp_path / "old")
    assert open_vae(old).config["_class_name"] == "AutoencoderKL"
    with pytest.raises(UnsupportedModelError, match="UNet2DConditionModel"):
        open_vae(folder / "unet")
    with pytest.raises(ModelFileError, match=r"no config\.json"):
        open_vae(folder / "tokenizer")
    with pytest.raises(ModelFileError, match="no such file or folder"):
        open_model(folder, vae=tmp_path / "nowhere")
