"""Heun's method (Karras et al. 2022, arXiv 2206.00364, algorithm 1 without churn)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tinydiff.schedulers.arrays import combine, limited
from tinydiff.schedulers.base import Steps
from tinydiff.schedulers.betas import F32
from tinydiff.schedulers.karras import KarrasScheduler, derivative, doubled


class Heun(KarrasScheduler):
    """An Euler step, then the same step again with the mean of the derivatives at its two ends.

    n steps make 2 n - 1 model calls: the last one, to zero noise, is Euler's alone.
    """

    class_name = "HeunDiscreteScheduler"
    order = 2
    takes_timesteps = True
    state_fields: ClassVar = {"first_derivative": "array", "start": "array"}
    first_derivative: F32 | None  # at the start of the current step; None while the next call is its first
    start: F32 | None  # the latents there

    def _schedule(self, n: int, timesteps: NDArray[np.float64] | None) -> tuple[Steps, F32]:
        steps, sigmas = self._levels(n, timesteps)
        levels = np.concatenate([doubled(sigmas.astype(np.float32)), np.zeros(1, np.float32)])
        return doubled(steps.astype(np.float32)), levels

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        sigma = self.sigma(index)
        x0 = limited(self.config, self._clean(sigma, x, output))
        slope = derivative(x, x0, sigma)
        if self.first_derivative is None or self.start is None:
            self.first_derivative, self.start = slope, x
            return combine((1, x), (self.sigma(index + 1) - sigma, slope)), x0
        step = sigma - self.sigma(index - 1)
        previous = combine((1, self.start), (step / 2, self.first_derivative), (step / 2, slope))
        self.first_derivative = self.start = None
        return previous, x0
