"""Base of the schedulers that work on the training grid: DDIM, DDPM, PNDM, LCM, TCD. They index abar by timestep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinydiff.errors import InvalidArgumentError
from tinydiff.schedulers.arrays import per_image
from tinydiff.schedulers.base import Scheduler, Steps
from tinydiff.schedulers.betas import F32, alphas_cumprod
from tinydiff.schedulers.spacing import sigmas_of


class AlphaBarScheduler(Scheduler):
    def __init__(self, config: Mapping[str, Any], eta: float | None = None):
        self.alpha_bar = alphas_cumprod(config)
        # After the last step: no noise at all, or what the first timestep of training has.
        self.final_alpha_bar = np.float32(1) if config.get("set_alpha_to_one", True) else self.alpha_bar[0]
        super().__init__(config, eta)

    def abar(self, t: float) -> np.float64:
        """abar at a timestep; before the first one, the final value."""
        if t < 0:
            return np.float64(self.final_alpha_bar)
        if t >= len(self.alpha_bar):
            raise InvalidArgumentError(f"timestep {t:g} lies beyond the {len(self.alpha_bar)} of training")
        return np.float64(self.alpha_bar[int(t)])

    def levels_of(self, timesteps: Steps) -> F32:
        """The noise levels at the timesteps and after the last one; infinite at zero signal."""
        bars = [self.abar(t) for t in timesteps] + [self.abar(-1)]
        return sigmas_of(np.array(bars, np.float32))

    def add_noise(self, x: F32, noise: F32, t: ArrayLike) -> F32:
        """sqrt(abar_t) x + sqrt(1 - abar_t) noise."""
        bars = np.array([self.abar(item) for item in np.atleast_1d(np.asarray(t, np.float64))])
        signal, level = np.sqrt(bars).astype(np.float32), np.sqrt(1 - bars).astype(np.float32)
        return per_image(signal, x) * x + per_image(level, x) * noise
