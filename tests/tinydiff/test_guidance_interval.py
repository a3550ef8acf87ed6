"""Guidance between two shares of the steps only: outside of them one branch, as if the scale were 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import Cli
from miniatures import write_folder
from numpy.typing import NDArray

import tinydiff
from tinydiff.conditioning import GuidedUNet
from tinydiff.errors import InvalidArgumentError
from tinydiff.metadata import read_png

CALL = {"seed": 3, "num_inference_steps": 5, "width": 64, "height": 64, "output_type": "latent", "guidance_scale": 6.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "sd1", "sd1")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> tinydiff.Pipeline:
    return tinydiff.Pipeline.from_pretrained(folder)


def latents(pipe: tinydiff.Pipeline, **options: Any) -> NDArray[np.float32]:
    found = pipe("a cat", scheduler="Euler", **{**CALL, **options}).images
    assert isinstance(found, np.ndarray)
    return found


def test_the_whole_interval_is_plain_guidance_and_an_empty_one_is_none(pipe: tinydiff.Pipeline) -> None:
    assert np.array_equal(latents(pipe, guidance_interval=(0.0, 1.0)), latents(pipe))
    none = latents(pipe, guidance_scale=1.0)
    for empty in ((0.0, 0.0), (0.5, 0.5), (1, 1)):
        assert np.array_equal(latents(pipe, guidance_interval=empty), none)
    part = latents(pipe, guidance_interval=(0.2, 0.6))
    assert not np.array_equal(part, latents(pipe))
    assert not np.array_equal(part, none)


@pytest.mark.parametrize(
    ("interval", "batches"),
    [((0.2, 0.6), [1, 2, 2, 1, 1]), ((0.0, 0.2), [2, 1, 1, 1, 1]), ((0.8, 1.0), [1, 1, 1, 1, 2]), ([0, 1], [2] * 5)],
)
def test_outside_the_interval_the_work_is_half(
    pipe: tinydiff.Pipeline, interval: Any, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step belongs to the interval where its number, divided by their count, does."""
    seen: list[int] = []
    call = type(pipe.unet).__call__

    def counted(self: Any, sample: NDArray[np.float32], *rest: Any, **options: Any) -> Any:
        seen.append(len(sample))
        return call(self, sample, *rest, **options)

    monkeypatch.setattr(type(pipe.unet), "__call__", counted)
    latents(pipe, guidance_interval=interval)
    assert seen == batches


def test_inside_the_formula_is_that_of_guidance(pipe: tinydiff.Pipeline) -> None:
    """negative + scale * (positive - negative) within, positive outside."""
    prompts = pipe.encode_prompt("a cat", "a dog")
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8), np.float32)
    guided = GuidedUNet(pipe.unet, prompts, 6.0, interval=(0.25, 0.75))
    positive, negative = (
        pipe.unet(x, 500.0, p.hidden[None]).astype(np.float64) for p in (prompts.positive[0], prompts.negative)
    )
    for progress, wanted in ((0.0, positive), (0.25, negative + 6 * (positive - negative)), (0.75, positive)):
        assert np.abs(guided(x, 500.0, progress) - wanted).max() < 1e-4


@pytest.mark.parametrize("value", [0.5, (0.1,), (0.1, 0.2, 0.3), (0.8, 0.2), (-0.1, 1), (0, 1.1), ("0", 1), None])
def test_other_values_are_refused(pipe: tinydiff.Pipeline, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="guidance_interval must be"):
        latents(pipe, guidance_interval=value)


def test_the_flag_reaches_the_picture_and_its_text(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = Cli(tmp_path, monkeypatch, capsys)
    found = []
    for name, flags in (("plain", ()), ("part", ("--guidance-interval", "0.2:0.6"))):
        arguments = ("--model", folder, "--steps", "5", "--size", "64x64", "--seed", "3", "-o", f"{name}.png")
        assert cli("generate", "a cat", *arguments, *flags).code == 0
        found.append(read_png(cli.cwd / f"{name}.png").record["extra"]["guidance_interval"])
    assert found == [[0.0, 1.0], [0.2, 0.6]]
    assert (cli.cwd / "plain.png").read_bytes() != (cli.cwd / "part.png").read_bytes()
