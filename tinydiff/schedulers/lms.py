"""Linear multistep on the derivative (K. Crowson's k-diffusion; Adams-Bashforth with unequal steps)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tinydiff.schedulers.arrays import combine
from tinydiff.schedulers.base import Steps
from tinydiff.schedulers.betas import F32, F64
from tinydiff.schedulers.karras import KarrasScheduler, derivative, with_end

ORDER = 4
GAUSS_NODE = 1 / np.sqrt(3.0)


def adams_weights(nodes: F64, start: float, stop: float) -> F64:
    """The integral from start to stop of each Lagrange polynomial on the nodes (at most four of them).

    Those polynomials are cubic at most, for which Gauss and Legendre's two points are exact.
    """
    middle, half = (start + stop) / 2, (stop - start) / 2
    points = np.array([middle - half * GAUSS_NODE, middle + half * GAUSS_NODE])
    weights = np.empty(len(nodes))
    for j, node in enumerate(nodes):
        others = np.delete(nodes, j)
        values = np.prod((points[:, None] - others) / (node - others), axis=1)
        weights[j] = half * values.sum()
    return weights


class LMS(KarrasScheduler):
    """x_next = x + integral of the polynomial through the last four derivatives dx/dsigma."""

    class_name = "LMSDiscreteScheduler"
    state_fields: ClassVar = {"derivatives": "arrays"}
    derivatives: list[F32]  # oldest first

    def _schedule(self, n: int, timesteps: NDArray[np.float64] | None) -> tuple[Steps, F32]:
        steps, sigmas = self._levels(n, None)
        return steps.astype(np.float32), with_end(sigmas, 0.0)

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        sigma = self.sigma(index)
        x0 = self._clean(sigma, x, output)
        self.derivatives = [*self.derivatives, derivative(x, x0, sigma)][-ORDER:]
        order = min(index + 1, ORDER)
        nodes = self.sigmas[index - order + 1 : index + 1][::-1].astype(np.float64)
        weights = adams_weights(nodes, sigma, self.sigma(index + 1))
        return combine((1, x), *zip(weights, reversed(self.derivatives), strict=False)), x0
