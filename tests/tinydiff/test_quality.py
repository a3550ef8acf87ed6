"""Measures of what quantising loses: formulas, single layers by hand, and that measuring changes nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import write_folder
from numpy.typing import NDArray

import tinydiff
from tinydiff.commands import quality_report
from tinydiff.errors import InvalidArgumentError
from tinydiff.packing import Recipe, plan
from tinydiff.quality import (
    LayerError,
    Measuring,
    backends,
    layer_errors,
    psnr,
    read_sensitivities,
    sensitivities,
    snr,
    step_errors,
)
from tinydiff.recipe import kind_of
from tinydiff_kernels.handles import LinearWeight
from tinydiff_kernels.ref import quantise, quantised_weights
from tinydiff_kernels.reference import Reference
from tinydiff_kernels.rounded import Rounded, Values
from tinydiff_kernels.rows import Rows, rows_from_tokens
from tinydiff_weights.open import open_model

SETTINGS: dict[str, Any] = {"width": 16, "height": 16, "num_inference_steps": 2, "seed": 1, "scheduler": "DDIM"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "sd1", "sd1")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> tinydiff.Pipeline:
    return tinydiff.Pipeline.from_pretrained(folder, weights="float32", backend="reference")


def test_decibels() -> None:
    ones = np.ones(1000, np.float32)
    assert snr(ones, ones * np.float32(0.9)) == pytest.approx(20, abs=1e-5)
    assert snr(10 * ones, 9 * ones) == pytest.approx(20)
    assert psnr(ones, 0 * ones) == pytest.approx(10 * math.log10(4))
    assert psnr(ones, 0 * ones, peak=1.0) == pytest.approx(0)
    assert snr(ones, ones) == psnr(ones, ones) == math.inf
    assert math.isnan(snr(0 * ones, 0 * ones))
    assert snr(0 * ones, ones) == -math.inf
    assert math.isnan(snr(ones, np.full(1000, np.nan)))
    assert psnr(ones, np.full(1000, np.inf)) == -math.inf
    tiny, ten = np.full(10**6, 1e-4, np.float32), np.full(10**6, 1e-3, np.float32)
    assert snr(ten, ten + tiny) == pytest.approx(20, abs=1e-3)  # sums are float64


@pytest.mark.parametrize("kind", ["i8", "i4"])
def test_a_layers_error_by_hand(kind: str) -> None:
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((5, 40), np.float32), rng.standard_normal((1, 7, 40), np.float32)
    residual = rows_from_tokens(100 * rng.standard_normal((1, 7, 5), np.float32))
    layer = LinearWeight("name", Values("name.weight", w), Values("name.bias", np.arange(5, dtype=np.float32)))
    errors: dict[str, LayerError] = {}
    backend = Measuring("unet", lambda weight: kind, errors)  # type: ignore[arg-type,return-value]
    result = backend.linear(rows_from_tokens(x), layer, residual=residual, activation="silu")
    assert np.array_equal(
        result.array, Reference().linear(rows_from_tokens(x), layer, residual=residual, activation="silu").array
    )
    records = quantise.rows_records(x[0])
    left = quantise.dequantise(quantise.quantise(x[0], records), records)
    if kind == "i8":
        rounded = quantised_weights.dequantise_i8(*quantised_weights.quantise_i8(w))
    else:
        rounded = quantised_weights.dequantise_i4(quantised_weights.quantise_i4(w), w.shape)

    def silu(y: NDArray[np.float64]) -> NDArray[np.float64]:
        y = y + np.arange(5)
        return y / (1 + np.exp(-y))

    exact, other = silu(x[0].astype(np.float64) @ w.T), silu(left.astype(np.float64) @ rounded.T)  # without residual
    assert errors["unet/name"].kind == kind
    assert errors["unet/name"].snr == pytest.approx(snr(exact, other), abs=1e-3)


def test_layers_of_a_picture(pipe: tinydiff.Pipeline) -> None:
    plain = pipe("a cat", output_type="np", **SETTINGS).images
    int8 = layer_errors(pipe, "int8", ["a cat"], **SETTINGS)
    int4 = layer_errors(pipe, dict.fromkeys(int8, "i4"), ["a cat"], **SETTINGS)
    assert np.array_equal(pipe("a cat", output_type="np", **SETTINGS).images, plain)  # backends are back
    assert int8.keys() == int4.keys()
    assert {name.split("/")[0] for name in int8} == {"unet", "vae", "text_encoder"}
    assert not any(part in name for name in int8 for part in ("conv_in", "conv_out", "time_embedding"))
    assert all(int8[name].snr > int4[name].snr + 6 for name in int8)
    name = min(int4, key=lambda key: int4[key].snr)
    (only,) = layer_errors(pipe, {name: "i4"}, ["a cat"], **SETTINGS).items()
    assert only == (name, int4[name])  # the others were float32 in both


def test_steps_and_pictures(pipe: tinydiff.Pipeline, folder: Path) -> None:
    settings = {**SETTINGS, "num_inference_steps": 3}
    seed = settings.pop("seed")
    same = step_errors(pipe, pipe, "a cat", seed, **settings)
    assert (same.steps, same.picture) == ([math.inf] * 3, math.inf)
    int8 = tinydiff.Pipeline.from_pretrained(folder, weights="int8")
    error = step_errors(pipe, int8, "a cat", seed, **settings)
    assert len(error.steps) == 3
    assert 10 < error.steps[2] < error.steps[0] < 60
    assert error.picture == pytest.approx(psnr(*error.images, peak=1.0))
    assert error.images[0].shape == (16, 16, 3)


def test_sensitivity_is_of_one_layer_alone(pipe: tinydiff.Pipeline) -> None:
    seen: list[tuple[int, int]] = []
    found = sensitivities(
        pipe, ("i4",), ["a cat"], at=(0.5,), progress=lambda done, total: seen.append((done, total)), **SETTINGS
    )
    assert found.keys() == layer_errors(pipe, "int8", ["a cat"], **SETTINGS).keys()
    assert seen == [(n + 1, len(found)) for n in range(len(found))]
    worst, least = (choose(found, key=lambda name: found[name]["i4"]) for choose in (max, min))
    assert found[worst]["i4"] > 10 * found[least]["i4"]


def test_backends_are_put_back_whatever_happens(pipe: tinydiff.Pipeline) -> None:
    before = pipe.unet.backend

    def use() -> None:
        with backends(pipe, lambda name: Rounded(kind_of(name, "int8"))):
            assert isinstance(pipe.unet.backend, Rounded)
            pipe("a cat", width=63)

    with pytest.raises(InvalidArgumentError):
        use()
    assert pipe.unet.backend is before


def test_rounded_weights_are_made_once() -> None:
    made = []

    class Counting(Rounded):
        def weight(self, values: Any, kind: Any) -> Any:
            made.append(kind)
            return super().weight(values, kind)

    layer = LinearWeight("x", Values("x.weight", np.ones((4, 8), np.float32)))
    backend = Counting(lambda weight: "i8")
    x: Rows = rows_from_tokens(np.ones((1, 3, 8), np.float32))
    assert np.allclose(backend.linear(x, layer).array, 8)
    backend.linear(x, layer)
    assert made == ["i8"]


def test_the_report_names_steps_pictures_and_layers(
    pipe: tinydiff.Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = tinydiff.Pipeline.from_pretrained
    monkeypatch.setattr(  # the small model has a default of 50 steps
        "tinydiff.loading.Defaults", lambda **more: type(pipe.model.defaults)(3, 2.0, 16, 16)
    )
    assert opened(folder).model.defaults.steps == 3
    kinds = {"unet/mid_block.resnets.0.conv1": "i4", "unet/mid_block.resnets.0.conv2": "i8"}
    text = list(quality_report.lines(folder, folder, kinds))
    assert [line.split(":")[0] for line in text[:3]] == [
        f"picture of {prompt!r}, seed {seed}" for seed, prompt in enumerate(quality_report.PROMPTS)
    ]
    assert "after each step (SNR, dB): inf inf inf" in text[3]  # the same file twice
    assert text[4].startswith("1 layers of kind i4: ")
    assert text[5].startswith("1 layers of kind i8: ")
    assert text[6].endswith("i4   unet/mid_block.resnets.0.conv1")
    assert len(text) == 8


# ------------------------------------------------------------------------------------- measured, for mixed precision


def test_measured_losses_decide_which_layers_get_8_bits(folder: Path, tmp_path: Path) -> None:
    source = open_model(folder)
    plain = plan(source, Recipe("mixed"))
    narrow = [name for name, layer in plain.formats.items() if layer.kind == "i4"]
    losses = {name: {"i4": 1.0 if name == narrow[-1] else 0.0, "i8": 0.0} for name in plain.formats}
    measured = plan(source, Recipe("mixed"), losses)
    assert measured.formats[narrow[-1]].kind == "i8"
    assert measured.size <= plain.size + max(layer.nbytes for layer in plain.formats.values())
    partly = plan(source, Recipe("mixed"), {narrow[-1]: losses[narrow[-1]], "unet/unknown": {"i4": 1.0}})
    assert partly.formats[narrow[-1]].kind == "i8"  # the others were estimated
    assert sum(layer.kind == "i8" for layer in partly.formats.values()) > 1


def test_sensitivities_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('{"unet/a": {"i4": 0.5, "i8": 0.25}}')
    assert read_sensitivities(file) == {"unet/a": {"i4": 0.5, "i8": 0.25}}
    for text in ('{"a": 1}', '{"a": {"i4": "x"}}', '{"a": {"i4": -1.0}}', '{"a": {"i4": 1e999}}'):
        file.write_text(text)
        with pytest.raises(InvalidArgumentError, match=r"x\.json"):
            read_sensitivities(file)
