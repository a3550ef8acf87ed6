"""Single files against diffusers: its own converters give the same names and bytes, its classes take our configs.

Models are diffusers' and transformers' own classes with the real block structure and tiny widths. What diffusers'
converters cannot do (gaps in the numbering, LCM's guidance embedding) is compared with the model itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import CHECKPOINTS, Arrays, configs, single_file
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    infer_diffusers_model_type,
)
from miniatures import VAES
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tinydiff_weights.safetensors import StoredTensor
from tinydiff_weights.singlefile import open_single_file, open_vae_file
from tinydiff_weights.source import ModelSource

Tensors = dict[str, torch.Tensor]
Opener = Callable[..., tuple[ModelSource, Tensors]]
BEYOND_DIFFUSERS = {"bk_small_gaps", "bk_tiny_gaps"}  # its converter counts blocks by a fixed stride
ROWS = [(kind, "float16") for kind in CHECKPOINTS]
ROWS += [(kind, dtype) for kind in ("sd1", "sd2", "sdxl") for dtype in ("bfloat16", "float32")]
FORMATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def network(config: dict[str, Any]) -> torch.nn.Module:
    """diffusers' or transformers' network of a config, with its own random initialisation."""
    torch.manual_seed(0)
    if "architectures" in config:
        wanted = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}
        return wanted[config["architectures"][0]](CLIPTextConfig(**config))
    classes = {c.__name__: c for c in (UNet2DConditionModel, AutoencoderKL, AutoencoderTiny)}
    return classes[config["_class_name"]].from_config(config)


def named(config: dict[str, Any]) -> Tensors:
    """The tensors of a network, text models with `text_model.` before their names as on the hub."""
    tensors = {n: t for n, t in network(config).state_dict().items() if not n.endswith("position_ids")}
    if "architectures" not in config:
        return tensors
    bare = ("text_model.", "text_projection.")
    return {n if n.startswith(bare) else f"text_model.{n}": t for n, t in tensors.items()}


@cache
def parts(kind: str) -> dict[str, Tensors]:
    found = configs(kind)
    if CHECKPOINTS[kind].text == "open_clip":  # diffusers leaves out the layer with this number
        found["text_encoder"] = {**found["text_encoder"], "num_hidden_layers": 23}
    return {part: named(config) for part, config in found.items()}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Gives a checkpoint of diffusers' own tensors, opened by us and read by the library; each made once."""
    folder = tmp_path_factory.mktemp("checkpoints")

    @cache
    def opener(kind: str, dtype: str = "float16") -> tuple[ModelSource, Tensors]:
        return make(folder / f"{kind}.{dtype}.safetensors", kind, dtype)

    return opener


def make(path: Path, kind: str, dtype: str) -> tuple[ModelSource, Tensors]:
    storage = FORMATS[dtype]
    # Renaming moves bits about; 16-bit formats travel as integers, since NumPy has no bfloat16.
    as_bits: dict[str, Arrays] = {
        part: {n: bits(t.to(storage)) for n, t in tensors.items()} for part, tensors in parts(kind).items()
    }
    arrays = single_file(kind, as_bits)
    tensors = {n: torch.from_numpy(np.ascontiguousarray(a).reshape(a.shape)) for n, a in arrays.items()}
    same = {n: t.view(storage) if t.dtype in (torch.int16, torch.int32) else t for n, t in tensors.items()}
    save_file({n: t.contiguous() for n, t in same.items()}, path)
    return open_single_file(path), load_file(path)


def bits(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16).numpy()


def assert_same(ours: Any, theirs: Tensors) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        found: StoredTensor = ours[name]
        assert found.shape == tuple(tensor.shape), name
        assert found.raw.tobytes() == bits(tensor).tobytes(), name


@pytest.mark.parametrize(("kind", "dtype"), ROWS)
def test_names_and_bytes(kind: str, dtype: str, opened: Opener) -> None:
    source, file = opened(kind, dtype)
    wanted = {part: {n: t.to(FORMATS[dtype]) for n, t in tensors.items()} for part, tensors in parts(kind).items()}
    for part, tensors in wanted.items():
        assert_same(source.components[part].tensors, tensors)

    if kind not in BEYOND_DIFFUSERS:
        theirs = convert_ldm_unet_checkpoint(dict(file), dict(source.components["unet"].config))
        ours = {n: t for n, t in source.components["unet"].tensors.items() if ".cond_proj." not in n}
        assert_same(ours, theirs)
    assert_same(
        source.components["vae"].tensors, convert_ldm_vae_checkpoint(dict(file), source.components["vae"].config)
    )
    assert_same(source.components["text_encoder"].tensors, first_text_encoder(file))
    if source.family == "sdxl":
        second = convert_open_clip_checkpoint(None, dict(file), prefix="conditioner.embedders.1.model.")
        assert_same(source.components["text_encoder_2"].tensors, second)


def first_text_encoder(file: Tensors) -> Tensors:
    if any(name.startswith("cond_stage_model.model.") for name in file):
        return convert_open_clip_checkpoint(None, dict(file))
    return convert_ldm_clip_checkpoint(dict(file))


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_diffusers_builds_the_same_networks_from_our_configs(kind: str, opened: Opener) -> None:
    source, _ = opened(kind)
    for component in source.components.values():
        with torch.device("meta"):  # shapes only
            shapes = {n: tuple(t.shape) for n, t in named(dict(component.config)).items()}
        assert shapes == {n: t.shape for n, t in component.tensors.items()}, component.name


@pytest.mark.parametrize(
    ("kind", "wanted"), [("sd1", "v1"), ("sd1_inpainting", "inpainting"), ("sd1_lcm", "v1"), ("bk_small", "v1")]
)
def test_diffusers_takes_the_file_for_the_same_model(kind: str, wanted: str, opened: Opener) -> None:
    _, file = opened(kind)
    assert infer_diffusers_model_type(file) == wanted


@pytest.mark.parametrize("name", ["taesd", "taesd_three"])
def test_taesd(name: str, tmp_path: Path) -> None:
    tensors = named(VAES[name])
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "taesd.safetensors")
    vae = open_vae_file(tmp_path / "taesd.safetensors")
    assert_same(vae.tensors, tensors)
    assert named(dict(vae.config)).keys() == tensors.keys()


def test_how_many_rows_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{len(ROWS)} rows: {len(CHECKPOINTS)} kinds of checkpoint, some in {len(FORMATS)} storage formats")
    assert len(ROWS) >= 25
