"""Queries of attention_i8: each times scale * log2(e) and the keys' scales, as bytes with a scale of its own, in lanes.

Four channels of a query lie in four bytes, those of the next query beside them: `[groups, lanes, 4]`.
"""

from __future__ import annotations

from tinydiff_kernels.attention.keys_i8 import read
from tinydiff_kernels.attention.queries import nothing, prefetch_rows
from tinydiff_kernels.quantised import SMALLEST_SCALE
from tinydiff_kernels.simd import (
    Scalar,
    Vector,
    absolute,
    composed,
    f32,
    f32x4,
    fma,
    get_lane,
    i8,
    i8x4,
    i32x4,
    less,
    max_lanes,
    maximum,
    minimum,
    narrow,
    round_even,
    select,
    splat,
    store,
    sum_lanes,
    truncate_in_range,
    zero,
)

LARGEST = 63.0


@composed(lambda *_arguments: f32x4)
def scaled(q: int, key_scales: int, offset: int, factor: Vector, whole: bool) -> Vector:
    return read(f32x4, q, offset, whole) * factor * read(f32x4, key_scales, offset, whole)


@composed(lambda *_arguments: f32)
def scale_of(q: int, key_scales: int, width: int, factor: Vector) -> Scalar:
    """Of one query: its largest number / 63. Zero where that is too small to matter, NaN where one is no number."""
    largest, bad = zero(f32x4), zero(f32x4)
    c = 0
    while c < width:
        whole = width - c >= 4
        x = scaled(q, key_scales, 4 * c, factor, whole)
        largest, bad = maximum(absolute(x), largest), fma(x, zero(f32x4), bad)
        c += 4 if whole else 1
    return max_lanes(largest) / f32(LARGEST) + sum_lanes(bad)


@composed(lambda *_arguments: i32x4)
def query_steps(q: int, key_scales: int, offset: int, factor: Vector, inverse: Vector, whole: bool) -> Vector:
    """From -63 to 63; what is no number gives -63."""
    steps = scaled(q, key_scales, offset, factor, whole) * inverse
    bounded = minimum(maximum(steps, splat(f32x4, -LARGEST)), splat(f32x4, LARGEST))
    return truncate_in_range(round_even(bounded))


@composed(nothing)
def load_queries(
    lanes: int, q: int, stride: int, count: int, width: int, scale: Scalar, key_scales: int, target: int, scales: int
) -> None:
    """Rows of queries as vectors [groups] of `lanes` times four bytes, and their scales. Lanes beyond `count` repeat
    the last query."""
    factor, whole = splat(f32x4, scale), width // 4 * 4
    for lane in range(lanes):
        row, to = q + stride * min(lane, count - 1), target + 4 * lane
        if lane % 4 == 0:
            prefetch_rows(row, stride, width)
        step = splat(f32x4, scale_of(row, key_scales, width, factor))
        tiny = less(step, splat(f32x4, SMALLEST_SCALE))
        inverse = select(tiny, zero(f32x4), splat(f32x4, 1.0) / step)
        store(scales, 4 * lane, get_lane(select(tiny, zero(f32x4), step), 0))
        for c in range(0, 4 * whole, 16):
            store(to, 0, narrow(i8x4, query_steps(row, key_scales, c, factor, inverse, True)))
            to += 4 * lanes
        for c in range(whole, width):
            store(to, c - whole, i8(get_lane(query_steps(row, key_scales, 4 * c, factor, inverse, False), 0)))
        if whole < width:
            for c in range(width, whole + 4):
                store(to, c - whole, i8(0))
