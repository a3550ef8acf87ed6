"""DPM-Solver and DPM-Solver++ in blocks of one to three model calls, each of which starts from its first latents."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tinydiff.schedulers.arrays import combine
from tinydiff.schedulers.betas import F32
from tinydiff.schedulers.exponential import transition
from tinydiff.schedulers.vp import VariancePreserving


def order_list(n: int, order: int, lower_final: bool, ends_at_zero: bool) -> list[int]:
    """The order of each of n steps: 1, 2, 3, 1, 2, 3, ... up to `order`; a last block may be cut short.

    The last step is of order 1 if it goes to zero noise, or if the blocks fit and `lower_final` asks for it.
    """
    orders = (list(range(1, order + 1)) * n)[:n]
    if ends_at_zero or (lower_final and n % order == 0):
        orders[-1] = 1
    return orders


class DPMSinglestep(VariancePreserving):
    """Lu et al. 2022, "DPM-Solver++", https://arxiv.org/abs/2211.01095, section 4 (2S, 3S)."""

    class_name = "DPMSolverSinglestepScheduler"
    takes_timesteps = True
    state_fields: ClassVar = {"models": "arrays", "start": "array"}
    models: list[F32]  # x0 (dpmsolver++) or the noise (dpmsolver) of the last steps, newest first
    start: F32 | None  # the latents where the current block began

    @property
    def uses_noise(self) -> bool:
        return str(self.config["algorithm_type"]).startswith("sde-")

    def needs_noise(self, t: float) -> bool:
        return self.uses_noise  # at every step, as diffusers draws it

    def _grid(self, n: int) -> NDArray[np.int64]:
        points = np.linspace(0, self._clipped_end() - 1, n + 1).round()
        return points[::-1][:-1].astype(np.int64)

    def _order(self, index: int) -> int:
        config = self.config
        zero = config["final_sigmas_type"] == "zero"
        orders = order_list(self.num_inference_steps, config["solver_order"], config["lower_order_final"], zero)
        return min(orders[index], len(self.models))

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        config = self.config
        x0 = self._clean(index, x, output)
        data = str(config["algorithm_type"]).endswith("++")
        model = x0 if data else self._noise(index, x, output, x0)
        self.models = [model, *self.models][: config["solver_order"]]
        order = self._order(index)
        if order == 1 or self.start is None:
            self.start = x
        # From the level where the block began to the next one; h and r measure from there too.
        begin = self.level(index - order + 1)
        target = self.level(index + 1)
        step = transition(config["algorithm_type"], begin, target)
        base = self.models[order - 1]
        if order == 1:
            return step.apply(self.start, noise, (step.k1, base)), x0
        h = target.lam - begin.lam
        r0 = (self.level(index).lam - begin.lam) / h
        newest = combine((1 / r0, self.models[0] - base))
        midpoint = config["solver_type"] == "midpoint"
        if order == 2:
            weight = 0.5 * step.k1 if midpoint else step.k2
            return step.apply(self.start, noise, (step.k1, base), (weight, newest)), x0
        if midpoint:
            return step.apply(self.start, noise, (step.k1, base), (step.k2, newest)), x0
        r1 = (self.level(index - 1).lam - begin.lam) / h
        older = combine((1 / r1, self.models[1] - base))
        slope = combine((r0 / (r0 - r1), older), (-r1 / (r0 - r1), newest))
        curve = combine((2 / (r0 - r1), newest - older))
        return step.apply(self.start, noise, (step.k1, base), (step.k2, slope), (step.k3, curve)), x0
