"""DEIS: Zhang & Chen 2022, "Fast Sampling of Diffusion Models with Exponential Integrator", arXiv 2204.13902."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tinydiff.schedulers.arrays import combine
from tinydiff.schedulers.betas import F32, F64
from tinydiff.schedulers.exponential import transition
from tinydiff.schedulers.vp import VariancePreserving

FEW_STEPS = 15


def log_rho_weights(rhos: list[np.float64], target: np.float64) -> list[np.float64]:
    """Weights of the noises at `rhos` (newest first): the integral from rhos[0] to target of each Lagrange
    polynomial in log rho, with respect to rho (equation 15 of the paper). Two or three of them."""
    logs = [np.log(rho) for rho in rhos]

    def antiderivative(t: np.float64, own: np.float64, others: list[np.float64]) -> np.float64:
        s = np.log(t)
        if len(others) == 1:  # integral of (s - c) dt, s = log t
            numerator = t * (s - others[0] - 1)
        else:  # integral of (s - c)(s - d) dt
            c, d = others
            numerator = t * (s * s - (c + d + 2) * s + c * d + c + d + 2)
        return np.float64(numerator / np.prod([own - other for other in others]))

    weights = []
    for j, own in enumerate(logs):
        others = logs[:j] + logs[j + 1 :]
        weights.append(antiderivative(target, own, others) - antiderivative(rhos[0], own, others))
    return weights


class DEIS(VariancePreserving):
    """tAB-DEIS in log rho: x_t / alpha_t = x_s / alpha_s + integral of the polynomial through the last noises d rho."""

    class_name = "DEISMultistepScheduler"
    state_fields: ClassVar = {"noises": "arrays", "taken": "count"}
    noises: list[F32]  # newest first
    taken: int

    def _end(self, converted: F64 | None) -> float:
        """The lowest level of training; with converted sigmas the last of them once more, a step of length zero."""
        return float(self.train_sigmas[0] if converted is None else converted[-1])

    def _order(self, index: int) -> int:
        last = len(self.timesteps) - 1
        few = self.config["lower_order_final"] and len(self.timesteps) < FEW_STEPS
        limit = 1 if index == last and few else 2 if index == last - 1 and few else 3
        return int(min(self.config["solver_order"], self.taken + 1, limit))

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        x0 = self._clean(index, x, output)
        order = self._order(index)
        self.noises = [self._noise(index, x, output, x0), *self.noises][: self.config["solver_order"]]
        self.taken = min(self.taken + 1, self.config["solver_order"])
        now, target = self.level(index), self.level(index + 1)
        if order == 1:
            step = transition("dpmsolver", now, target)
            return step.apply(x, noise, (step.k1, self.noises[0])), x0
        rhos = [np.float64(self.sigmas[index - back]) for back in range(order)]
        weights = log_rho_weights(rhos, np.float64(self.sigmas[index + 1]))
        terms = [(target.alpha * weight, past) for weight, past in zip(weights, self.noises, strict=False)]
        return combine((target.alpha / now.alpha, x), *terms), x0
