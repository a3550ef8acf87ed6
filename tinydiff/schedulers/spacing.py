"""Which timesteps and noise levels n steps visit.

sigma is the noise level in the convention of Karras et al. 2022 ("Elucidating the Design Space of Diffusion-Based
Generative Models", arXiv 2206.00364): sigma = sqrt((1 - abar) / abar), the noise in units of the signal.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinydiff.portable_math import log
from tinydiff.schedulers.beta_quantile import beta_quantile
from tinydiff.schedulers.betas import F32, F64

I64: TypeAlias = NDArray[np.int64]

BETA_SHAPE = 0.6  # both parameters of the distribution in "Beta Sampling is All You Need" (arXiv 2407.12173)
KARRAS_RHO = 7.0


def sigmas_of(alpha_bar: F32) -> F32:
    """sqrt((1 - abar) / abar) in float32; infinite where abar is 0."""
    with np.errstate(divide="ignore"):
        levels: F32 = np.sqrt((np.float32(1) - alpha_bar) / alpha_bar)
    return levels


def log_float32(sigmas: F32) -> F32:
    """log rounded to float32, the same bits on every CPU."""
    return log(sigmas.astype(np.float64)).astype(np.float32)


def spaced_timesteps(spacing: str, n: int, train: int, offset: int) -> F64:
    """n timesteps from high to low as Table 2 of arXiv 2305.08891 names the spacings; linspace is not rounded."""
    if spacing == "linspace":
        return np.linspace(0, train - 1, n)[::-1].copy()
    if spacing == "leading":
        return (np.arange(n) * (train // n) + offset)[::-1].astype(np.float64)
    return np.round(np.arange(train, 0, -train / n)) - 1.0  # trailing


def spaced_timesteps_open(spacing: str, n: int, train: int, offset: int, last: int | None = None) -> I64:
    """The same for solvers that take n + 1 points and leave the lowest out. `last`: timesteps below it only."""
    end = train if last is None else last
    if spacing == "linspace":
        return np.linspace(0, end - 1, n + 1).round()[::-1][:-1].astype(np.int64)
    if spacing == "leading":
        return (np.arange(n + 1, dtype=np.int64) * (end // (n + 1)))[::-1][:-1] + offset
    return np.arange(end, 0, -train / n).round().astype(np.int64) - 1  # trailing


def sigmas_at(timesteps: F64 | F32 | I64, all_sigmas: F32) -> F64:
    """Noise levels at (fractional) timesteps, linear between the training timesteps and constant beyond them."""
    return np.interp(timesteps, np.arange(len(all_sigmas)), all_sigmas)


def timesteps_at(sigmas: F64 | F32, log_sigmas: F32) -> F64:
    """The inverse of `sigmas_at` but linear in log sigma. `log_sigmas` rises with the timestep."""
    log_sigma = log(np.maximum(np.atleast_1d(sigmas), 1e-10).astype(np.float64))
    levels = log_sigmas.astype(np.float64)
    # Index of the last level not above sigma; levels need not rise strictly.
    count = (log_sigma[None, :] - levels[:, None] >= 0).cumsum(axis=0)
    low = count.argmax(axis=0).clip(max=len(levels) - 2)
    below, above = levels[low], levels[low + 1]
    weight: F64 = np.clip((below - log_sigma) / (below - above), 0.0, 1.0)
    return np.asarray((1 - weight) * low + weight * (low + 1), np.float64)


def karras_sigmas(smallest: float, largest: float, n: int, rho: float = KARRAS_RHO) -> F64:
    """Equal steps in sigma^(1/rho) (arXiv 2206.00364, equation 5)."""
    low, high = smallest ** (1 / rho), largest ** (1 / rho)
    roots: F64 = high + np.linspace(0, 1, n) * (low - high)
    return np.asarray(roots**rho, np.float64)


def exponential_sigmas(smallest: float, largest: float, n: int) -> F64:
    """Equal steps in log sigma."""
    return np.exp(np.linspace(math.log(largest), math.log(smallest), n))


def beta_sigmas(smallest: float, largest: float, n: int) -> F64:
    """Quantiles of a beta distribution: many steps at both ends, few in the middle (arXiv 2407.12173)."""
    quantiles = [beta_quantile(p, BETA_SHAPE, BETA_SHAPE) for p in 1 - np.linspace(0, 1, n)]
    return smallest + np.array(quantiles) * (largest - smallest)
