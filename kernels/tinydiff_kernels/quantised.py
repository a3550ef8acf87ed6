"""Parts of kernels that quantise activations: `ref/quantise.py`, to the bit."""

from __future__ import annotations

from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.simd import (
    Scalar,
    Vector,
    composed,
    f32x4,
    full_like,
    get_lane,
    i32,
    less,
    maximum,
    minimum,
    narrow,
    round_even,
    select,
    splat,
    store,
    to_float,
    truncate_in_range,
    u8x16,
    vector,
)

SMALLEST_SCALE = 2.0**-126
INFINITY, NAN = float("inf"), float("nan")


@composed(nothing)
def store_record(record: int, low: Scalar, high: Scalar, flip: int) -> None:
    """Scale and zero point of a range of float32, to an address."""
    lo, hi = splat(f32x4, low), splat(f32x4, high)
    none = full_like(lo, 0.0)
    lo, hi = minimum(none, lo), maximum(none, hi)  # NaN stays
    scale = (hi - lo) / full_like(lo, 255.0)
    scale = select(less(scale, full_like(lo, SMALLEST_SCALE)), full_like(lo, 1.0), scale)
    scale = select(less(scale, full_like(lo, INFINITY)), scale, full_like(lo, NAN))
    zero = maximum(round_even(minimum(-lo / scale, full_like(lo, 255.0))), none)  # NaN becomes 0
    store(record, 0, get_lane(scale, 0))
    store(record, 4, i32(get_lane(truncate_in_range(zero), 0) - flip))


@composed(lambda x, inverse, zero, flip: vector("u8", x.lanes))
def quantise(x: Vector, inverse: Vector, zero: Vector, flip: int) -> Vector:
    """clamp(round(x * inverse) + zero, 0, 255) ^ flip of 16 floats; zero is i32, NaN gives 0.

    Clamped before it is rounded: the bounds are whole numbers, so the result is the same and nothing overflows.
    """
    low = -to_float(zero)
    high = low + full_like(low, 255.0)
    steps = round_even(minimum(maximum(x * inverse, low), high))
    return narrow(u8x16, truncate_in_range(steps) + zero) ^ splat(u8x16, flip)
