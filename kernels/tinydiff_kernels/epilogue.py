"""Parts of kernels that come after the arithmetic, shared by all of them."""

from __future__ import annotations

from typing import Any

from tinydiff_kernels._numba import types
from tinydiff_kernels.simd import Vector, composed, full_like, gelu, maximum, quick_gelu, silu, soft_clip


def nothing(*_arguments: Any) -> Any:
    """The result type of a composed function that only stores."""
    return types.void


@composed(lambda x, activation: x)
def activate(x: Vector, activation: int) -> Vector:
    """By its number in `matmul.descriptor.ACTIVATIONS`, the same for the whole call, so that the branch is free."""
    if activation == 1:
        return silu(x)
    if activation == 2:
        return gelu(x)
    if activation == 3:
        return quick_gelu(x)
    if activation == 4:
        return maximum(full_like(x, 0.0), x)  # NaN stays
    if activation == 5:
        return soft_clip(x)
    return x
