"""Schedulers of models trained in the EDM formulation (Karras et al. 2022, arXiv 2206.00364), e.g. Playground v2.5.

x = x0 + sigma noise. The network F is wrapped (equation 7 and table 1), with s the data's standard deviation:
    x0 = c_skip x + c_out F(c_in x, c_noise),   c_in = 1 / sqrt(sigma^2 + s^2),   c_noise = log(sigma) / 4,
    c_skip = s^2 / (sigma^2 + s^2),   c_out = sigma s / sqrt(sigma^2 + s^2) (its negative for v-prediction).
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinydiff.schedulers import spacing
from tinydiff.schedulers.arrays import combine, limited, per_image
from tinydiff.schedulers.base import Steps
from tinydiff.schedulers.betas import F32
from tinydiff.schedulers.dpm_multistep import MultistepSolver
from tinydiff.schedulers.exponential import Level
from tinydiff.schedulers.karras import LevelIndexed, derivative


class _EDM(LevelIndexed):
    def sigma(self, index: int) -> np.float64:
        return np.float64(self.sigmas[index])

    @property
    def init_noise_sigma(self) -> float:
        return float(np.sqrt(float(self.config["sigma_max"]) ** 2 + 1))

    def scale_model_input(self, x: F32, t: float) -> F32:
        sigma, data = self.sigma(self.index_of(t)), self.config["sigma_data"]
        return combine((1 / np.sqrt(sigma * sigma + data * data), np.asarray(x, np.float32)))

    def add_noise(self, x: F32, noise: F32, t: ArrayLike) -> F32:
        """x + sigma noise."""
        return x + per_image(self.sigmas[self._level_indices(t)], x) * noise

    def _schedule(self, n: int, timesteps: NDArray[np.float64] | None) -> tuple[Steps, F32]:
        config = self.config
        smallest, largest = float(config["sigma_min"]), float(config["sigma_max"])
        if config["sigma_schedule"] == "karras":
            levels = spacing.karras_sigmas(smallest, largest, n, config["rho"])
        else:  # counted from the low end: one step alone starts at sigma_min
            levels = np.exp(np.linspace(math.log(smallest), math.log(largest), n))[::-1]
        sigmas = levels.astype(np.float32)
        end = np.float32(self._end(float(sigmas[-1])) if config["final_sigmas_type"] == "sigma_min" else 0)
        return np.float32(0.25) * spacing.log_float32(sigmas), np.append(sigmas, end)

    def _end(self, lowest: float) -> float:
        """The noise level after the last step, where it is not zero."""
        return lowest

    def _clean(self, sigma: np.float64, x: F32, output: F32) -> F32:
        data = float(self.config["sigma_data"])
        square = sigma * sigma + data * data
        sign = -1 if self.config["prediction_type"] == "v_prediction" else 1
        return combine((data * data / square, x), (sign * sigma * data / np.sqrt(square), output))


class EDMEuler(_EDM):
    """Euler's method: x_next = x + (sigma_next - sigma) (x - x0) / sigma."""

    class_name = "EDMEulerScheduler"

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        sigma = self.sigma(index)
        x0 = self._clean(sigma, x, output)
        return combine((1, x), (self.sigma(index + 1) - sigma, derivative(x, x0, sigma))), x0


class EDMDPMMultistep(_EDM, MultistepSolver):
    """DPM-Solver++ with alpha = 1, lambda = -log sigma."""

    class_name = "EDMDPMSolverMultistepScheduler"
    third_order_algorithms: ClassVar[tuple[str, ...]] = ("dpmsolver++",)

    def _end(self, lowest: float) -> float:
        return float(self.config["sigma_min"])

    def level(self, index: int) -> Level:
        sigma = self.sigma(index)
        return Level(np.float64(1), sigma, -np.log(sigma))

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        x0 = limited(self.config, self._clean(self.sigma(index), x, output))
        return self._advance(index, x, noise, x0), x0
