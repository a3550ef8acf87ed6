"""Activations, elementwise.

silu(x)       = x * sigmoid(x)                      Elfwing et al. 2017, arXiv:1702.03118
gelu(x)       = x/2 * (1 + erf(x / sqrt 2))         Hendrycks & Gimpel 2016, arXiv:1606.08415
quick_gelu(x) = x * sigmoid(1.702 x)                ibid., used by OpenAI's CLIP
relu(x)       = max(x, 0)
soft_clip(x)  = 3 tanh(x / 3)                       TAESD's input range
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinydiff_kernels.rows import Array

# W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969), 631-637.
# erf(x) = x * P(x^2)/Q(x^2) below 0.46875; 1 - exp(-x^2) * P(x)/Q(x) above. Cody uses the latter up to 4; it is good
# to 1e-15 absolute up to 6, where erf is 1 in double precision.
_SMALL_P = (
    1.85777706184603153e-1,
    3.16112374387056560,
    1.13864154151050156e2,
    3.77485237685302021e2,
    3.20937758913846947e3,
)
_SMALL_Q = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_LARGE_P = (
    2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1,
    2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
    1.23033935479799725e3,
)  # fmt: skip
_LARGE_Q = (
    1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
    3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
)  # fmt: skip


def _horner(coefficients: tuple[float, ...], x: Array) -> Array:
    total = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        total *= x
        total += x.dtype.type(c)
    return total


def erf(x: Array) -> Array:
    """Error function; absolute error below 2e-7 in float32 and 4e-16 in float64."""
    size = np.minimum(np.abs(x), x.dtype.type(6))
    square = size * size
    small = size * _horner(_SMALL_P, square) / _horner(_SMALL_Q, square)
    large = 1 - np.exp(-square) * (_horner(_LARGE_P, size) / _horner(_LARGE_Q, size))
    result: Array = np.copysign(np.where(size <= 0.46875, small, large), x)
    return result


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow: exp only of numbers that are not positive."""
    e = np.exp(-np.abs(x))
    result: Array = np.where(x >= 0, 1, e) / (1 + e)
    return result


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    return x * (0.5 + 0.5 * erf(x * x.dtype.type(0.5**0.5)))


def quick_gelu(x: Array) -> Array:
    return x * sigmoid(1.702 * x)


def relu(x: Array) -> Array:
    result: Array = np.maximum(x, 0)
    return result


def soft_clip(x: Array) -> Array:
    result: Array = 3 * np.tanh(x / 3)
    return result


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": silu,
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "soft_clip": soft_clip,
}


def activate(x: Array, activation: str | None) -> Array:
    """x unchanged for None."""
    return x if activation is None else ACTIVATIONS[activation](x)
