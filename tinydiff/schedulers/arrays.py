"""The few operations on latents that all schedulers are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import numpy as np

from tinydiff.errors import InvalidArgumentError
from tinydiff.schedulers.betas import F32


def combine(*terms: tuple[SupportsFloat, F32]) -> F32:
    """The sum of coefficient * array, in float32 and from left to right. Refuses coefficients that are not finite."""
    total: F32 | None = None
    for value, array in terms:
        coefficient = np.float32(value)
        if not np.isfinite(coefficient):
            raise InvalidArgumentError("a coefficient is not finite")
        product = coefficient * array
        total = product if total is None else total + product
    if total is None:
        raise ValueError("combine() needs at least one term")
    return total


def per_image(values: Any, x: F32) -> F32:
    """One value per image (or one for all), shaped to multiply latents."""
    row = np.atleast_1d(np.asarray(values, np.float32))
    if row.ndim != 1 or len(row) not in (1, len(x)):
        raise InvalidArgumentError(f"{len(row)} timesteps for {len(x)} images")
    return row.reshape(-1, *([1] * (x.ndim - 1)))


def limited(config: Mapping[str, Any], x0: F32) -> F32:
    """The estimate of the clean latents, thresholded or clipped as the config says.

    Dynamic thresholding (Saharia et al. 2022, Imagen, arXiv 2205.11487): s is the given quantile of |x0| of each
    image, at least 1 and at most sample_max_value; x0 is clipped to [-s, s] and divided by s. For pixels, not latents.
    """
    if config.get("thresholding"):
        magnitudes = np.abs(x0).reshape(len(x0), -1)
        quantile = np.quantile(magnitudes, config["dynamic_thresholding_ratio"], axis=1)
        s = per_image(np.minimum(np.maximum(quantile, 1.0), config["sample_max_value"]), x0)
        return (np.clip(x0, -s, s) / s).astype(np.float32)
    if config.get("clip_sample") and "clip_sample_range" in config:
        bound = np.float32(config["clip_sample_range"])
        return np.clip(x0, -bound, bound)
    return x0


def first_channels(output: F32, x: F32) -> F32:
    """The part of the model's output that is not its variance."""
    return output[:, : x.shape[1]] if output.ndim > 1 else output
