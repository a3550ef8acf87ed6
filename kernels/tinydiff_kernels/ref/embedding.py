"""Vectors for timesteps and tokens."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.rows import Array


def exponents(dim: int, freq_shift: float) -> NDArray[np.float32]:
    """Logarithms of the `dim // 2` frequencies, as diffusers computes them, in float32."""
    half = dim // 2
    steps = np.float32(-math.log(10000)) * np.arange(half, dtype=np.float32)
    return np.asarray(steps / np.float32(half - freq_shift), np.float32)


def timestep_embedding(timesteps: Array, dim: int, flip_sin_to_cos: bool, freq_shift: float) -> Array:
    """timesteps `[B, n]` -> `[B, n * dim]`; see `operations.TimestepEmbedding`."""
    t = np.asarray(timesteps, np.float32)
    frequencies = np.exp(exponents(dim, freq_shift).astype(np.float64)).astype(np.float32)  # rounded correctly
    angles = t[..., None] * frequencies
    pair = (np.cos(angles), np.sin(angles)) if flip_sin_to_cos else (np.sin(angles), np.cos(angles))
    table = np.concatenate(pair, -1)
    if dim % 2:
        table = np.pad(table, ((0, 0), (0, 0), (0, 1)))
    return table.reshape(t.shape[0], -1)


def embed(
    ids: NDArray[np.int64], tokens: Array, positions: Array, appended: NDArray[np.float32] | None = None
) -> Array:
    """ids `[B, T]` -> token vectors + position vectors `[B*T, C]`."""
    known = np.minimum(ids, tokens.shape[0] - 1)
    vectors = tokens[known].astype(np.result_type(tokens, positions, np.float32), copy=False)
    if appended is not None:
        new = ids >= tokens.shape[0]
        vectors[new] = appended[ids[new] - tokens.shape[0]]
    result: Array = (vectors + positions[: ids.shape[1]]).reshape(-1, tokens.shape[1])
    return result
