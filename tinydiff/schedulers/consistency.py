"""Schedulers of distilled few-step models: LCM and TCD."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydiff.errors import InvalidArgumentError
from tinydiff.schedulers import prediction
from tinydiff.schedulers.alpha_bar import AlphaBarScheduler
from tinydiff.schedulers.arrays import combine, limited
from tinydiff.schedulers.base import Steps
from tinydiff.schedulers.betas import F32

SIGMA_DATA = 0.5


class _Consistency(AlphaBarScheduler):
    """The schedule that both share: n of the timesteps that distillation used (50 as a rule)."""

    takes_timesteps = True

    def _schedule(self, n: int, timesteps: NDArray[np.float64] | None) -> tuple[Steps, F32]:
        if timesteps is not None:
            steps = timesteps.astype(np.int64)
            return steps, self.levels_of(steps)
        distilled = self.config["original_inference_steps"]
        if n > distilled:
            raise InvalidArgumentError(
                f"{self.class_name} takes at most original_inference_steps={distilled} steps, not {n}"
            )
        stride = self.config["num_train_timesteps"] // distilled
        descending = (np.arange(1, distilled + 1) * stride - 1)[::-1]
        chosen = np.floor(np.linspace(0, distilled, num=n, endpoint=False)).astype(np.int64)
        steps = descending[chosen].astype(np.int64)
        return steps, self.levels_of(steps)

    def _is_last(self, index: int) -> bool:
        return index == self.num_inference_steps - 1


def boundary_scalings(t: float, scaling: float) -> tuple[float, float]:
    """(c_skip, c_out) that make a consistency function the identity at t = 0 (arXiv 2310.04378, section 3.2)."""
    scaled = t * scaling
    square = scaled * scaled + SIGMA_DATA * SIGMA_DATA
    return SIGMA_DATA * SIGMA_DATA / square, scaled / float(np.sqrt(square))


class LCM(_Consistency):
    """Latent consistency: Luo et al. 2023, https://arxiv.org/abs/2310.04378.

    denoised = c_skip x + c_out x0; the next latents are it with fresh noise of the next level, the last ones it alone.
    """

    class_name = "LCMScheduler"

    @property
    def uses_noise(self) -> bool:
        return True

    def needs_noise(self, t: float) -> bool:
        return not self._is_last(self.index_of(t))

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        t = self.timesteps[index]
        abar = self.abar(t)
        kind = self.config["prediction_type"]
        x0 = limited(self.config, prediction.clean(kind, np.sqrt(abar), np.sqrt(1 - abar), x, output))
        c_skip, c_out = boundary_scalings(float(t), self.config["timestep_scaling"])
        denoised = combine((c_out, x0), (c_skip, x))
        if self._is_last(index):
            return denoised, denoised
        abar_previous = self.abar(self.timesteps[index + 1])
        previous = combine((np.sqrt(abar_previous), denoised), (np.sqrt(1 - abar_previous), noise))
        return previous, denoised


class TCD(_Consistency):
    """Trajectory consistency: Zheng et al. 2024, https://arxiv.org/abs/2402.19159, algorithm 4.

    Go down to s = (1 - eta) t_prev without noise, then up again to t_prev with fresh noise.
    """

    class_name = "TCDScheduler"
    takes_eta = 0.3  # gamma in the paper

    @property
    def uses_noise(self) -> bool:
        return self.eta > 0

    def needs_noise(self, t: float) -> bool:
        return self.eta > 0 and not self._is_last(self.index_of(t))

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        last = index + 1 == len(self.timesteps)
        t_previous = 0 if last else int(self.timesteps[index + 1])
        abar, abar_previous = self.abar(self.timesteps[index]), self.abar(t_previous)
        abar_s = self.abar(np.floor(np.float32(1 - self.eta) * np.float32(t_previous)))
        kind = self.config["prediction_type"]
        alpha, sigma = np.sqrt(abar), np.sqrt(1 - abar)
        x0 = prediction.clean(kind, alpha, sigma, x, output)
        epsilon = prediction.noise(kind, alpha, sigma, x, output)
        lowered = combine((np.sqrt(abar_s), x0), (np.sqrt(1 - abar_s), epsilon))
        if self.eta == 0 or self._is_last(index):
            return lowered, x0
        ratio = abar_previous / abar_s
        return combine((np.sqrt(ratio), lowered), (np.sqrt(1 - ratio), noise)), x0
