"""DPM2, the midpoint method (k-diffusion; arXiv 2206.00364, algorithm 2), and its ancestral variant."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tinydiff.schedulers import spacing
from tinydiff.schedulers.arrays import combine
from tinydiff.schedulers.base import Steps
from tinydiff.schedulers.betas import F32
from tinydiff.schedulers.karras import KarrasScheduler, ancestral_split, derivative, interleaved, with_end


class DPM2(KarrasScheduler):
    """Half a step in log sigma, then the whole step with the derivative found there: 2 n - 1 model calls.

    `sigmas` holds each level twice, as in diffusers: s0, s1, s1, s2, s2, ..., 0, 0, 0.
    """

    class_name = "KDPM2DiscreteScheduler"
    order = 2
    state_fields: ClassVar = {"start": "array"}
    start: F32 | None  # the latents where the current step began; None while the next call is its first

    def _schedule(self, n: int, timesteps: NDArray[np.float64] | None) -> tuple[Steps, F32]:
        steps, sigmas = self._levels(n, None)
        if self.config["use_karras_sigmas"]:
            steps = steps.round()
        levels = with_end(sigmas, 0.0)
        middles = np.array([self._middle(a, b) for a, b in pairwise(levels[:-1].astype(np.float64))], np.float32)
        between = spacing.timesteps_at(middles, self.log_train_sigmas) if len(middles) else middles
        repeated = np.concatenate([levels[:1], np.repeat(levels[1:], 2), levels[-1:]])
        return interleaved(steps, between), repeated

    def _middle(self, sigma: np.float64, following: np.float64) -> np.float64:
        """The level of the call half way: the geometric mean of the two."""
        return np.float64(np.sqrt(sigma * following))

    def _ends(self, index: int) -> tuple[np.float64, np.float64]:
        """Noise levels at the two ends of the step that the call at this index belongs to."""
        first = index if self.start is None else index - 1
        return self.sigma(first), self.sigma(first + 1)

    def _model_sigma(self, index: int) -> np.float64:
        sigma, following = self._ends(index)
        return sigma if self.start is None else self._middle(sigma, following)

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        sigma, following = self._ends(index)
        middle = self._middle(sigma, following)
        seen = sigma if self.start is None else middle
        x0 = self._clean(seen, x, output)
        slope = derivative(x, x0, seen)
        if self.start is None:
            self.start = x
            return combine((1, x), (middle - sigma, slope)), x0
        start, self.start = self.start, None
        return self._whole_step(sigma, following, start, slope, noise), x0

    def _whole_step(self, sigma: np.float64, following: np.float64, x: F32, slope: F32, noise: F32) -> F32:
        return combine((1, x), (following - sigma, slope))


class DPM2Ancestral(DPM2):
    """The same to below the next noise level, then fresh noise up to it."""

    class_name = "KDPM2AncestralDiscreteScheduler"

    @property
    def uses_noise(self) -> bool:
        return True

    def needs_noise(self, t: float) -> bool:
        return self.start is not None

    def _middle(self, sigma: np.float64, following: np.float64) -> np.float64:
        return np.float64(np.sqrt(sigma * ancestral_split(sigma, following)[0]))

    def _whole_step(self, sigma: np.float64, following: np.float64, x: F32, slope: F32, noise: F32) -> F32:
        down, up = ancestral_split(sigma, following)
        return combine((1, x), (down - sigma, slope), (up, noise))
