"""The inverse of the regularised incomplete beta function, which SciPy users know as `scipy.stats.beta.ppf`."""

from __future__ import annotations

import math

TINY = 1e-300
MAX_TERMS = 500


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Lentz's evaluation of the fraction in DLMF 8.17.22 (https://dlmf.nist.gov/8.17); fast for x < (a+1)/(a+b+2)."""
    c, d = 1.0, 1.0 / max(1.0 - (a + b) * x / (a + 1.0), TINY)
    value = d
    for m in range(1, MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 + term * d
            c = 1.0 + term / c
            d = 1.0 / (d if abs(d) > TINY else TINY)
            c = c if abs(c) > TINY else TINY
            value *= d * c
        if abs(d * c - 1.0) < 1e-16:
            break
    return value


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), the distribution function of the beta distribution at x, 0 <= x <= 1, for a, b > 0."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _continued_fraction(a, b, x) / a


def beta_quantile(p: float, a: float, b: float) -> float:
    """The x in [0, 1] with I_x(a, b) = p: Newton's steps on the density, kept inside a shrinking bracket."""
    if p <= 0.0 or p >= 1.0:
        return 0.0 if p <= 0.0 else 1.0
    low, high = 0.0, 1.0
    x = a / (a + b)
    log_norm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    for _ in range(200):
        error = incomplete_beta(a, b, x) - p
        low, high = (low, x) if error > 0 else (x, high)
        density = math.exp(log_norm + (a - 1) * math.log(x) + (b - 1) * math.log1p(-x))
        proposal = x - error / density
        following = proposal if low < proposal < high else 0.5 * (low + high)
        if abs(following - x) <= 1e-16 * x:
            return following
        x = following
    return x
