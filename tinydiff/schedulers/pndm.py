"""PNDM and PLMS: Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds", arXiv 2202.09778."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tinydiff.errors import InvalidArgumentError
from tinydiff.schedulers import prediction
from tinydiff.schedulers.alpha_bar import AlphaBarScheduler
from tinydiff.schedulers.arrays import combine
from tinydiff.schedulers.base import Steps
from tinydiff.schedulers.betas import F32
from tinydiff.schedulers.spacing import spaced_timesteps

WARM_UP = 4  # timesteps that the Runge-Kutta start covers, with four model calls for each of the first three
RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
ADAMS_BASHFORTH = {  # weights of the newest output first, by how many there are
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def transfer(kind: str, abar: np.float64, abar_previous: np.float64, x: F32, output: F32) -> F32:
    """Equation 9 of the paper: the exact step between two noise levels if the network's output were constant.

    x_prev = sqrt(abar_prev / abar) x
             - (abar_prev - abar) epsilon / (abar sqrt(1 - abar_prev) + sqrt(abar (1 - abar) abar_prev))
    """
    epsilon = prediction.noise(kind, np.sqrt(abar), np.sqrt(1 - abar), x, output)
    denominator = abar * np.sqrt(1 - abar_previous) + np.sqrt(abar * (1 - abar) * abar_previous)
    return combine((np.sqrt(abar_previous / abar), x), (-(abar_previous - abar) / denominator, epsilon))


class PNDM(AlphaBarScheduler):
    """Linear multistep (PLMS, Adams-Bashforth of order 4) on `transfer`, after a start that has no history yet.

    skip_prk_steps true (all Stable Diffusion models): the second timestep is visited twice, once to correct the first
    step. False: twelve Runge-Kutta calls come first, two of each four at a timestep half way.
    """

    class_name = "PNDMScheduler"
    later_match = False
    state_fields: ClassVar = {"outputs": "arrays", "calls": "count", "anchor": "array", "weighted": "array"}
    outputs: list[F32]  # the last (up to four) outputs, oldest first
    calls: int
    anchor: F32 | None  # the latents where the current correction or Runge-Kutta step began
    weighted: F32 | None  # the Runge-Kutta sum so far

    def _schedule(self, n: int, timesteps: NDArray[np.float64] | None) -> tuple[Steps, F32]:
        config = self.config
        train, offset = config["num_train_timesteps"], config["steps_offset"]
        grid = np.round(spaced_timesteps(config["timestep_spacing"], n, train, offset)).astype(np.int64)
        if config["skip_prk_steps"]:
            steps = np.concatenate([grid[:2], grid[1:2], grid[2:]])
            return steps, self.levels_of(steps)
        if n < WARM_UP:
            raise InvalidArgumentError(f"PNDM with skip_prk_steps=False needs at least {WARM_UP} steps, not {n}")
        half = train // n // 2
        # t0, t1+h, t1+h, t1 | t1, t2+h, t2+h, t2 | t2, t3+h, t3+h, t3, then the rest from t3 on
        start = [t for a, b in pairwise(grid[:WARM_UP]) for t in (a, b + half, b + half, b)]
        steps = np.array([*start, *grid[3:]], np.int64)
        return steps, self.levels_of(steps)

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        t = int(self.timesteps[index])
        abar = self.abar(t)
        kind = self.config["prediction_type"]
        x0 = prediction.clean(kind, np.sqrt(abar), np.sqrt(1 - abar), x, output)
        in_start = not self.config["skip_prk_steps"] and self.calls < 4 * (WARM_UP - 1)
        previous = self._runge_kutta(output, t, x) if in_start else self._multistep(output, t, x)
        self.calls += 1
        return previous, x0

    def _runge_kutta(self, output: F32, t: int, x: F32) -> F32:
        """One of the four calls of a step of the fourth-order Runge-Kutta method."""
        call = self.calls % 4
        if call == 0:
            self.anchor, self.weighted = x, None
            self.outputs = [*self.outputs, output]
        part = combine((RUNGE_KUTTA[call], output))
        total = part if self.weighted is None else self.weighted + part
        self.weighted = None if call == 3 else total
        half = self.config["num_train_timesteps"] // self.num_inference_steps // 2
        begin = int(self.timesteps[self.calls - call])
        target = t if call % 2 else t - half
        direction = total if call == 3 else output
        anchor = x if self.anchor is None else self.anchor
        kind = self.config["prediction_type"]
        return transfer(kind, self.abar(begin), self.abar(target), anchor, direction)

    def _multistep(self, output: F32, t: int, x: F32) -> F32:
        stride = self.config["num_train_timesteps"] // self.num_inference_steps
        target = t - stride
        if self.calls == 1 and self.config["skip_prk_steps"]:
            # The second visit: redo the first step with the mean of the outputs at its two ends.
            t, target = t + stride, t
            direction = combine((0.5, output), (0.5, self.outputs[-1]))
            x, self.anchor = x if self.anchor is None else self.anchor, None
        else:
            self.outputs = [*self.outputs[-3:], output]
            if len(self.outputs) == 1:
                self.anchor, direction = x, output
            else:
                weights = ADAMS_BASHFORTH[len(self.outputs)]
                direction = combine(*zip(weights, reversed(self.outputs), strict=True))
        return transfer(self.config["prediction_type"], self.abar(t), self.abar(target), x, direction)
