"""The exponential integrator that the fast solvers share.

With lambda = log(alpha / sigma) the diffusion ODE is linear in x but for the network, and the linear part is solved
exactly (Lu et al. 2022, "DPM-Solver", https://arxiv.org/abs/2206.00927).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinydiff.schedulers.arrays import combine
from tinydiff.schedulers.betas import F32


@dataclass(frozen=True)
class Level:
    """A noise level: x = alpha x0 + sigma noise, lam = log(alpha / sigma)."""

    alpha: np.float64
    sigma: np.float64
    lam: np.float64


@dataclass(frozen=True)
class Transition:
    """From level s to level t: x_t = keep x - scale (k1 D0 + k2 D1 + k3 D2) + fresh noise.

    D0, D1, D2 are the model (x0 or noise) and its divided differences in lambda; k1, k2, k3 integrate exp(step) times
    1, the first and the second power: k1 = e^g - 1, k2 = k1 / g - 1, k3 = (k1 - g) / g^2 - 1/2 with the growth g.
    """

    keep: np.float64
    scale: np.float64
    growth: np.float64
    fresh: np.float64
    stochastic: bool

    @property
    def k1(self) -> np.float64:
        return np.float64(np.expm1(self.growth))

    @property
    def k2(self) -> np.float64:
        return self.k1 / self.growth - 1

    @property
    def k3(self) -> np.float64:
        # diffusers has the sign of 1/2 wrong for the stochastic solver (k-diffusion's phi_3 agrees with the other
        # one); checkpoints are used with it, so it is kept.
        half = -0.5 if self.stochastic else 0.5
        return (self.k1 - self.growth) / self.growth**2 - half

    def apply(self, x: F32, noise: F32, *weighted: tuple[np.float64 | float, F32]) -> F32:
        """`weighted`: (k, D) pairs."""
        terms = [(-self.scale * k, difference) for k, difference in weighted]
        if self.stochastic:
            terms.append((self.fresh, noise))
        return combine((self.keep, x), *terms)


def transition(algorithm: str, s: Level, t: Level) -> Transition:
    """The exact solution of the linear part, for the four algorithms.

    dpmsolver solves for the noise, dpmsolver++ (https://arxiv.org/abs/2211.01095) for x0; the sde- forms solve the
    reverse SDE, which adds fresh noise at every step. exp(-h) is the ratio of the two sigma / alpha.
    """
    h = t.lam - s.lam
    if algorithm == "dpmsolver++":
        return Transition(t.sigma / s.sigma, t.alpha, -h, np.float64(0), False)
    if algorithm == "dpmsolver":
        return Transition(t.alpha / s.alpha, t.sigma, h, np.float64(0), False)
    if algorithm == "sde-dpmsolver++":
        fresh = t.sigma * np.sqrt(-np.expm1(-2 * h))
        return Transition(t.sigma / s.sigma * np.exp(-h), t.alpha, -2 * h, fresh, True)
    fresh = t.sigma * np.sqrt(np.expm1(2 * h))
    return Transition(t.alpha / s.alpha, 2 * t.sigma, h, fresh, True)
