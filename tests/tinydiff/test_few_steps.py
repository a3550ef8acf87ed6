"""A model with few-step additions: one set of weights, two ways to draw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import write_folder
from numpy.typing import NDArray

import tinydiff
from tinydiff.arguments import steps_and_guidance
from tinydiff.errors import ModelFileError
from tinydiff.packing import Recipe
from tinydiff.quantize import quantize
from tinydiff_weights.open import open_model
from tinydiff_weights.write import save_safetensors

LINEAR, CONV = "mid_block.attentions.0.proj_in", "mid_block.resnets.0.conv1"
FEW = {"file": "few.safetensors", "num_inference_steps": 3, "default": True}


def additions(folder: Path) -> dict[str, NDArray[np.float16]]:
    """Random additions of rank 2 to a linear layer (stored as 1x1 convolution or not) and a 3x3 convolution."""
    rng, unet = np.random.default_rng(5), tinydiff.Pipeline.from_pretrained(folder, backend="reference").unet
    tensors = {}
    for layer in (LINEAR, CONV):
        shape = unet.weights[layer].weight.shape
        ends = (1, 1)  # the linear layer's are stored as 1x1 convolutions
        tensors[f"unet.{layer}.lora_A.weight"] = rng.standard_normal((2, *shape[1:], *ends)[:4]).astype(np.float16)
        tensors[f"unet.{layer}.lora_B.weight"] = rng.standard_normal((shape[0], 2, *ends)).astype(np.float16)
    return tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path, "sd1", seed=3)
    save_safetensors(tmp_path / "few.safetensors", additions(tmp_path))
    defaults = {"num_inference_steps": 9, "guidance_scale": 3.0, "width": 64, "height": 64, "few_steps": FEW}
    (tmp_path / "tinydiff.json").write_text(json.dumps(defaults))
    return tmp_path


def draw(pipe: tinydiff.Pipeline, **settings: Any) -> NDArray[np.float32]:
    made: Any = pipe("a cat", seed=1, output_type="latent", **settings).images
    return np.asarray(made, np.float32)


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ((None, None), (3, 1.0)),
        ((4, None), (4, 1.0)),
        ((20, None), (20, 3.0)),
        ((None, 1.0), (3, 1.0)),
        ((None, 4.0), (9, 4.0)),
        ((4, 2.0), (4, 2.0)),
        ((20, 1.0), (20, 1.0)),
    ],
)
def test_steps_and_guidance_go_together(folder: Path, asked: Any, taken: Any) -> None:
    assert steps_and_guidance(tinydiff.Pipeline.from_pretrained(folder, backend="reference").model, *asked) == taken


def test_the_guided_model_stays_the_default_where_the_file_says_so(folder: Path) -> None:
    table = json.loads((folder / "tinydiff.json").read_text())
    table["few_steps"]["default"] = False
    (folder / "tinydiff.json").write_text(json.dumps(table))
    model = tinydiff.Pipeline.from_pretrained(folder, backend="reference").model
    assert steps_and_guidance(model, None, None) == (9, 3.0)
    assert steps_and_guidance(model, 4, None) == (4, 1.0)


def test_additions_hang_on_the_weights_for_few_steps_only(folder: Path) -> None:
    """Drawn with them it equals a UNet whose weights are W + B A; drawn without, the plain model."""
    few = tinydiff.Pipeline.from_pretrained(folder, backend="reference")
    (folder / "tinydiff.json").unlink()
    plain = tinydiff.Pipeline.from_pretrained(folder, backend="reference")
    merged = tinydiff.Pipeline.from_pretrained(folder, backend="reference")
    tensors = additions(folder)
    for layer in (LINEAR, CONV):
        weight: Any = merged.unet.weights[layer]
        a, b = (tensors[f"unet.{layer}.lora_{x}.weight"].astype(np.float32) for x in "AB")
        product = b.reshape(len(b), 2) @ a.reshape(2, -1)
        weight.weight = type(weight.weight).from_array(
            layer, weight.weight.float32() + product.reshape(weight.weight.shape)
        )
    guided = draw(few, num_inference_steps=2, guidance_scale=2.0, width=64, height=64)
    assert (guided == draw(plain, num_inference_steps=2, guidance_scale=2.0, width=64, height=64)).all()
    first, wanted = draw(few), draw(merged, num_inference_steps=3, guidance_scale=1.0, width=64, height=64)
    assert np.sqrt(((first - wanted) ** 2).sum() / (wanted**2).sum()) < 1e-4
    assert np.abs(first - draw(plain, num_inference_steps=3, guidance_scale=1.0, width=64, height=64)).max() > 0.01


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (7, "few_steps is 7"),
        ({**FEW, "file": "../few.safetensors"}, "names the file '../few.safetensors'"),
        ({**FEW, "file": "other.safetensors"}, "no such file"),
        ({**FEW, "num_inference_steps": 9}, "asks for 9 steps"),
        ({**FEW, "default": "yes"}, "has the default 'yes'"),
    ],
)
def test_odd_entries_are_refused(folder: Path, entry: Any, said: str) -> None:
    (folder / "tinydiff.json").write_text(json.dumps({"few_steps": entry}))
    with pytest.raises(ModelFileError, match=said):
        tinydiff.Pipeline.from_pretrained(folder, backend="reference")


def test_additions_that_do_not_fit_are_refused_by_name(folder: Path) -> None:
    good, layer = additions(folder), f"unet.{CONV}"
    down, up = f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"
    cases: list[tuple[dict[str, Any], str]] = [
        ({k: v for k, v in good.items() if k != up}, "come in pairs"),
        ({**good, "unet.nothing.lora_A.weight": good[down], "unet.nothing.lora_B.weight": good[up]}, "no such layer"),
        ({**good, up: good[up][1:]}, "does not fit"),
        ({**good, down: good[down] * np.float16("nan")}, "NaN"),  # values are looked at when they are used
    ]
    for tensors, said in cases:
        save_safetensors(folder / "few.safetensors", tensors)
        with pytest.raises(ModelFileError, match=said):
            draw(tinydiff.Pipeline.from_pretrained(folder, backend="reference"))


def test_a_packed_file_carries_the_additions(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    quantize(open_model(folder), path, Recipe("int8"))
    pipes = [tinydiff.Pipeline.from_pretrained(path), tinydiff.Pipeline.from_pretrained(folder, weights="int8")]
    assert steps_and_guidance(pipes[0].model, None, None) == (3, 1.0)
    for settings in ({}, {"num_inference_steps": 2, "guidance_scale": 3.0}):
        np.testing.assert_array_equal(*(draw(pipe, **settings) for pipe in pipes))
