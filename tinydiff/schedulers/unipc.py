"""UniPC: Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework", https://arxiv.org/abs/2302.04867."""

from __future__ import annotations

from math import factorial
from typing import ClassVar

import numpy as np

from tinydiff.schedulers.arrays import combine
from tinydiff.schedulers.betas import F32, F64
from tinydiff.schedulers.exponential import transition
from tinydiff.schedulers.vp import VariancePreserving


def b_vector(kind: str, growth: np.float64, order: int) -> tuple[np.float64, F64]:
    """B(h) and the right-hand side b_k = k! phi_{k+1} h / B(h) of equation 9; phi_{k+1} = (phi_k - 1/k!) / h."""
    phi = np.expm1(growth) / growth - 1  # h phi_2
    scale = growth if kind == "bh1" else np.expm1(growth)
    right = np.empty(order)
    for k in range(1, order + 1):
        right[k - 1] = phi * factorial(k) / scale
        phi = phi / growth - 1 / factorial(k + 1)
    return scale, right


def solve(matrix: F64, right: F64) -> F64:
    """The weights rho; not a number where two levels coincide, which `combine` refuses."""
    try:
        return np.asarray(np.linalg.solve(matrix, right), np.float64)
    except np.linalg.LinAlgError:
        return np.full(len(right), np.nan)


class UniPC(VariancePreserving):
    """Each call first corrects the step before it with the new output (UniC), then predicts the next one (UniP)."""

    class_name = "UniPCMultistepScheduler"
    state_fields: ClassVar = {"models": "arrays", "taken": "count", "last_order": "count", "start": "array"}
    models: list[F32]  # x0 (predict_x0) or the noise of the last steps, newest first
    taken: int
    last_order: int  # of the last prediction; its correction has the same
    start: F32 | None  # the latents where the last prediction began

    def _end(self, converted: F64 | None) -> float:
        if self.config["final_sigmas_type"] == "zero":
            return 0.0
        return float(self.train_sigmas[0] if converted is None else converted[-1])

    def _solve(self, s: int, order: int, x: F32, models: list[F32], target: F32 | None) -> F32:
        """From the level at index s to the next one; `target`: the model there, if this is the correction.

        x_t = keep x - scale (e^g - 1) m0 - scale B(h) sum_k rho_k D_k / r_k, D_k = m_k - m0, with r_k the places of the
        older models in units of the step and r = 1 for the target.
        """
        now, following = self.level(s), self.level(s + 1)
        algorithm = "dpmsolver++" if self.config["predict_x0"] else "dpmsolver"
        step = transition(algorithm, now, following)
        h = following.lam - now.lam
        places = [(self.level(s - back).lam - now.lam) / h for back in range(1, order)]
        scale, right = b_vector(self.config["solver_type"], step.growth, order)
        powers = np.vander(np.array([*places, 1.0]), order, increasing=True).T
        if target is None:
            rhos = np.array([0.5]) if order == 2 else solve(powers[:-1, :-1], right[:-1])
        else:
            rhos = np.array([0.5]) if order == 1 else solve(powers, right)
        terms: list[tuple[np.float64, F32]] = [(step.k1, models[0])]
        for rho, place, model in zip(rhos, places, models[1:], strict=False):
            terms.append((scale * rho / place, model - models[0]))
        if target is not None:
            terms.append((scale * rhos[-1], target - models[0]))
        return combine((step.keep, x), *[(-step.scale * weight, array) for weight, array in terms])

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        config = self.config
        x0 = self._clean(index, x, output)
        model = x0 if config["predict_x0"] else self._noise(index, x, output)
        if index > 0 and self.start is not None and index - 1 not in config["disable_corrector"]:
            x = self._solve(index - 1, self.last_order, self.start, self.models, model)
        self.models = [model, *self.models][: config["solver_order"]]
        left = len(self.timesteps) - index if config["lower_order_final"] else config["solver_order"]
        self.last_order = int(min(config["solver_order"], left, self.taken + 1))
        self.start = x
        self.taken = min(self.taken + 1, config["solver_order"])
        return self._solve(index, self.last_order, x, self.models, None), x0
