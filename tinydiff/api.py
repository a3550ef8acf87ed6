"""The public interface: `tinydiff.Pipeline`. What happens between prompt and picture is in `pipeline.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff import arguments
from tinydiff.clip import CLIPTextEncoder
from tinydiff.conditioning import Conditioning
from tinydiff.denoise import Loop
from tinydiff.errors import InvalidArgumentError
from tinydiff.loading import Model, build
from tinydiff.memory.keeper import Keeper
from tinydiff.memory.limits import budget_of
from tinydiff.memory.plan import MemoryPlan
from tinydiff.packed_cache import packed_source
from tinydiff.pipeline import Output, Watcher, generate
from tinydiff.schedulers import Scheduler, make
from tinydiff.tokenizer import Tokenizer
from tinydiff_weights.open import open_model

F32 = NDArray[np.float32]
Callback = Callable[["Pipeline", int, float, dict[str, Any]], Mapping[str, Any] | None]


class Pipeline:
    """A model, ready for prompts. Make one with `from_pretrained`."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.unet, self.vae = model.unet, model.vae
        self.tokenizer, self.text_encoder = model.text.pairs[0]
        self.tokenizer_2: Tokenizer | None = model.text.pairs[1][0] if len(model.text.pairs) > 1 else None
        self.text_encoder_2: CLIPTextEncoder | None = model.text.pairs[1][1] if len(model.text.pairs) > 1 else None
        self.scheduler: Scheduler = make(model.scheduler_config, eta=0.0)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        weights: str = "auto",
        memory: str | int | None = None,
        backend: str = "auto",
        threads: int | None = None,
        vae: str | Path | None = None,
        prediction_type: str | None = None,
    ) -> Pipeline:
        """Open a diffusers folder, a single or packed .safetensors file, a cached hub id, or (None) the embedded model.

        Nothing is read but headers and configs; `weights="int8"` or `"int4"` of a large model that is not packed first
        makes a packed copy in the cache folder (minutes, once; see `packed_cache`). `threads` bounds the fast kernels;
        NumPy's own thread pool is set by its environment (OPENBLAS_NUM_THREADS). `vae`: an autoencoder in place of
        the model's; "taesd": the small one that the model brings. `memory` ("450MB", "1.5GB", bytes,
        "auto"): what the process may hold, pages of files included; a call that needs more raises MemoryBudgetError
        before it starts. Raises ModelFileError, UnsupportedModelError, InvalidArgumentError.
        """
        budget = budget_of(memory)
        if threads is not None:
            arguments.whole("threads", threads, 1, 1024)
        source = packed_source(open_model(path, vae=vae), weights, backend)
        model = build(
            source, weights=weights, backend=backend, prediction_type=prediction_type, threads=threads,
            limited=budget is not None,
        )  # fmt: skip
        model.keeper = None if budget is None else Keeper(budget)
        return cls(model)

    def encode_prompt(
        self, prompt: str, negative_prompt: str | None = None, clip_skip: int | None = None
    ) -> Conditioning:
        """What the UNet gets for a prompt; may be given to a call in the prompt's place."""
        if clip_skip is not None:
            arguments.whole("clip_skip", clip_skip, 0, 100)
        return self.model.text.condition(prompt, negative_prompt, clip_skip)

    def plan_memory(
        self,
        *,
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        clip_skip: int | None = None,
    ) -> MemoryPlan | None:
        """The plan that such a call will keep to; None without `memory`. Raises MemoryBudgetError where none fits."""
        if self.model.keeper is None:
            return None
        s = arguments.settle(
            self.model, width=width, height=height, steps=num_inference_steps, guidance_scale=guidance_scale,
            guidance_rescale=0.0, seed=0, images=num_images_per_prompt, output_type="pil", latents=None,
            clip_skip=clip_skip,
        )  # fmt: skip
        return self.model.keeper.prepare(self.model, s)

    def cancel(self) -> None:
        """Stop the running call after its current operation; it raises Cancelled. Safe from any thread.

        Without effect when no call is running.
        """
        self.model.cancel.cancel()

    def __call__(
        self,
        prompt: str | Conditioning,
        *,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        seed: int | None = None,
        scheduler: str | Mapping[str, Any] | Scheduler | None = None,
        eta: float | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        clip_skip: int | None = None,
        num_images_per_prompt: int = 1,
        latents: F32 | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        watcher: Watcher | None = None,
    ) -> Output:
        """A picture. Arguments mean what they mean in diffusers; None takes the model's default.

        `latents`: unit noise `[N, C, height/factor, width/factor]`. Image i has the seed `seed + i`. The callback
        gets (pipeline, step, timestep, {"latents", "denoised"}) and may return {"latents": ...} to replace them.
        `guidance_interval`: guidance from one share of the steps to another, 0 to 1; outside it the prompt alone,
        for half the work (Kynkaanniemi et al. 2024, arXiv:2404.07724).
        `watcher`: is told of every stage and step, and may go on with an interrupted picture (tinydiff.journal).
        Raises InvalidArgumentError, NonFiniteError (a layer gave NaN), Cancelled, ModelFileError (a file of the model
        was changed since it was opened).
        """
        self.model.cancel.clear()
        s = arguments.settle(
            self.model, width=width, height=height, steps=num_inference_steps, guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale, seed=seed, images=num_images_per_prompt, output_type=output_type,
            latents=latents, clip_skip=clip_skip, guidance_interval=guidance_interval,
        )  # fmt: skip
        chosen = self.scheduler if scheduler is None else scheduler
        steps = arguments.settle_scheduler(self.model, chosen, s.steps, eta, timesteps, sigmas)
        if isinstance(prompt, Conditioning) and (negative_prompt is not None or clip_skip is not None):
            raise InvalidArgumentError(
                "negative_prompt and clip_skip belong to encode_prompt when a Conditioning is given"
            )
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            raise InvalidArgumentError("callback_on_step_end must be a function")
        report = None if callback_on_step_end is None else self._reporter(callback_on_step_end)
        try:
            return generate(self.model, prompt, negative_prompt, s, steps, report, watcher)
        finally:
            self.model.cancel.clear()

    def _reporter(self, callback: Callback) -> Callable[[Loop], None]:
        def report(loop: Loop) -> None:
            number = loop.index - 1
            t = float(loop.scheduler.timesteps[number])
            answer = callback(self, number, t, {"latents": loop.latents, "denoised": loop.denoised})
            if answer is not None and not isinstance(answer, Mapping):
                what = type(answer).__name__
                raise InvalidArgumentError(f"callback_on_step_end must return a dict or None, not {what}")
            if answer and "latents" in answer:
                name = "latents of callback_on_step_end"
                loop.latents = arguments.checked_latents(name, answer["latents"], loop.latents.shape)

        return report
