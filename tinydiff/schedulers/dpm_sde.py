"""DPM++ SDE: DPM-Solver++ of order 2 on the reverse SDE (k-diffusion's sample_dpmpp_sde; arXiv 2211.01095)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tinydiff.errors import InvalidArgumentError
from tinydiff.rng import check_seed
from tinydiff.schedulers import spacing
from tinydiff.schedulers.arrays import combine
from tinydiff.schedulers.base import Steps
from tinydiff.schedulers.betas import F32
from tinydiff.schedulers.brownian import BrownianTree
from tinydiff.schedulers.karras import KarrasScheduler, ancestral_split, derivative, doubled, interleaved


class DPMSolverSDE(KarrasScheduler):
    """Two ancestral steps, half way in log sigma and again from the start with the x0 found there: 2 n - 1 calls.

    x_next = (down / sigma) x + (1 - down / sigma) x0 + up noise. The noise is Brownian, not the caller's: it comes
    from one tree per image (brownian.py), seeded by `set_noise_seeds`, or by the option noise_sampler_seed (+ i for
    image i). diffusers seeds its tree from torch's global generator, so its pictures cannot be repeated anyway.
    """

    class_name = "DPMSolverSDEScheduler"
    order = 2
    state_fields: ClassVar = {"start": "array", "seeds": "seeds"}
    start: F32 | None  # the latents where the current step began; None while the next call is its first
    seeds: list[int]

    def __init__(self, config: Mapping[str, Any], eta: float | None = None):
        self.seeds = []
        self._trees: tuple[tuple[Any, ...], list[BrownianTree]] | None = None
        super().__init__(config, eta)

    def set_noise_seeds(self, seeds: Sequence[int]) -> None:
        self.seeds = [check_seed(seed) for seed in seeds]

    def _schedule(self, n: int, timesteps: NDArray[np.float64] | None) -> tuple[Steps, F32]:
        steps, sigmas = self._levels(n, None, dtype=np.float64)
        middles = np.sqrt(sigmas[:-1] * sigmas[1:])
        between = spacing.timesteps_at(middles, self.log_train_sigmas) if len(middles) else middles
        levels = np.concatenate([doubled(sigmas.astype(np.float32)), np.zeros(1, np.float32)])
        return interleaved(steps, between), levels

    def _ends(self, index: int) -> tuple[np.float64, np.float64, np.float64]:
        """The level where the current step began, the one half way (in log sigma) and the one where it ends."""
        first = index if self.start is None else index - 1
        sigma, following = self.sigma(first), self.sigma(first + 1)
        return sigma, np.sqrt(sigma * following), following

    def _model_sigma(self, index: int) -> np.float64:
        sigma, middle, _ = self._ends(index)
        return sigma if self.start is None else middle

    def _own_noise(self, index: int, x: F32) -> F32:
        """The Brownian increment of this call's interval, one tree per image."""
        sigma, middle, following = self._ends(index)
        if following == 0:
            return np.zeros_like(x)
        own = self.config["noise_sampler_seed"]
        seeds = self.seeds if own is None else [(own + i) % 2**64 for i in range(len(x))]
        if len(seeds) != len(x):
            raise InvalidArgumentError(
                f"DPM++ SDE: {len(seeds)} noise seeds for {len(x)} images; call set_noise_seeds()"
            )
        trees = self._trees_of(tuple(seeds), x.shape[1:])
        target = middle if self.start is None else following
        # Time runs against sigma, so the increment of the path changes sign.
        return np.stack([-tree.increment(float(target), float(sigma)) for tree in trees])

    def _trees_of(self, seeds: tuple[int, ...], shape: tuple[int, ...]) -> list[BrownianTree]:
        """The trees, kept from call to call; made anew they would give the same numbers."""
        low, high = float(self.sigmas[self.sigmas > 0].min()), float(self.sigmas.max())
        key = (seeds, shape, low, high)
        if self._trees is None or self._trees[0] != key:
            self._trees = (key, [BrownianTree(seed, low, high, shape) for seed in seeds])
        return self._trees[1]

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        sigma, middle, following = self._ends(index)
        x0 = self._clean(self._model_sigma(index), x, output)
        if following == 0:
            return combine((1, x), (-sigma, derivative(x, x0, sigma))), x0
        start = x if self.start is None else self.start
        down, up = ancestral_split(sigma, middle if self.start is None else following)
        self.start = x if self.start is None else None
        return combine((down / sigma, start), (1 - down / sigma, x0), (up, noise)), x0
