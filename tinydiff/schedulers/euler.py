"""Euler's method and its ancestral variant (Karras et al. 2022, arXiv 2206.00364; k-diffusion by K. Crowson)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydiff.errors import InvalidArgumentError
from tinydiff.schedulers import spacing
from tinydiff.schedulers.arrays import combine
from tinydiff.schedulers.base import Steps
from tinydiff.schedulers.betas import F32, linspace
from tinydiff.schedulers.karras import KarrasScheduler, ancestral_split, derivative, with_end


class Euler(KarrasScheduler):
    """x_next = x + (sigma_next - sigma) dx/dsigma, dx/dsigma = (x - x0) / sigma."""

    class_name = "EulerDiscreteScheduler"
    takes_timesteps = True
    takes_sigmas = True

    def _schedule(self, n: int, timesteps: NDArray[np.float64] | None) -> tuple[Steps, F32]:
        if timesteps is not None and self._continuous:
            raise InvalidArgumentError("custom timesteps cannot be used with timestep_type='continuous'")
        curve = None
        if self.config["interpolation_type"] == "log_linear":
            # n + 1 levels down to the lowest of training, whatever the timesteps say; the end follows as always.
            logs = self.log_train_sigmas
            curve = np.exp(linspace(float(logs[-1]), float(logs[0]), n + 1).astype(np.float64))
        steps, sigmas = self._levels(n, timesteps, curve=curve)
        end = float(self.train_sigmas[0]) if self.config["final_sigmas_type"] == "sigma_min" else 0.0
        return self._finish(steps, with_end(sigmas, end))

    def _schedule_of_sigmas(self, sigmas: F32) -> tuple[Steps, F32]:
        return self._finish(spacing.timesteps_at(sigmas[:-1], self.log_train_sigmas), sigmas)

    @property
    def _continuous(self) -> bool:
        """EDM-style models are told log(sigma) / 4 instead of a timestep."""
        config = self.config
        return bool(config["timestep_type"] == "continuous" and config["prediction_type"] == "v_prediction")

    def _finish(self, steps: Steps, sigmas: F32) -> tuple[Steps, F32]:
        if self._continuous:
            return np.float32(0.25) * spacing.log_float32(sigmas[:-1]), sigmas
        return steps.astype(np.float32), sigmas

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        sigma, following = self.sigma(index), self.sigma(index + 1)
        x0 = self._clean(sigma, x, output)
        return combine((1, x), (following - sigma, derivative(x, x0, sigma))), x0


class EulerAncestral(KarrasScheduler):
    """An Euler step to below the next noise level, then fresh noise up to it."""

    class_name = "EulerAncestralDiscreteScheduler"

    @property
    def uses_noise(self) -> bool:
        return True

    def needs_noise(self, t: float) -> bool:
        return True  # also at the last step, where its weight is zero: diffusers draws there too

    def _schedule(self, n: int, timesteps: NDArray[np.float64] | None) -> tuple[Steps, F32]:
        train, offset = self.config["num_train_timesteps"], self.config["steps_offset"]
        steps = spacing.spaced_timesteps(self.config["timestep_spacing"], n, train, offset).astype(np.float32)
        return steps, with_end(spacing.sigmas_at(steps, self.train_sigmas), 0.0)

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        sigma = self.sigma(index)
        down, up = ancestral_split(sigma, self.sigma(index + 1))
        x0 = self._clean(sigma, x, output)
        return combine((1, x), (down - sigma, derivative(x, x0, sigma)), (up, noise)), x0
