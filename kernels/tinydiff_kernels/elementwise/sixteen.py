"""Rows in 16 bits with a scale each, and back: `ref/sixteen.py`, to the bit."""

from __future__ import annotations

from tinydiff_kernels.channels import read, write
from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.quantised import INFINITY, NAN, SMALLEST_SCALE
from tinydiff_kernels.ref.sixteen import LARGEST
from tinydiff_kernels.simd import (
    Vector,
    absolute,
    composed,
    f32x4,
    f32x16,
    fma,
    full_like,
    get_lane,
    i16x16,
    i32x16,
    less,
    load,
    load_splat,
    max_lanes,
    maximum,
    minimum,
    narrow,
    round_even,
    select,
    splat,
    store,
    sum_lanes,
    to_float,
    truncate_in_range,
    widen,
    zero,
)


@composed(lambda address, offset, whole: i16x16)
def read_short(address: int, offset: int, whole: bool) -> Vector:
    """Sixteen channels, or one in every lane."""
    if whole:
        return load(i16x16, address, offset)
    return load_splat(i16x16, address, offset)


@composed(nothing)
def shorten_row(x: int, target: int, scale_of_row: int, count: int) -> None:
    """The largest magnitude first (`bad` becomes NaN where something is not finite), then the numbers."""
    most, bad = zero(f32x16), zero(f32x16)
    c = 0
    while c < count:
        whole = count - c >= 16
        y = read(x, 4 * c, whole)
        most, bad = maximum(absolute(y), most), fma(y, zero(f32x16), bad)
        c += 16 if whole else 1
    scale = splat(f32x4, max_lanes(most) + sum_lanes(bad)) / full_like(zero(f32x4), LARGEST)
    scale = select(less(scale, full_like(scale, SMALLEST_SCALE)), full_like(scale, 1.0), scale)
    scale = select(less(scale, full_like(scale, INFINITY)), scale, full_like(scale, NAN))
    store(scale_of_row, 0, get_lane(scale, 0))
    inverse = splat(f32x16, get_lane(full_like(scale, 1.0) / scale, 0))
    high = full_like(inverse, LARGEST)
    c = 0
    while c < count:
        whole = count - c >= 16
        steps = round_even(minimum(maximum(read(x, 4 * c, whole) * inverse, -high), high))
        write(target, 2 * c, narrow(i16x16, truncate_in_range(steps)), whole)
        c += 16 if whole else 1


@composed(nothing)
def widen_row(x: int, scale_of_row: int, target: int, count: int) -> None:
    scale = load_splat(f32x16, scale_of_row, 0)
    c = 0
    while c < count:
        whole = count - c >= 16
        write(target, 4 * c, to_float(widen(i32x16, read_short(x, 2 * c, whole))) * scale, whole)
        c += 16 if whole else 1
