"""Whole pictures against diffusers' pipelines: the same folder, prompt and seed, on the reference and on kernels.

Latents agree within 1e-3 relative, pixels within 2/255 everywhere. Both sides open the miniature that
`miniatures.write_folder` wrote, and draw their noise from the same seed.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from miniatures import write_folder
from PIL import Image

import tinydiff

PROMPT, NEGATIVE = "a cat, an apple", "dog"
ROWS: list[tuple[float, float, str]] = []

# family, our arguments (also diffusers', unless they are renamed in `theirs`), diffusers' scheduler class
CASES: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "sd1 as it comes": ("sd1", {}, None),
    "sd1 negative, two images": ("sd1", {"negative_prompt": NEGATIVE, "num_images_per_prompt": 2}, None),
    "sd1 wide": ("sd1", {"width": 96, "height": 64}, None),
    "sd1 odd latents 9x7": ("sd1", {"width": 72, "height": 56}, None),
    "sd1 no guidance": ("sd1", {"guidance_scale": 1.0}, None),
    "sd1 guidance rescale": ("sd1", {"guidance_rescale": 0.7}, None),
    "sd1 empty prompt": ("sd1", {"prompt": ""}, None),
    "sd1 long prompt": ("sd1", {"prompt": "cat " * 90}, None),
    "sd1 ddim eta": ("sd1", {"eta": 0.7}, "DDIMScheduler"),
    "sd1 ddpm": ("sd1", {}, "DDPMScheduler"),
    "sd1 euler a": ("sd1", {"num_images_per_prompt": 2}, "EulerAncestralDiscreteScheduler"),
    "sd1 heun": ("sd1", {}, "HeunDiscreteScheduler"),
    "sd1 dpm2 a": ("sd1", {}, "KDPM2AncestralDiscreteScheduler"),
    "sd1 lms": ("sd1", {}, "LMSDiscreteScheduler"),
    "sd1 dpm++ 2m": ("sd1", {}, "DPMSolverMultistepScheduler"),
    "sd1 unipc": ("sd1", {}, "UniPCMultistepScheduler"),
    "sd1 euler timesteps": ("sd1", {"timesteps": [900, 500, 100]}, "EulerDiscreteScheduler"),
    "sd1 euler sigmas": ("sd1", {"sigmas": [14.0, 3.0, 0.5, 0.0]}, "EulerDiscreteScheduler"),
    "sd1 tcd": ("sd1", {"eta": 0.3, "num_inference_steps": 4}, "TCDScheduler"),
    "sd1 tcd without eta": ("sd1", {"num_inference_steps": 4}, "TCDScheduler"),
    "sd2 v prediction": ("sd2", {"negative_prompt": NEGATIVE}, None),
    "sd2 rescale": ("sd2", {"guidance_rescale": 0.7, "num_images_per_prompt": 2}, None),
    "sdxl as it comes": ("sdxl", {}, None),
    "sdxl negative, two images": ("sdxl", {"negative_prompt": NEGATIVE, "num_images_per_prompt": 2}, None),
    "sdxl empty negative": ("sdxl", {"negative_prompt": ""}, None),
    "sdxl wide euler a": ("sdxl", {"width": 96, "height": 64}, "EulerAncestralDiscreteScheduler"),
    "ssd1b": ("ssd1b", {"negative_prompt": NEGATIVE}, None),
    "bk_small": ("bk_small", {}, None),
    "bk_tiny": ("bk_tiny", {}, None),
    "lcm": ("lcm", {"num_inference_steps": 4, "guidance_scale": 8.5}, None),
    "inpainting without an image": ("inpainting", {"width": 64, "height": 64}, None),
}


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    with torch.no_grad():
        yield


@functools.cache
def folder(family: str, seed: int = 3) -> Path:
    return write_folder(Path(tempfile.mkdtemp()) / family, family, seed=seed)


@functools.cache
def ours(family: str, backend: str = "numba") -> tinydiff.Pipeline:
    return tinydiff.Pipeline.from_pretrained(folder(family), backend=backend)


def theirs(family: str, scheduler: str | None) -> Any:
    classes = {"lcm": "LatentConsistencyModelPipeline", "inpainting": "StableDiffusionInpaintPipeline"}
    default = "StableDiffusionXLPipeline" if family in ("sdxl", "ssd1b") else "StableDiffusionPipeline"
    options = {} if family in ("sdxl", "ssd1b") else {"safety_checker": None}
    pipe = getattr(diffusers, classes.get(family, default)).from_pretrained(folder(family), **options)
    pipe.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    return pipe


@pytest.mark.filterwarnings("ignore::tinydiff.text.PromptWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", CASES)
def test_latents_and_pixels_equal_those_of_diffusers(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, arguments, scheduler = CASES[case]
    call = {"prompt": PROMPT, "num_inference_steps": 5, "seed": 41, **arguments}
    if "timesteps" in call or "sigmas" in call:
        del call["num_inference_steps"]
    found = []
    for backend in ("reference", "numba"):
        kept: list[Any] = []
        pipe = ours(family, backend)
        pixels = pipe(
            **call, scheduler=scheduler, output_type="np",
            callback_on_step_end=lambda pipe, step, t, values, kept=kept: kept.append(values["latents"]),
        ).images  # fmt: skip
        found.append((kept[-1], pixels))

    seed = call.pop("seed")
    generators = [torch.Generator().manual_seed(seed + i) for i in range(call.get("num_images_per_prompt", 1))]
    call.setdefault("width", 64)
    call.setdefault("height", 64)
    if family == "inpainting":  # what we feed an inpainting model without an image: all masked, mid grey
        grey = Image.new("RGB", (call["width"], call["height"]), (128, 128, 128))
        call |= {"image": grey, "mask_image": Image.new("L", grey.size, 255), "strength": 1.0}
        monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    reference = theirs(family, scheduler)
    if "sigmas" in call:
        # diffusers' pipelines drop the final noise level that its schedulers want; give the scheduler all of them
        sigmas, wanted = call.pop("sigmas"), reference.scheduler.set_timesteps
        call["num_inference_steps"] = len(sigmas) - 1
        reference.scheduler.set_timesteps = lambda n, device=None: wanted(sigmas=sigmas)
    expected = []
    keep = reference.vae.decode
    monkeypatch.setattr(reference.vae, "decode", lambda z, *a, **k: (expected.append(z), keep(z, *a, **k))[1])
    picture = reference(**call, generator=generators, output_type="np").images
    wanted_latents = expected[0].numpy() * reference.vae.config.scaling_factor
    errors = [np.linalg.norm(latents - wanted_latents) / np.linalg.norm(wanted_latents) for latents, _ in found]
    error = float(max(errors))
    off = float(max(np.abs(pixels - picture).max() for _, pixels in found) * 255)
    ROWS.append((error, off, case))
    assert error < 1e-3
    assert off < 2


@pytest.mark.parametrize("skip", [0, 1, 2])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_clip_skip_takes_the_layers_that_transformers_gives(family: str, skip: int) -> None:
    pipe, reference = ours(family), theirs(family, None)
    encoders = [(pipe.tokenizer, reference.text_encoder)]
    if family == "sdxl":
        encoders.append((pipe.tokenizer_2, reference.text_encoder_2))
    if skip + (family == "sdxl") >= 3:  # the miniature's three layers
        with pytest.raises(tinydiff.errors.InvalidArgumentError, match="clip_skip"):
            pipe.encode_prompt(PROMPT, clip_skip=skip)
        return
    wanted = []
    for tokenizer, encoder in encoders:
        states = encoder(torch.from_numpy(tokenizer(PROMPT)), output_hidden_states=True).hidden_states
        hidden = states[-(skip + (2 if family == "sdxl" else 1))]
        if family == "sd1":
            body = getattr(encoder, "text_model", encoder)
            hidden = body.final_layer_norm(hidden)
        wanted.append(hidden)
    expected = torch.cat(wanted, -1)[0].numpy()
    got = pipe.encode_prompt(PROMPT, clip_skip=skip).positive[0].hidden
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 1e-4


def test_matrix_was_run(capsys: pytest.CaptureFixture[str]) -> None:
    worst, off = max(ROWS), max(row[1] for row in ROWS)
    with capsys.disabled():
        print(f"\n{len(ROWS)} whole pictures; worst latents {worst[0]:.1e} ({worst[2]}), worst pixel {off:.3f}/255")
    assert len(ROWS) == len(CASES)
