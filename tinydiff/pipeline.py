"""The whole story: a prompt becomes a picture.

prompt ── tokenizer ── CLIP text encoder ──┐
                                           ├─ loop: scheduler <-> UNet ── VAE decoder ── image
seed ───── noise ──────────────────────────┘
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinydiff.arguments import Settings
from tinydiff.conditioning import Conditioning, GuidedUNet
from tinydiff.denoise import Loop
from tinydiff.image import from_decoded, to_pil
from tinydiff.loading import Model
from tinydiff.memory.process import Peaks
from tinydiff.memory.report import measured
from tinydiff.rng import batch_generators, image_seed
from tinydiff.schedulers import Scheduler

if TYPE_CHECKING:
    from PIL import Image

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Output:
    """`images`: PIL images; for "np" one array (N, H, W, 3) in 0..1; for "latent" the latents."""

    images: list[Image.Image] | F32
    seed: int
    timings: dict[str, Any]  # seconds: "text", "steps" (one per step), "decode", "total"
    memory: dict[str, Any] = field(default_factory=dict)  # bytes, by stage: see `memory.report.measured`


class Watcher:
    """Is told how a picture proceeds, and may take its loop up where an earlier run left it. This one does neither."""

    def stage(self, name: str) -> None:
        """A stage begins: one of STAGES."""

    def finished(self, shape: tuple[int, ...], steps: int) -> tuple[F32, list[float]] | None:
        """Latents of this shape that have all their steps behind them, and the seconds of those; None: make them."""
        return None

    def begin(self, loop: Loop) -> None:
        """The loop is ready for its first step; what is put into its state now is where it begins."""

    def step(self, loop: Loop) -> None:
        """A step has ended."""


class Stages(Watcher):
    """Passes on what a watcher is told, and tells it to those who keep and measure memory."""

    def __init__(self, watcher: Watcher, model: Model, peaks: Peaks) -> None:
        self._model, self._peaks = model, peaks
        self.finished, self.begin, self.step = watcher.finished, watcher.begin, watcher.step  # type: ignore[method-assign]
        self._tell = watcher.stage

    def stage(self, name: str) -> None:
        if self._model.keeper is not None:
            self._model.keeper.stage(self._model, name)
        self._peaks.stage(name)
        if name:
            self._tell(name)


STAGES = TEXT, DENOISING, DECODING = "text encoder", "denoising", "VAE decode"


def generate(
    model: Model,
    prompt: str | Conditioning,
    negative: str | None,
    s: Settings,
    scheduler: Scheduler,
    report: Callable[[Loop], None] | None = None,
    watcher: Watcher | None = None,
) -> Output:
    """Text, loop, decoder. `report` is called after every step; `scheduler` has its timesteps set.

    Raises ModelFileError if a file of the model was changed since it was opened.
    """
    model.check_files()
    watcher = Watcher() if watcher is None else watcher
    if model.keeper is not None:
        model.keeper.prepare(model, s)
    with Peaks() as peaks:
        out = _generate(model, prompt, negative, s, scheduler, report, Stages(watcher, model, peaks))
    return replace(out, memory=measured(peaks, None if model.keeper is None else model.keeper.plan))


def _generate(
    model: Model,
    prompt: str | Conditioning,
    negative: str | None,
    s: Settings,
    scheduler: Scheduler,
    report: Callable[[Loop], None] | None,
    watcher: Stages,
) -> Output:
    marks = [time.perf_counter()]
    done = watcher.finished(latent_shape(model, s), len(scheduler.timesteps))
    if done is None:
        watcher.stage(TEXT)
        conditioning = prompt
        if not isinstance(conditioning, Conditioning):
            conditioning = model.text.condition(conditioning, negative, s.clip_skip)
        marks.append(time.perf_counter())
        watcher.stage(DENOISING)
        done = denoise(start_loop(model, conditioning, s, scheduler), report, watcher)
    latents, seconds = done
    marks.append(time.perf_counter())
    watcher.stage(DECODING)
    images = latents if s.output_type == "latent" else decode(model, latents)
    watcher.stage("")
    marks.append(time.perf_counter())
    text = marks[1] - marks[0]
    timings = {"text": text, "steps": seconds, "decode": marks[-1] - marks[-2], "total": marks[-1] - marks[0]}
    return Output(to_pil(images) if s.output_type == "pil" else images, s.seed, timings)


def denoise(loop: Loop, report: Callable[[Loop], None] | None, watcher: Watcher) -> tuple[F32, list[float]]:
    """The loop from its beginning, or from where the watcher takes it up: latents, and seconds of each step."""
    watcher.begin(loop)

    def after_step(loop: Loop) -> None:
        if report is not None:
            report(loop)  # may exchange the latents, which the watcher then sees
        watcher.step(loop)

    loop.after_step = after_step
    return loop.run(), loop.seconds


def latent_shape(model: Model, s: Settings) -> tuple[int, int, int, int]:
    """[B, C, h, w] of the latents of a call."""
    vae = model.vae.config
    return s.images, vae.latent_channels, s.height // vae.factor, s.width // vae.factor


def start_loop(model: Model, conditioning: Conditioning, s: Settings, scheduler: Scheduler) -> Loop:
    """The denoising loop of a picture, at its first step. img2img and resume move it before they run it."""
    if model.few_steps is not None:
        model.few_steps.switch(s.few_steps)
    vae, unet = model.vae.config, model.unet.config
    shape = (1, *latent_shape(model, s)[1:])
    generators = batch_generators(s.seed, s.images)
    scheduler.set_noise_seeds([image_seed(s.seed, i) for i in range(s.images)])
    noise = s.latents if s.latents is not None else np.concatenate([g.normal(shape) for g in generators])
    sizes = np.array([s.height, s.width, 0, 0, s.height, s.width], np.float32)  # original, crop, target (SDXL)
    guided = GuidedUNet(
        model.unet, conditioning, s.guidance_scale, s.guidance_rescale,
        time_ids=None if unet.text_time is None else sizes,
        extra_channels=blank_inpainting(model, s) if unet.in_channels > vae.latent_channels else None,
        interval=s.guidance_interval,
    )  # fmt: skip
    return Loop(guided, scheduler, generators, noise * np.float32(scheduler.init_noise_sigma))


def decode(model: Model, latents: F32) -> F32:
    """Latents of the loop -> pixels `[N, H, W, 3]` in 0..1."""
    vae = model.vae
    decoded = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor)
    if model.keeper is not None:
        model.keeper.stage(model, "")  # pixels are made of it in the memory of its activations
    return from_decoded(decoded)


def blank_inpainting(model: Model, s: Settings) -> F32:
    """What an inpainting model sees without an image: a mask of ones, then the latents of mid grey."""
    vae = model.vae
    grey = vae.encode(np.zeros((1, vae.config.in_channels, s.height, s.width), np.float32))
    scaled = (grey - np.float32(vae.config.shift_factor)) * np.float32(vae.config.scaling_factor)
    return np.concatenate([np.ones_like(scaled[:, :1]), scaled], 1)
