"""Linear layers: y = x @ weight.T + bias (+ low-rank adapters)."""

from __future__ import annotations

from collections.abc import Sequence

from tinydiff_kernels.handles import LowRank
from tinydiff_kernels.ref.activation import gelu
from tinydiff_kernels.rows import Array


def linear(x: Array, weight: Array, bias: Array | None, adapters: Sequence[LowRank] = ()) -> Array:
    """x `[rows, in]`, weight `[out, in]`, bias `[out]` -> `[rows, out]`."""
    y: Array = x @ weight.T.astype(x.dtype, copy=False)
    for a in adapters:
        y += a.scale * ((x @ a.down.T) @ a.up.T)
    if bias is not None:
        y += bias
    return y


def geglu(x: Array, weight: Array, bias: Array | None, adapters: Sequence[LowRank] = ()) -> Array:
    """x `[rows, in]`, weight `[2n, in]` (n values, then n gates) -> value * gelu(gate) `[rows, n]`."""
    wide = linear(x, weight, bias, adapters)
    half = wide.shape[1] // 2
    return wide[:, :half] * gelu(wide[:, half:])
