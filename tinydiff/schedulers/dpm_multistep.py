"""DPM-Solver and DPM-Solver++ that reuse the outputs of earlier steps ("DPM++ 2M", "2M SDE", "3M SDE")."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tinydiff.errors import InvalidArgumentError
from tinydiff.schedulers import spacing
from tinydiff.schedulers.arrays import combine
from tinydiff.schedulers.base import Scheduler
from tinydiff.schedulers.betas import F32, F64
from tinydiff.schedulers.exponential import Level, Transition, transition
from tinydiff.schedulers.vp import VariancePreserving

FEW_STEPS = 15  # below this many the last steps are solved at a lower order, if lower_order_final


def second_order(
    step: Transition, solver_type: str, lams: list[np.float64], x: F32, noise: F32, models: list[F32]
) -> F32:
    """The model linear in lambda through two points. `lams` and `models`: newest first, lams[0] at the target."""
    h, h0 = lams[0] - lams[1], lams[1] - lams[2]
    slope = combine((h / h0, models[0] - models[1]))
    return step.apply(x, noise, (step.k1, models[0]), (0.5 * step.k1 if solver_type == "midpoint" else step.k2, slope))


def third_order(step: Transition, lams: list[np.float64], x: F32, noise: F32, models: list[F32]) -> F32:
    """The model quadratic in lambda through three points, by divided differences."""
    h, h0, h1 = lams[0] - lams[1], lams[1] - lams[2], lams[2] - lams[3]
    r0, r1 = h0 / h, h1 / h
    newer = combine((1 / r0, models[0] - models[1]))
    older = combine((1 / r1, models[1] - models[2]))
    slope = combine((1, newer), (r0 / (r0 + r1), newer - older))
    curve = combine((1 / (r0 + r1), newer - older))
    return step.apply(x, noise, (step.k1, models[0]), (step.k2, slope), (step.k3, curve))


class MultistepSolver(Scheduler):
    """Lu et al. 2022, "DPM-Solver++", https://arxiv.org/abs/2211.01095, section 4: which order when."""

    state_fields: ClassVar = {"models": "arrays", "taken": "count"}
    models: list[F32]  # x0 (dpmsolver++) or the noise (dpmsolver) of the last steps, newest first
    taken: int
    third_order_algorithms: ClassVar[tuple[str, ...]] = ("dpmsolver", "dpmsolver++", "sde-dpmsolver++")

    def level(self, index: int) -> Level:
        raise NotImplementedError

    @property
    def uses_noise(self) -> bool:
        return str(self.config["algorithm_type"]).startswith("sde-")

    def needs_noise(self, t: float) -> bool:
        return self.uses_noise  # at every step, as diffusers draws it

    def _order(self, index: int) -> int:
        config, last = self.config, len(self.timesteps) - 1
        few = config["lower_order_final"] and len(self.timesteps) < FEW_STEPS
        if index == last and (config["euler_at_final"] or few or config["final_sigmas_type"] == "zero"):
            return 1
        limit = 2 if index == last - 1 and few else 3
        return int(min(config["solver_order"], self.taken + 1, limit))

    def _advance(self, index: int, x: F32, noise: F32, model: F32) -> F32:
        config = self.config
        order = self._order(index)
        self.models = [model, *self.models][: config["solver_order"]]
        self.taken = min(self.taken + 1, config["solver_order"])
        levels = [self.level(place) for place in range(index + 1, index - order, -1)]
        step = transition(config["algorithm_type"], levels[1], levels[0])
        lams = [level.lam for level in levels]
        if order == 1:
            return step.apply(x, noise, (step.k1, model))
        if order == 2:
            return second_order(step, config["solver_type"], lams, x, noise, self.models)
        if config["algorithm_type"] not in self.third_order_algorithms:
            raise InvalidArgumentError(f"algorithm_type={config['algorithm_type']!r} has no third order")
        return third_order(step, lams, x, noise, self.models)


class DPMMultistep(VariancePreserving, MultistepSolver):
    class_name = "DPMSolverMultistepScheduler"
    takes_timesteps = True

    def _rounds(self) -> bool:
        config = self.config
        spread = config["use_karras_sigmas"] or config["use_lu_lambdas"]
        return bool(spread and config["beta_schedule"] != "squaredcos_cap_v2")

    def _converted(self, n: int) -> F64 | None:
        if self.config["use_lu_lambdas"] and not self.config["use_karras_sigmas"]:
            # Equal steps in lambda, as the DPM-Solver paper has them.
            return spacing.exponential_sigmas(float(self.train_sigmas[0]), float(self.train_sigmas[-1]), n)
        return super()._converted(n)

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        x0 = self._clean(index, x, output)
        data = str(self.config["algorithm_type"]).endswith("++")
        return self._advance(index, x, noise, x0 if data else self._noise(index, x, output, x0)), x0
