"""DDPM: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", https://arxiv.org/abs/2006.11239."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydiff.errors import InvalidArgumentError
from tinydiff.schedulers import prediction
from tinydiff.schedulers.alpha_bar import AlphaBarScheduler
from tinydiff.schedulers.arrays import combine, first_channels, limited
from tinydiff.schedulers.base import Steps
from tinydiff.schedulers.betas import F32
from tinydiff.schedulers.spacing import spaced_timesteps


def fixed_deviation(kind: str, abar: np.float64, abar_previous: np.float64) -> np.float64:
    """Standard deviation of the noise added, for the variances that are not predicted.

    Small: the posterior's (1 - abar_prev) / (1 - abar) beta; large: beta itself (section 3.2 of the paper).
    """
    beta = 1 - abar / abar_previous
    small = np.maximum((1 - abar_previous) / (1 - abar) * beta, 1e-20)
    if kind == "fixed_large_log":  # diffusers takes the root of a logarithm here: not a number, refused by combine
        return np.float64(np.sqrt(np.log(beta)))
    return np.float64(np.sqrt(small if kind.startswith("fixed_small") else beta))


class DDPM(AlphaBarScheduler):
    """Ancestral sampling: the mean of q(x_prev | x_t, x0) of equation 7 plus noise, at all steps but that to t = 0."""

    class_name = "DDPMScheduler"
    takes_timesteps = True
    later_match = False

    @property
    def uses_noise(self) -> bool:
        return True

    def needs_noise(self, t: float) -> bool:
        return t > 0

    def _schedule(self, n: int, timesteps: NDArray[np.float64] | None) -> tuple[Steps, F32]:
        config = self.config
        if timesteps is None:
            train, offset = config["num_train_timesteps"], config["steps_offset"]
            timesteps = np.round(spaced_timesteps(config["timestep_spacing"], n, train, offset))
        steps = timesteps.astype(np.int64)
        return steps, self.levels_of(steps)

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        t = self.timesteps[index]
        last = index + 1 == len(self.timesteps)
        abar = self.abar(t)
        abar_previous = np.float64(1) if last else self.abar(self.timesteps[index + 1])
        kind = self.config["prediction_type"]
        mean_part = first_channels(output, x)
        x0 = limited(self.config, prediction.clean(kind, np.sqrt(abar), np.sqrt(1 - abar), x, mean_part))
        step_alpha = abar / abar_previous
        mean = combine(
            (np.sqrt(abar_previous) * (1 - step_alpha) / (1 - abar), x0),
            (np.sqrt(step_alpha) * (1 - abar_previous) / (1 - abar), x),
        )
        if t <= 0:
            return mean, x0
        variance = self.config["variance_type"]
        if variance.startswith("fixed"):
            return combine((1, mean), (fixed_deviation(variance, abar, abar_previous), noise)), x0
        if output.shape == x.shape:
            raise InvalidArgumentError(f"variance_type={variance!r} needs a model that predicts a variance")
        deviation = learned_deviation(variance, abar, abar_previous, output[:, x.shape[1] :])
        return mean + deviation * noise, x0


def learned_deviation(kind: str, abar: np.float64, abar_previous: np.float64, predicted: F32) -> F32:
    """Of the variance that the network predicts itself, or as a place in [-1, 1] between the logarithms of the
    small and the large one (Nichol & Dhariwal 2021, arXiv 2102.09672, equation 15)."""
    if kind == "learned":
        return np.sqrt(predicted)
    small = 2 * np.log(fixed_deviation("fixed_small", abar, abar_previous))
    large = np.log(1 - abar / abar_previous)
    place = (predicted + np.float32(1)) / np.float32(2)
    log_variance = combine((large, place), (small, 1 - place))
    return np.asarray(np.exp(np.float32(0.5) * log_variance), np.float32)
