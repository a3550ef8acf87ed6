"""DDIM: Song et al. 2020, "Denoising Diffusion Implicit Models", https://arxiv.org/abs/2010.02502."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydiff.schedulers import prediction
from tinydiff.schedulers.alpha_bar import AlphaBarScheduler
from tinydiff.schedulers.arrays import combine, limited
from tinydiff.schedulers.base import Steps
from tinydiff.schedulers.betas import F32
from tinydiff.schedulers.spacing import spaced_timesteps


def ddim_step(abar: np.float64, abar_previous: np.float64, eta: float, x0: F32, epsilon: F32, noise: F32) -> F32:
    """Equations 12 and 16: x_prev = sqrt(abar_prev) x0 + sqrt(1 - abar_prev - s^2) epsilon + s noise.

    s^2 = eta^2 (1 - abar_prev) / (1 - abar) (1 - abar / abar_prev): no new noise at eta 0, DDPM's at eta 1.
    """
    variance = (1 - abar_previous) / (1 - abar) * (1 - abar / abar_previous)
    deviation = eta * np.sqrt(variance)
    direction = np.sqrt(1 - abar_previous - deviation * deviation)
    previous = combine((np.sqrt(abar_previous), x0), (direction, epsilon))
    return combine((1, previous), (deviation, noise)) if eta > 0 else previous


class DDIM(AlphaBarScheduler):
    """One step jumps num_train_timesteps // n timesteps down, whatever the spacing of the schedule is."""

    class_name = "DDIMScheduler"
    takes_eta = 0.0
    later_match = False

    @property
    def uses_noise(self) -> bool:
        return self.eta > 0

    def needs_noise(self, t: float) -> bool:
        return self.eta > 0

    def _schedule(self, n: int, timesteps: NDArray[np.float64] | None) -> tuple[Steps, F32]:
        config = self.config
        train, offset = config["num_train_timesteps"], config["steps_offset"]
        steps = np.round(spaced_timesteps(config["timestep_spacing"], n, train, offset)).astype(np.int64)
        return steps, self.levels_of(steps)

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        t = self.timesteps[index]
        abar = self.abar(t)
        abar_previous = self.abar(t - self.config["num_train_timesteps"] // self.num_inference_steps)
        kind = self.config["prediction_type"]
        alpha, sigma = np.sqrt(abar), np.sqrt(1 - abar)
        x0 = limited(self.config, prediction.clean(kind, alpha, sigma, x, output))
        epsilon = prediction.noise(kind, alpha, sigma, x, output)  # of the unclipped estimate
        return ddim_step(abar, abar_previous, self.eta, x0, epsilon, noise), x0
