"""What a network predicts, turned into the clean latents x0 or the noise.

Two conventions of the same thing. Variance preserving: x = alpha x0 + sigma noise with alpha^2 + sigma^2 = 1.
Karras: x = x0 + sigma noise, latents that grow with the noise level (and are scaled down for the network).

    epsilon        the noise
    sample         x0
    v_prediction   alpha noise - sigma x0 (Salimans & Ho 2022, "Progressive Distillation", arXiv 2202.00512)

Noise levels come as NumPy float64 scalars, so that a division by zero gives an infinity, which `combine` refuses.
"""

from __future__ import annotations

import numpy as np

from tinydiff.schedulers.arrays import combine
from tinydiff.schedulers.betas import F32


def alpha_sigma(sigma: float) -> tuple[float, float]:
    """(alpha, sigma) of the variance-preserving convention at a Karras noise level."""
    alpha = 1 / np.sqrt(np.float64(sigma * sigma + 1))
    return alpha, sigma * alpha


def clean(kind: str, alpha: float, sigma: float, x: F32, output: F32) -> F32:
    """x0 from variance-preserving latents."""
    if kind == "sample":
        return output
    if kind == "v_prediction":
        return combine((alpha, x), (-sigma, output))
    return combine((1 / alpha, x), (-sigma / alpha, output))  # alpha = 0, all noise: refused by combine


def noise(kind: str, alpha: float, sigma: float, x: F32, output: F32) -> F32:
    """The noise in variance-preserving latents."""
    if kind == "epsilon":
        return output
    if kind == "v_prediction":
        return combine((alpha, output), (sigma, x))
    return combine((1 / sigma, x), (-alpha / sigma, output))


def clean_karras(kind: str, sigma: float, x: F32, output: F32) -> F32:
    """x0 from Karras latents."""
    if kind == "sample":
        return output
    if kind == "epsilon":
        return combine((1, x), (-sigma, output))
    square = sigma * sigma + 1
    return combine((-sigma / np.sqrt(square), output), (1 / square, x))
