"""How the coefficients of `erf` in kernels/tinydiff_kernels/simd/polynomial.py were found. Prints them.

    python bench/fit_erf.py

Both polynomials minimise the largest relative error of erf itself (Lawson's iteration: least squares whose
weights grow where the error is large, which converges to the minimax fit). Then the coefficients are rounded to
float32, highest power first, and after each rounding the remaining ones are fitted again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

SPLIT, END = 0.9277, 3.93
ROUNDS = 400
erf = np.vectorize(math.erf, otypes=[np.float64])
erfc = np.vectorize(math.erfc, otypes=[np.float64])


def minimax(basis: Any, target: Any, weight: Any) -> Any:
    """Coefficients c with the smallest largest |basis @ c - target| * weight."""
    importance = np.ones_like(target)
    best: tuple[float, Any] = (math.inf, None)
    for _ in range(ROUNDS):
        root = weight * np.sqrt(importance)
        coefficients = np.linalg.lstsq(basis * root[:, None], target * root, rcond=None)[0]
        error = np.abs(basis @ coefficients - target) * weight
        if error.max() < best[0]:
            best = (float(error.max()), coefficients)
        importance *= error / error.max() + 1e-12
        importance /= importance.sum()
    return best[1]


def rounded(basis: Any, target: Any, weight: Any) -> tuple[list[float], float]:
    """float32 coefficients, lowest power first, and the largest weighted error that they leave."""
    left = target.copy()
    found: list[float] = []
    for count in range(basis.shape[1], 0, -1):
        value = float(np.float32(minimax(basis[:, :count], left, weight)[-1]))
        left -= basis[:, count - 1] * value
        found.insert(0, value)
    return found, float(np.abs(left * weight).max())


def near() -> tuple[list[float], float]:
    """erf(x) = x + x P(x**2) below SPLIT, P of degree 5."""
    x = (nodes() + 1) / 2 * SPLIT + 1e-9
    powers = np.stack([x ** (2 * i) for i in range(6)], axis=1)
    return rounded(powers, erf(x) / x - 1, x / erf(x))


def far() -> tuple[list[float], float]:
    """1 - erf(t) = exp(-(t + t Q(t))) from SPLIT to END, Q of degree 5."""
    t = (nodes() + 1) / 2 * (END - SPLIT) + SPLIT
    powers = np.stack([t**i for i in range(1, 7)], axis=1)
    return rounded(powers, -np.log(erfc(t)) - t, erfc(t) / erf(t))


def nodes() -> Any:
    """Chebyshev's, dense at both ends."""
    return np.cos(np.pi * (np.arange(2000) + 0.5) / 2000)


if __name__ == "__main__":
    for name, fit in (("near", near), ("far", far)):
        coefficients, error = fit()
        print(name, coefficients, f"relative error {error:.1e}")
