"""Parts of kernels that walk over the channels of a pixel: whole vectors of 16, then the last few one by one.

`whole` is a constant wherever these are called, so that no branch is left.
"""

from __future__ import annotations

from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.simd import Vector, composed, f32x16, get_lane, load, load_splat, store, u8, u8x4, u8x8, u8x16


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
