"""How much noise training added at each timestep: the betas, and alpha-bar, their running product.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise,    abar_t = prod_{s <= t} (1 - beta_s)    (Ho et al. 2020,
    "Denoising Diffusion Probabilistic Models", https://arxiv.org/abs/2006.11239, equation 4)

Arithmetic is that of the tools which made the checkpoints: betas in float32, the product accumulated in float64 and
stored in float32. A chain in float64 alone is 1.3e-5 off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]

# Stands for abar = 0 where a solver divides by it: the smallest subnormal of float16.
ALMOST_ZERO = np.float32(2.0**-24)


def linspace(start: float, stop: float, n: int) -> F32:
    """n float32 numbers from start to stop, rounded as torch.linspace rounds (each half from its own end)."""
    first, last = np.float32(start), np.float32(stop)
    if n == 1:
        return np.array([first])
    # The product and sum are one fused operation there: float64 holds both exactly.
    step = float(np.float32((last - first) / np.float32(n - 1)))
    index = np.arange(n)
    rising = float(first) + step * index
    falling = float(last) - step * (n - 1 - index)
    return np.where(index < n // 2, rising, falling).astype(np.float32)


def alpha_bar_cosine(t: float) -> float:
    """cos^2: Nichol & Dhariwal 2021, "Improved DDPM" (squaredcos_cap_v2)."""
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def alpha_bar_exponential(t: float) -> float:
    """exp(-12 t)."""
    return math.exp(-12.0 * t)


def alpha_bar_laplace(t: float) -> float:
    """Signal-to-noise ratio with a Laplace-distributed logarithm (Hang et al. 2024, arXiv 2407.03297)."""
    log_snr_half = -0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6)
    snr = math.exp(log_snr_half)
    return math.sqrt(snr / (1 + snr))


def betas_from_alpha_bar(alpha_bar: Callable[[float], float], n: int, largest: float = 0.999) -> F32:
    """beta_i = 1 - abar((i + 1) / n) / abar(i / n), at most `largest`."""
    ratios = (alpha_bar((i + 1) / n) / alpha_bar(i / n) for i in range(n))
    return np.array([min(1 - ratio, largest) for ratio in ratios], np.float32)


def make_betas(config: Mapping[str, Any]) -> F32:
    """The betas that a (checked) scheduler config describes: float32, one per training timestep."""
    n, kind = config["num_train_timesteps"], config["beta_schedule"]
    start, stop = config["beta_start"], config["beta_end"]
    if config["trained_betas"] is not None:
        return np.array(config["trained_betas"], np.float32)
    if kind == "linear":
        return linspace(start, stop, n)
    if kind == "scaled_linear":  # latent diffusion: linear in the square root
        return np.square(linspace(start**0.5, stop**0.5, n))
    if kind == "sigmoid":
        sigmoid = (1 / (1 + np.exp(-linspace(-6, 6, n).astype(np.float64)))).astype(np.float32)
        return (sigmoid * np.float32(stop - start) + np.float32(start)).astype(np.float32)
    functions = {
        "squaredcos_cap_v2": alpha_bar_cosine,
        "exp": alpha_bar_exponential,
        "laplace": alpha_bar_laplace,
    }
    return betas_from_alpha_bar(functions[kind], n)


def cumulative_product(alphas: F32) -> F32:
    return np.cumprod(alphas.astype(np.float64)).astype(np.float32)


def rescale_zero_terminal_snr(betas: F32) -> F32:
    """Betas shifted and scaled so that the last timestep is pure noise and the first stays as it was.

    Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", arXiv 2305.08891, algorithm 1.
    """
    root = np.sqrt(cumulative_product(np.float32(1) - betas))
    first, last = root[0], root[-1]
    root = (root - last) * (first / (first - last))
    alpha_bar = np.square(root)
    alphas = np.concatenate([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return (np.float32(1) - alphas).astype(np.float32)


def alphas_cumprod(config: Mapping[str, Any], *, almost_zero: bool = False) -> F32:
    """abar per training timestep, float32. `almost_zero`: the last one of a zero-SNR schedule is 2^-24, not 0."""
    betas = make_betas(config)
    rescaled = bool(config.get("rescale_betas_zero_snr"))
    if rescaled:
        betas = rescale_zero_terminal_snr(betas)
    alpha_bar = cumulative_product(np.float32(1) - betas)
    if rescaled and almost_zero:
        alpha_bar[-1] = ALMOST_ZERO
    return alpha_bar
