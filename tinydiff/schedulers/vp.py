"""Base of the fast solvers on variance-preserving latents: DPM-Solver, DEIS, UniPC.

With lambda = log(alpha / sigma) the diffusion ODE becomes an exponential integrator (Lu et al. 2022, "DPM-Solver",
https://arxiv.org/abs/2206.00927). `sigmas` holds sigma / alpha = exp(-lambda), the noise level of Karras et al.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinydiff.errors import InvalidArgumentError
from tinydiff.schedulers import spacing
from tinydiff.schedulers.arrays import first_channels, limited, per_image
from tinydiff.schedulers.base import Steps
from tinydiff.schedulers.betas import F32, F64, alphas_cumprod
from tinydiff.schedulers.exponential import Level
from tinydiff.schedulers.karras import LevelIndexed, converted_sigmas
from tinydiff.schedulers.prediction import alpha_sigma, clean, noise


class VariancePreserving(LevelIndexed):
    def __init__(self, config: Mapping[str, Any], eta: float | None = None):
        alpha_bar = alphas_cumprod(config, almost_zero=True)
        self.train_sigmas = spacing.sigmas_of(alpha_bar)
        self.log_train_sigmas = spacing.log_float32(self.train_sigmas)
        super().__init__(config, eta)

    def level(self, index: int) -> Level:
        ratio = np.float64(self.sigmas[index])
        alpha, sigma = alpha_sigma(ratio)
        return Level(np.float64(alpha), np.float64(sigma), -np.log(ratio))

    def add_noise(self, x: F32, noise: F32, t: ArrayLike) -> F32:
        """alpha x + sigma noise."""
        wide = self.sigmas[self._level_indices(t)].astype(np.float64)
        alpha = 1 / np.sqrt(wide * wide + 1)
        return per_image(alpha, x) * x + per_image(wide * alpha, x) * noise

    # ---- schedule ------------------------------------------------------------------------------------------------
    def _grid(self, n: int) -> NDArray[np.int64]:
        config = self.config
        train, offset = config["num_train_timesteps"], config["steps_offset"]
        return spacing.spaced_timesteps_open(config["timestep_spacing"], n, train, offset, self._clipped_end())

    def _clipped_end(self) -> int:
        """Training timesteps left when lambda below `lambda_min_clipped` is cut off (for cosine schedules)."""
        lam = -self.log_train_sigmas[::-1]
        cut = int(np.searchsorted(lam, self.config.get("lambda_min_clipped", -np.inf)))
        return len(lam) - cut

    def _converted(self, n: int) -> F64 | None:
        return converted_sigmas(self.config, float(self.train_sigmas[0]), float(self.train_sigmas[-1]), n)

    def _end(self, converted: F64 | None) -> float:
        """The noise level after the last step."""
        return float(self.train_sigmas[0]) if self.config["final_sigmas_type"] == "sigma_min" else 0.0

    def _schedule(self, n: int, timesteps: NDArray[np.float64] | None) -> tuple[Steps, F32]:
        steps: Steps = self._grid(n) if timesteps is None else timesteps.astype(np.int64)
        converted = self._converted(n)
        if converted is None:
            sigmas = spacing.sigmas_at(steps, self.train_sigmas)
        else:
            sigmas = converted
            steps = spacing.timesteps_at(sigmas, self.log_train_sigmas)
            steps = (steps.round() if self._rounds() else steps).astype(np.int64)
        return steps, np.concatenate([sigmas, [self._end(converted)]]).astype(np.float32)

    def _rounds(self) -> bool:
        """Whether converted timesteps are rounded: Karras's are, the others lose their fraction."""
        return bool(self.config["use_karras_sigmas"])

    # ---- what the network said -----------------------------------------------------------------------------------
    def _clean(self, index: int, x: F32, output: F32) -> F32:
        """x0, thresholded if the config says so."""
        level = self.level(index)
        kind = self.config["prediction_type"]
        mean = first_channels(output, x) if kind == "epsilon" else output
        if mean.shape != x.shape:
            raise InvalidArgumentError("a model that predicts a variance must predict epsilon")
        return limited(self.config, clean(kind, level.alpha, level.sigma, x, mean))

    def _noise(self, index: int, x: F32, output: F32, thresholded: F32 | None = None) -> F32:
        """epsilon; that of the thresholded x0, if given, where thresholding is on."""
        level = self.level(index)
        if self.config["thresholding"] and thresholded is not None:
            return noise("sample", level.alpha, level.sigma, x, thresholded)
        mean = first_channels(output, x)
        return noise(self.config["prediction_type"], level.alpha, level.sigma, x, mean)
