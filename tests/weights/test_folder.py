"""diffusers folders: what is found, which of several files wins, and what every refusal says."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinydiff_weights.errors import ModelFileError, UnsupportedModelError
from tinydiff_weights.folder import open_folder, open_vae_folder
from tinydiff_weights.open import open_model, open_vae
from tinydiff_weights.source import Component
from tinydiff_weights.weight_files import weight_candidates
from tinydiff_weights.write import save_safetensors

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "model")


def edit(path: Path, **changes: Any) -> None:
    table = json.loads(path.read_text()) | changes
    put(path, {k: v for k, v in table.items() if v != "REMOVE"})


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


@pytest.mark.parametrize("name", ["", "diffusion_pytorch_model.safetensors.index.fp16.json"])
def test_shards(folder: Path, name: str) -> None:
    make_shards(folder, name=name)
    unet = open_folder(folder).components["unet"].tensors
    assert {n: t.float32()[0, 0] for n, t in unet.items()} == {"conv_in.weight": 1, "conv_out.weight": 2}


FIRST = "diffusion_pytorch_model-00001-of-00002.safetensors"
HOSTILE = {
    "absolute": "/etc/passwd",
    "absolute safetensors": "/tmp/x.safetensors",
    "parent": "../vae/diffusion_pytorch_model.safetensors",
    "parent in the middle": "sub/../../vae/diffusion_pytorch_model.safetensors",
    "subfolder": "sub/x.safetensors",
    "backslashes": "..\\vae\\x.safetensors",
    "no safetensors": "diffusion_pytorch_model.bin",
    "a config": "config.json",
    "empty": "",
    "dots": "..",
    "NUL": "x\0.safetensors",
    "uri": "file:///x.safetensors",
    "half a surrogate pair": "\ud800.safetensors",
    "escape sequence": "\x1b[2J.safetensors",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_shard_names(folder: Path, name: str) -> None:
    make_shards(folder, {"conv_in.weight": HOSTILE[name], "conv_out.weight": FIRST})
    with pytest.raises(ModelFileError, match="which is no safetensors file beside it"):
        open_folder(folder)


def test_a_shard_that_is_a_link_out_of_the_model(folder: Path, tmp_path: Path) -> None:
    make_shards(folder)
    outside = tmp_path / "outside.safetensors"
    (folder / "unet" / FIRST).rename(outside)
    (folder / "unet" / FIRST).symlink_to(outside)
    with pytest.raises(ModelFileError, match="leaves the model's folder"):
        open_folder(folder)


def test_links_within_the_model_and_a_linked_model_are_fine(folder: Path, tmp_path: Path) -> None:
    make_shards(folder)
    (folder / "shared").mkdir()
    (folder / "unet" / FIRST).rename(folder / "shared" / FIRST)
    (folder / "unet" / FIRST).symlink_to(Path("../shared") / FIRST)
    assert len(open_folder(folder).components["unet"].tensors) == 2
    (tmp_path / "link").symlink_to(folder)
    assert len(open_folder(tmp_path / "link").components["unet"].tensors) == 2


def test_a_folder_link_cannot_smuggle_shards_in(folder: Path, tmp_path: Path) -> None:
    make_shards(folder)
    (folder / "unet").rename(tmp_path / "elsewhere")
    (folder / "unet").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelFileError, match="leaves the model's folder"):
        open_folder(folder)


INDEXES: list[tuple[str, Any, str]] = [
    ("no weight_map", {"metadata": {}}, "no weight_map"),
    ("weight_map list", {"weight_map": []}, "no weight_map"),
    ("weight_map of numbers", {"weight_map": {"x": 1}}, "no weight_map"),
    ("weight_map empty", {"weight_map": {}}, "0 shards"),
    ("too many shards", {"weight_map": {str(i): f"{i}.safetensors" for i in range(1001)}}, "1001 shards"),
    ("missing shard", {"weight_map": {"x": "gone.safetensors"}}, "no such file"),
    ("tensor not in shards", {"weight_map": {"x": FIRST}}, "names 1 tensors that its shards lack"),
    ("list", [1], "holds a JSON list"),
    ("not JSON", "{", "not valid JSON"),
]


@pytest.mark.parametrize(("content", "expected"), [row[1:] for row in INDEXES], ids=[row[0] for row in INDEXES])
def test_bad_indexes(folder: Path, content: Any, expected: str) -> None:
    put(make_shards(folder), content)
    with pytest.raises(ModelFileError, match=expected):
        open_folder(folder)


def test_tensor_in_two_shards(folder: Path) -> None:
    make_shards(folder)
    save_safetensors(folder / "unet" / FIRST, tensors("conv_in.weight", "conv_out.weight"))
    with pytest.raises(ModelFileError, match=r"should be in|in two shards"):
        open_folder(folder)


# ------------------------------------------------------------------------------------------------ refusals

Change = Callable[[Path], object]
REFUSALS: list[tuple[str, Change, type[Exception], str]] = [
    ("no folder", lambda f: shutil.rmtree(f), ModelFileError, "no such file or folder"),
    ("empty folder", lambda f: (shutil.rmtree(f), f.mkdir()), ModelFileError, "is an empty folder"),
    ("no index", lambda f: (f / "model_index.json").unlink(), ModelFileError, "has no model_index.json"),
    ("index not JSON", lambda f: put(f / "model_index.json", "{"), ModelFileError, "not valid JSON"),
    ("index is a list", lambda f: put(f / "model_index.json", []), ModelFileError, "expected an object"),
    ("index with NaN", lambda f: put(f / "model_index.json", '{"a": NaN}'), ModelFileError, "NaN is no JSON number"),
    ("index too deep", lambda f: put(f / "model_index.json", '{"a":' * 10**5), ModelFileError, "nested too deeply"),
    ("index not UTF-8", lambda f: (f / "model_index.json").write_bytes(b"{\xff}"), ModelFileError, "not UTF-8"),
    ("index huge", lambda f: os.truncate(f / "model_index.json", 2**25), ModelFileError, "too many for a JSON"),
    ("index empty", lambda f: put(f / "model_index.json", {}), UnsupportedModelError, "is a None"),
    *(
        (
            f"pipeline {name}",
            lambda f, name=name: edit(f / "model_index.json", _class_name=name),  # type: ignore[misc]
            UnsupportedModelError,
            f"is a {name!r}",
        )
        for name in ("StableDiffusion3Pipeline", "FluxPipeline", "StableDiffusionUpscalePipeline", "KandinskyPipeline")
    ),
    (
        "class is a list",
        lambda f: edit(f / "model_index.json", _class_name=[1]),
        UnsupportedModelError,
        r"is a '?\[1\]",
    ),
    (
        "a part of another kind",
        lambda f: edit(f / "model_index.json", text_encoder=["transformers", "T5EncoderModel"]),
        UnsupportedModelError,
        "text_encoder is a 'T5EncoderModel'",
    ),
    (
        "an unknown part",
        lambda f: edit(f / "model_index.json", controlnet=["diffusers", "ControlNetModel"]),
        UnsupportedModelError,
        "has a part 'controlnet'",
    ),
    (
        "a VAE of another kind",
        lambda f: edit(f / "model_index.json", vae=["diffusers", "AsymmetricAutoencoderKL"]),
        UnsupportedModelError,
        "vae is a 'AsymmetricAutoencoderKL'",
    ),
    ("no unet in the index", lambda f: edit(f / "model_index.json", unet="REMOVE"), ModelFileError, "has no unet"),
    ("unet null", lambda f: edit(f / "model_index.json", unet=[None, None]), ModelFileError, "has no unet"),
    ("vae null", lambda f: edit(f / "model_index.json", vae=[None, None]), ModelFileError, "has no vae.*--vae"),
    ("encoder null", lambda f: edit(f / "model_index.json", text_encoder=None), ModelFileError, "has no text_encoder"),
    ("no unet folder", lambda f: shutil.rmtree(f / "unet"), ModelFileError, "no such folder, but model_index.json"),
    ("no vae folder", lambda f: shutil.rmtree(f / "vae"), ModelFileError, "no such folder.*--vae"),
    ("no config", lambda f: (f / "unet/config.json").unlink(), ModelFileError, "config.json': no such file"),
    (
        "config of another class",
        lambda f: edit(f / "unet/config.json", _class_name="UNet2DModel"),
        ModelFileError,
        "is of a 'UNet2DModel', but UNet2DConditionModel is expected",
    ),
    ("no weights", lambda f: (f / "unet" / WEIGHTS).unlink(), ModelFileError, "has no weights"),
    (
        "only .bin",
        lambda f: (f / "unet" / WEIGHTS).rename(f / "unet/diffusion_pytorch_model.bin"),
        ModelFileError,
        "has its weights as 'diffusion_pytorch_model.bin' only.*save_pretrained",
    ),
    (
        "only pytorch_model.bin",
        lambda f: (f / "text_encoder/model.safetensors").rename(f / "text_encoder/pytorch_model.bin"),
        ModelFileError,
        "has its weights as 'pytorch_model.bin' only.*save_pretrained",
    ),
    (
        "shards without index",
        lambda f: make_shards(f).unlink(),
        ModelFileError,
        "has shards but no",
    ),
    (
        "a pickle named safetensors",
        lambda f: (f / "unet" / WEIGHTS).write_bytes(b"PK\x03\x04" + bytes(100)),
        ModelFileError,
        "zip archive.*torch.load",
    ),
    (
        "truncated weights",
        lambda f: os.truncate(f / "unet" / WEIGHTS, (f / "unet" / WEIGHTS).stat().st_size - 1),
        ModelFileError,
        "truncated: 1 of 128 bytes.*incomplete",
    ),
    (
        "SDXL refiner",
        lambda f: edit(f / "unet/config.json", cross_attention_dim=1280, addition_embed_type="text_time"),
        UnsupportedModelError,
        "SDXL refiner",
    ),
    (
        "another addition",
        lambda f: edit(f / "unet/config.json", addition_embed_type="image"),
        UnsupportedModelError,
        "addition_embed_type 'image'",
    ),
    ("no scheduler", lambda f: shutil.rmtree(f / "scheduler"), ModelFileError, "scheduler_config.json': no such file"),
    (
        "scheduler without class",
        lambda f: (
            edit(f / "scheduler/scheduler_config.json", _class_name="REMOVE"),
            edit(f / "model_index.json", scheduler=None),
        ),
        ModelFileError,
        "does not name its class",
    ),
    ("half a vocabulary", lambda f: (f / "tokenizer/merges.txt").unlink(), ModelFileError, "vocab.json but no merges"),
    ("other half", lambda f: (f / "tokenizer/vocab.json").unlink(), ModelFileError, "merges.txt but no vocab"),
    (
        "pad token a number",
        lambda f: put(f / "tokenizer/tokenizer_config.json", {"pad_token": 3}),
        ModelFileError,
        "pad_token that is no text",
    ),
    (
        "tokenizer config a list",
        lambda f: put(f / "tokenizer/tokenizer_config.json", "[]"),
        ModelFileError,
        "holds a JSON list",
    ),
    ("default steps text", lambda f: put(f / "tinydiff.json", {"width": "128"}), ModelFileError, "width is '128'"),
    ("default steps half", lambda f: put(f / "tinydiff.json", {"height": 1.5}), ModelFileError, "height is 1.5"),
    ("default cfg true", lambda f: put(f / "tinydiff.json", {"guidance_scale": True}), ModelFileError, "scale is True"),
    ("default size huge", lambda f: put(f / "tinydiff.json", {"width": 10**9}), ModelFileError, "width is 1000000000"),
]


@pytest.mark.parametrize(
    ("change", "error", "expected"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_refusals(folder: Path, change: Change, error: type[Exception], expected: str) -> None:
    change(folder)
    with pytest.raises(error, match=f"(?s){expected}") as caught:
        open_model(folder)
    assert str(folder) in str(caught.value)


OTHER_KINDS: list[tuple[str, Callable[[Path], object], str]] = [
    ("LoRA", lambda f: save_safetensors(f / "pytorch_lora_weights.safetensors", {}), "is a LoRA"),
    ("PEFT", lambda f: put(f / "adapter_config.json", {}), "is a LoRA"),
    ("embedding", lambda f: put(f / "learned_embeds.bin", ""), "is a textual inversion"),
    ("modular", lambda f: put(f / "modular_model_index.json", {}), "modular pipeline"),
    ("VAE alone", lambda f: put(f / "config.json", {"_class_name": "AutoencoderKL"}), "a VAE alone.*--vae"),
    ("TAESD alone", lambda f: put(f / "config.json", {"_class_name": "AutoencoderTiny"}), "a VAE alone.*--vae"),
    ("UNet alone", lambda f: put(f / "config.json", {"_class_name": "UNet2DConditionModel"}), "a UNet alone"),
    ("ControlNet", lambda f: put(f / "config.json", {"_class_name": "ControlNetModel"}), "a ControlNet"),
    ("language model", lambda f: put(f / "config.json", {"architectures": ["LlamaForCausalLM"]}), "LlamaForCausalLM"),
    ("CLIP", lambda f: put(f / "config.json", {"architectures": ["CLIPTextModel"]}), "a text encoder alone"),
    ("single files", lambda f: put(f / "a.safetensors", ""), "Open one of its files: a.safetensors"),
    ("pickle", lambda f: put(f / "a.ckpt", ""), "no model but the pickle 'a.ckpt'.*torch.load"),
    ("pictures", lambda f: put(f / "a.png", ""), "has no model_index.json"),
]


@pytest.mark.parametrize(("make", "expected"), [r[1:] for r in OTHER_KINDS], ids=[r[0] for r in OTHER_KINDS])
def test_folders_of_other_kinds(tmp_path: Path, make: Callable[[Path], object], expected: str) -> None:
    make(tmp_path)
    with pytest.raises((ModelFileError, UnsupportedModelError), match=f"(?s){expected}"):
        open_model(tmp_path)
    print(f"{len(REFUSALS)} damaged folders, {len(OTHER_KINDS)} of other kinds")


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
