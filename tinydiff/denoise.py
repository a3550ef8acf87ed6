"""The loop: from noise to latents, one UNet call and one scheduler step at a time.

    for t in timesteps:  x = scale(latents) ; prediction = guided UNet(x, t) ; latents = step(prediction, t, latents)

All that changes from step to step is plain arrays (`state_dict`), so a loop can be stopped after any step and
taken up again, or begin in the middle (img2img).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff.conditioning import GuidedUNet
from tinydiff.rng import Generator
from tinydiff.schedulers import Scheduler

F32 = NDArray[np.float32]


@dataclass(eq=False)
class Loop:
    """One batch on its way. `latents` `[B, C, h, w]` are those before step `index`."""

    model: GuidedUNet
    scheduler: Scheduler  # with its timesteps set
    generators: Sequence[Generator]  # one per image, for the noise of ancestral steps
    latents: F32
    index: int = 0
    denoised: F32 | None = None  # the model's estimate of the final latents at the last step (previews)
    seconds: list[float] = field(default_factory=list)  # per step
    before_step: Callable[[Loop], None] | None = None
    after_step: Callable[[Loop], None] | None = None

    @property
    def steps(self) -> int:
        return len(self.scheduler.timesteps)

    def begin_at(self, index: int) -> None:
        """Start at step `index` of the schedule; `latents` must hold what that step expects (img2img)."""
        self.scheduler.set_begin_index(index)
        self.index = index

    def run(self) -> F32:
        """All steps that are left; the final latents."""
        while self.index < self.steps:
            self.step()
        return self.latents

    def step(self) -> None:
        if self.before_step is not None:
            self.before_step(self)
        started = time.perf_counter()
        t = self.scheduler.timesteps[self.index]
        x = self.scheduler.scale_model_input(self.latents, t)
        prediction = self.model(x, float(t), self.index / self.steps)
        noise = None
        if self.scheduler.needs_noise(t):
            shape = (1, *self.latents.shape[1:])
            noise = np.concatenate([g.normal(shape) for g in self.generators])
        self.latents, self.denoised = self.scheduler.step(prediction, t, self.latents, noise)
        self.seconds.append(time.perf_counter() - started)
        self.index += 1
        if self.after_step is not None:
            self.after_step(self)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on in another process, as arrays and numbers."""
        return {
            "index": self.index,
            "latents": self.latents.copy(),
            "scheduler": self.scheduler.state_dict(),
            "generators": [g.get_state() for g in self.generators],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.index, self.latents = int(state["index"]), np.array(state["latents"], np.float32)
        self.scheduler.load_state_dict(state["scheduler"])
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved)
