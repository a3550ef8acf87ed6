"""Damaged, hostile and strange folders: every refusal a row, with what it must say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folders import FIRST, WEIGHTS, edit, make_folder, make_shards, put, tensors

from tinydiff_weights.errors import ModelFileError, UnsupportedModelError
from tinydiff_weights.folder import open_folder
from tinydiff_weights.open import open_model
from tinydiff_weights.write import save_safetensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "model")


# ------------------------------------------------------------------------------------------------ shards

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
    (folder / "common").mkdir()
    (folder / "unet" / FIRST).rename(folder / "common" / FIRST)
    (folder / "unet" / FIRST).symlink_to(Path("../common") / FIRST)
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
