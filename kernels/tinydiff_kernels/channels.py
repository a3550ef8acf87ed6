"""Parts of kernels that walk over the channels of a pixel: whole vectors of 16, then the last few one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.simd import (
    Vector,
    composed,
    f32x16,
    full_like,
    gelu,
    get_lane,
    load,
    load_splat,
    maximum,
    quick_gelu,
    silu,
    soft_clip,
    store,
    u8,
    u8x4,
    u8x8,
    u8x16,
)


@composed(lambda address, offset, whole: f32x16)
def read(address: int, offset: int, whole: bool) -> Vector:
    """Sixteen channels, or one in every lane."""
    if whole:
        return load(f32x16, address, offset)
    return load_splat(f32x16, address, offset)


@composed(nothing)
def write(address: int, offset: int, x: Vector, whole: bool) -> None:
    """Sixteen channels, or the first."""
    if whole:
        store(address, offset, x)
    else:
        store(address, offset, get_lane(x, 0))


def in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """`run(address, count)`: a function of f32x16 on floats in memory. One copy of it, for vectors and the last few."""

    @composed(nothing)
    def run(address: int, count: int) -> None:
        c = 0
        while c < count:
            whole = count - c >= 16
            write(address, 4 * c, function(read(address, 4 * c, whole)), whole)
            c += 16 if whole else 1

    return run


@composed(lambda x: x)
def relu(x: Vector) -> Vector:
    return maximum(full_like(x, 0.0), x)  # NaN stays


_silu, _gelu, _quick_gelu, _relu, _soft_clip = (in_place(f) for f in (silu, gelu, quick_gelu, relu, soft_clip))


@composed(nothing)
def activate_floats(address: int, count: int, activation: int) -> None:
    """An activation, by its number in `matmul.descriptor.ACTIVATIONS`, of so many floats. Chosen once, not for every
    vector: inside the loop it would be a call, and the vectors in registers would go through memory."""
    if activation == 1:
        _silu(address, count)
    elif activation == 2:
        _gelu(address, count)
    elif activation == 3:
        _quick_gelu(address, count)
    elif activation == 4:
        _relu(address, count)
    elif activation == 5:
        _soft_clip(address, count)


@composed(nothing)
def fill(target: int, count: int, source: int) -> None:
    """The byte at `source`, so often.

    It is read anew each time, and the last few bytes are no loop: a loop that stores one value LLVM makes a call of
    memset, which code compiled ahead of time does not have.
    """
    end = target + count // 16 * 16
    for at in range(target, end, 16):
        store(at, 0, load_splat(u8x16, source, 0))
    if count & 8 != 0:
        store(end, 0, load_splat(u8x8, source, 0))
        end += 8
    if count & 4 != 0:
        store(end, 0, load_splat(u8x4, source, 0))
        end += 4
    if count & 2 != 0:
        store(end, 0, load(u8, source, 0))
        store(end, 1, load(u8, source, 0))
        end += 2
    if count & 1 != 0:
        store(end, 0, load(u8, source, 0))
