"""The same weights give the same bits, however they are stored: folder, shards, single file, halves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import class_of, single_file, single_file_parts, write
from miniatures import FAMILIES, random_tensors, stored, write_component, write_folder
from miniatures import components as configs_of
from numpy.typing import NDArray

import tinydiff
import tinydiff.loading
from tinydiff_weights.open import open_model
from tinydiff_weights.safetensors import StoredTensor
from tinydiff_weights.source import ModelSource


def latents(path: Path, **options: Any) -> NDArray[np.float32]:
    """Two guided steps of a pipeline opened from `path`."""
    pipe = tinydiff.Pipeline.from_pretrained(path, **options)
    out = pipe("a cat", seed=7, num_inference_steps=2, width=64, height=64, output_type="latent").images
    assert isinstance(out, np.ndarray)
    assert np.isfinite(out).all()
    assert float(out.std()) > 0.01
    return out


def folder_like(source: ModelSource, parts: Mapping[str, Mapping[str, NDArray[Any]]], root: Path, shards: bool) -> Path:
    """A diffusers folder of the same weights under diffusers' names, with the configs of `source`."""
    index: dict[str, Any] = {"_class_name": source.pipeline_class}
    for name, arrays in parts.items():
        config = dict(source.components[name].config)
        is_text = name.startswith("text_encoder")
        index[name] = ["transformers" if is_text else "diffusers", class_of(config)]
        if is_text:
            config.setdefault("architectures", [config.pop("_class_name", "CLIPTextModel")])
        tensors = {n: StoredTensor.from_array(n, a) for n, a in arrays.items()}
        write_component(root / name, config, tensors, shards=shards)
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(source.scheduler)))
    (root / "model_index.json").write_text(json.dumps({**index, **source.index}))
    return root


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_folder_shards_and_single_file_give_identical_bits(kind: str, tmp_path: Path) -> None:
    parts = single_file_parts(kind)
    file = write(tmp_path / "model.safetensors", single_file(kind, parts))
    source = open_model(file)
    options = {"prediction_type": "v_prediction" if kind == "sd2" else "epsilon"}
    from_file = latents(file, **options)
    for shards in (False, True):
        folder = folder_like(source, parts, tmp_path / f"folder{shards}", shards)
        assert np.array_equal(latents(folder, **options), from_file)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_files_equal_the_same_values_in_float32(family: str, dtype: str, tmp_path: Path) -> None:
    half = write_folder(tmp_path / "half", family, seed=5, dtype=dtype)
    full = write_folder(tmp_path / "full", family, seed=5)
    for number, (name, config) in enumerate(configs_of(family).items()):
        rounded = stored(random_tensors(class_of(config), config, 5000 + number), dtype)
        write_component(full / name, config, {n: StoredTensor.from_array(n, t.float32()) for n, t in rounded.items()})
    assert np.array_equal(latents(half), latents(full))


def test_float16_weights_option_equals_a_file_of_halves(tmp_path: Path) -> None:
    half = write_folder(tmp_path / "half", "sd1", seed=5, dtype="F16")
    full = write_folder(tmp_path / "full", "sd1", seed=5)
    assert np.array_equal(latents(full, weights="float16"), latents(half))
    assert not np.array_equal(latents(full), latents(half))


def test_pipelines_of_one_file_share_its_mapping(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "model", "sd1")
    one, two = (tinydiff.Pipeline.from_pretrained(path) for _ in range(2))
    first, second = (np.asarray(p.unet.conv_in.weight.float32()) for p in (one, two))
    assert np.shares_memory(first, second)


def test_every_family_makes_a_picture(tmp_path: Path) -> None:
    for family in FAMILIES:
        path = write_folder(tmp_path / family, family, shards=family == "sd1")
        assert latents(path).shape[1:] == (4, 8, 8)


@pytest.mark.parametrize(("prediction", "side"), [("epsilon", 512), ("v_prediction", 768)])
def test_sd2_single_file_is_told_by_a_trial_and_sized_by_it(
    prediction: str, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {**single_file("sd2", single_file_parts("sd2")), "mystery.weight": np.zeros(3, np.float32)}
    file = write(tmp_path / "model.safetensors", arrays)
    monkeypatch.setattr(tinydiff.loading, "trial_prediction", lambda text, unet: prediction)
    pipe = tinydiff.Pipeline.from_pretrained(file)
    assert pipe.scheduler.config["prediction_type"] == prediction
    assert (pipe.model.defaults.width, pipe.model.defaults.height) == (side, side)
    assert any("trial forward" in hint and prediction in hint for hint in pipe.model.hints)
    assert any("not used: mystery.weight" in hint for hint in pipe.model.hints)
    forced = tinydiff.Pipeline.from_pretrained(file, prediction_type="v_prediction")
    assert forced.model.defaults.width == 768
    assert not any("trial" in hint for hint in forced.model.hints)
