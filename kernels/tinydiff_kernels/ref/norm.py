"""Normalisation. Statistics are taken in float64: a specification must be better than what it judges."""

from __future__ import annotations

import numpy as np

from tinydiff_kernels.rows import Array, Grid


def group_norm(x: Array, grid: Grid, weight: Array, bias: Array, groups: int, eps: float) -> Array:
    """(x - mean) / sqrt(var + eps) * weight + bias over (pixels, channels of a group) of each image."""
    grouped = x.reshape(grid.batch, grid.pixels, groups, x.shape[1] // groups)
    mean = grouped.mean((1, 3), keepdims=True, dtype=np.float64)
    var = np.square(grouped - mean).mean((1, 3), keepdims=True)
    scale = 1 / np.sqrt(var + eps)
    normed = (grouped - mean.astype(x.dtype)) * scale.astype(x.dtype)
    result: Array = normed.reshape(x.shape) * weight + bias
    return result


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """(x - mean) / sqrt(var + eps) * weight + bias over the channels of each row."""
    mean = x.mean(1, keepdims=True, dtype=np.float64)
    var = np.square(x - mean).mean(1, keepdims=True)
    normed = (x - mean.astype(x.dtype)) * (1 / np.sqrt(var + eps)).astype(x.dtype)
    result: Array = normed * weight + bias
    return result
