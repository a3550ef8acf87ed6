"""Base of the schedulers on Karras latents, x = x0 + sigma noise: Euler, Heun, LMS, DPM2, DPM++ SDE.

The network wants variance-preserving latents: x / sqrt(sigma^2 + 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinydiff.errors import InvalidArgumentError
from tinydiff.schedulers import spacing
from tinydiff.schedulers.arrays import combine, per_image
from tinydiff.schedulers.base import Scheduler, Steps
from tinydiff.schedulers.betas import F32, F64, alphas_cumprod
from tinydiff.schedulers.prediction import clean_karras


def converted_sigmas(config: Mapping[str, Any], smallest: float, largest: float, n: int) -> F64 | None:
    """Karras, exponential or beta sigmas between two noise levels if the config asks for them, else None."""
    if config.get("sigma_min") is not None:
        smallest = float(config["sigma_min"])
    if config.get("sigma_max") is not None:
        largest = float(config["sigma_max"])
    if config["use_karras_sigmas"]:
        return spacing.karras_sigmas(smallest, largest, n)
    if config["use_exponential_sigmas"]:
        return spacing.exponential_sigmas(smallest, largest, n)
    if config["use_beta_sigmas"]:
        return spacing.beta_sigmas(smallest, largest, n)
    return None


class LevelIndexed(Scheduler):
    """Schedulers whose state is a place in `sigmas`: adding noise looks the level up there, not in training's."""

    def _level_indices(self, t: ArrayLike) -> list[int]:
        """Before the loop the level where it begins, within it the current one; without either, by value of t."""
        values = np.atleast_1d(np.asarray(t, np.float64))
        if self.begin_index is None:
            return [self._place(float(value)) for value in values]
        index = self.begin_index if self.step_index is None else self.step_index
        return [min(index, len(self.sigmas) - 1)] * len(values)

    def _place(self, t: float) -> int:
        running, self.step_index = self.step_index, None
        try:
            return self.index_of(t)
        finally:
            self.step_index = running


class KarrasScheduler(LevelIndexed):
    def __init__(self, config: Mapping[str, Any], eta: float | None = None):
        self.train_sigmas = spacing.sigmas_of(alphas_cumprod(config, almost_zero=True))
        self.log_train_sigmas = spacing.log_float32(self.train_sigmas)
        super().__init__(config, eta)

    def sigma(self, index: int) -> np.float64:
        return np.float64(self.sigmas[index])

    def _model_sigma(self, index: int) -> np.float64:
        """The noise level of the latents that the call at this index sees."""
        return self.sigma(index)

    @property
    def init_noise_sigma(self) -> float:
        """The highest noise level; leading spacing, which starts below it, takes the norm with the signal's 1."""
        highest = float(self.sigmas.max()) if len(self.sigmas) else float(self.train_sigmas.max())
        if self.config["timestep_spacing"] == "leading":
            return float(np.float32(np.sqrt(highest * highest + 1)))
        return highest

    def scale_model_input(self, x: F32, t: float) -> F32:
        sigma = self._model_sigma(self.index_of(t))
        return combine((1 / np.sqrt(sigma * sigma + 1), np.asarray(x, np.float32)))

    def add_noise(self, x: F32, noise: F32, t: ArrayLike) -> F32:
        """x + sigma noise."""
        return x + per_image(self.sigmas[self._level_indices(t)], x) * noise

    def _levels(
        self,
        n: int,
        timesteps: NDArray[np.float64] | None,
        *,
        dtype: type[np.floating[Any]] = np.float32,
        curve: F64 | None = None,
    ) -> tuple[NDArray[Any], F64]:
        """Timesteps and noise levels, one per step, without the end. `curve`: levels instead of training's."""
        config = self.config
        if timesteps is None:
            train, offset = config["num_train_timesteps"], config["steps_offset"]
            timesteps = spacing.spaced_timesteps(config["timestep_spacing"], n, train, offset)
        steps = timesteps.astype(dtype)
        sigmas = spacing.sigmas_at(steps, self.train_sigmas) if curve is None else curve
        converted = converted_sigmas(config, float(sigmas[-1]), float(sigmas[0]), n)
        if converted is None:
            return steps, sigmas
        return spacing.timesteps_at(converted, self.log_train_sigmas), converted

    def _clean(self, sigma: np.float64, x: F32, output: F32) -> F32:
        return clean_karras(self.config["prediction_type"], sigma, x, output)


def with_end(sigmas: F64 | F32, end: float) -> F32:
    return np.concatenate([sigmas, [end]]).astype(np.float32)


def doubled(values: NDArray[Any]) -> NDArray[Any]:
    """a, b, b, c, c, ...: two entries for all but the first."""
    return np.concatenate([values[:1], np.repeat(values[1:], 2)])


def interleaved(ends: NDArray[Any], middles: NDArray[Any]) -> Steps:
    """a, m, b, n, c: `middles` has one entry less."""
    both: Steps = np.empty(2 * len(ends) - 1, ends.dtype)
    both[::2], both[1::2] = ends, middles
    return both


def derivative(x: F32, x0: F32, sigma: float) -> F32:
    """dx/dsigma = (x - x0) / sigma (arXiv 2206.00364, algorithm 1).

    A division, as elsewhere: with zero terminal SNR sigma is 4096 and more, and the step cancels almost all of x.
    """
    if not sigma > 0:
        raise InvalidArgumentError("the noise level is zero")
    slope: F32 = (x - x0) / np.float32(sigma)
    return slope


def ancestral_split(sigma: float, following: float) -> tuple[np.float64, np.float64]:
    """(down, up): go down to `down` without noise and add noise of `up`; the variance is that of `following`.

    up^2 = following^2 (sigma^2 - following^2) / sigma^2, down^2 = following^2 - up^2. In float32, because a long step
    cancels down^2 almost wholly and other tools have the rest in float32 (addition to square root are exact anywhere).
    """
    wide, narrow = np.square(np.float32(sigma)), np.square(np.float32(following))
    up = np.sqrt(narrow * (wide - narrow) / wide)
    return np.float64(np.sqrt(narrow - np.square(up))), np.float64(up)
