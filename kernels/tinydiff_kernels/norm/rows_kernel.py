"""rows_norm: layer norm of each row, or nothing; float32 or quantised by the row's own range. Fields in `row.py`.

A row is read from memory once; the passes over it (sum, squares, range, output) find it in the first-level cache.
Sums: 16 lanes over a source's whole vectors, then the lanes, then its last channels, then the second source.
"""

from __future__ import annotations

from typing import Any

from tinydiff_kernels._numba import types
from tinydiff_kernels.channels import fill, read, write
from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.norm.row import (
    BETA,
    EPS,
    FLIP,
    GAMMA,
    NEXT_WORKER,
    OUTPUT,
    OUTPUT_CHANNELS,
    OUTPUT_STRIDE,
    RECORDS,
    ROWS,
    SCRATCH,
    SCRATCH_BYTES,
    UNIT_ROWS,
)
from tinydiff_kernels.quantised import quantise, store_record
from tinydiff_kernels.simd import (
    Scalar,
    Vector,
    composed,
    f32,
    f32x4,
    f32x16,
    fetch_add,
    fma,
    full_like,
    get_lane,
    i32x16,
    i64,
    load,
    load_acquire,
    load_splat,
    max_lanes,
    maximum,
    min_lanes,
    minimum,
    prefetch,
    splat,
    sqrt,
    store,
    sum_lanes,
    zero,
)
from tinydiff_kernels.sources import FIRST, FIRST_CHANNELS, FIRST_STRIDE, SECOND, SECOND_CHANNELS, SECOND_STRIDE


@composed(lambda x, channels, ahead: f32)
def sum_of(x: int, channels: int, ahead: int) -> Scalar:
    """Sum of a row; what lies `ahead` bytes further will be needed soon."""
    whole = channels // 16 * 16
    lanes = zero(f32x16)
    for c in range(0, whole, 16):
        prefetch(x, 4 * c + ahead)
        lanes = lanes + load(f32x16, x, 4 * c)
    total = sum_lanes(lanes)
    for c in range(whole, channels):
        total += load(f32, x, 4 * c)
    return total


@composed(lambda x, channels, mean: f32)
def squares_of(x: int, channels: int, mean: Scalar) -> Scalar:
    whole = channels // 16 * 16
    lanes, middle = zero(f32x16), splat(f32x16, mean)
    for c in range(0, whole, 16):
        d = load(f32x16, x, 4 * c) - middle
        lanes = fma(d, d, lanes)
    total = sum_lanes(lanes)
    for c in range(whole, channels):
        difference = load(f32, x, 4 * c) - mean
        total += difference * difference
    return total


@composed(lambda x, gamma, beta, offset, mean, inverse, whole: f32x16)
def value(x: int, gamma: int, beta: int, offset: int, mean: Vector, inverse: Vector, whole: bool) -> Vector:
    y = read(x, offset, whole)
    if gamma != 0:
        y = fma((y - mean) * inverse, read(gamma, offset, whole), read(beta, offset, whole))
    return y


def extremes(*_arguments: Any) -> Any:
    return types.UniTuple(f32x16, 3)


@composed(extremes)
def widen_by(low: Vector, high: Vector, bad: Vector, y: Vector) -> Any:
    """Extremes so far and one more value. NaN is passed over by both and stays in `bad`, which is else 0."""
    return minimum(y, low), maximum(y, high), fma(y, full_like(y, 0.0), bad)


@composed(extremes)
def range_of(
    x: int,
    channels: int,
    gamma: int,
    beta: int,
    mean: Vector,
    inverse: Vector,
    low: Vector,
    high: Vector,
    bad: Vector,
    ahead: int,
) -> Any:
    whole = channels // 16 * 16
    for c in range(0, whole, 16):
        prefetch(x, 4 * c + ahead)
        low, high, bad = widen_by(low, high, bad, value(x, gamma, beta, 4 * c, mean, inverse, True))
    for c in range(whole, channels):
        low, high, bad = widen_by(low, high, bad, value(x, gamma, beta, 4 * c, mean, inverse, False))
    return low, high, bad


@composed(nothing)
def write_floats(x: int, channels: int, gamma: int, beta: int, mean: Vector, inverse: Vector, target: int) -> None:
    whole = channels // 16 * 16
    for c in range(0, whole, 16):
        write(target, 4 * c, value(x, gamma, beta, 4 * c, mean, inverse, True), True)
    for c in range(whole, channels):
        write(target, 4 * c, value(x, gamma, beta, 4 * c, mean, inverse, False), False)


@composed(nothing)
def write_bytes(
    x: int, channels: int, gamma: int, beta: int, mean: Vector, inverse: Vector, target: int, record: int, flip: int
) -> None:
    whole = channels // 16 * 16
    steps = full_like(mean, 1.0) / load_splat(f32x16, record, 0)
    zero_point = load_splat(i32x16, record, 4) + splat(i32x16, flip)
    for c in range(0, whole, 16):
        y = value(x, gamma, beta, 4 * c, mean, inverse, True)
        write(target, c, quantise(y, steps, zero_point, flip), True)
    for c in range(whole, channels):
        y = value(x, gamma, beta, 4 * c, mean, inverse, False)
        write(target, c, quantise(y, steps, zero_point, flip), False)


@composed(nothing)
def store_statistics(desc: int, row: int, place: int) -> None:
    """Mean and 1 / deviation of a row, at an address."""
    x, first = load(i64, desc, FIRST) + load(i64, desc, FIRST_STRIDE) * row, load(i64, desc, FIRST_CHANNELS)
    x2, second = load(i64, desc, SECOND) + load(i64, desc, SECOND_STRIDE) * row, load(i64, desc, SECOND_CHANNELS)
    count = f32(first + second)
    mean = sum_of(x, first, 4 * load(i64, desc, FIRST_STRIDE))
    if second > 0:
        mean += sum_of(x2, second, 4 * load(i64, desc, SECOND_STRIDE))
    mean = mean / count
    var = squares_of(x, first, mean)
    if second > 0:
        var += squares_of(x2, second, mean)
    var = var / count
    deviation = get_lane(sqrt(splat(f32x4, var + load(f32, desc, EPS))), 0)
    store(place, 0, mean)
    store(place, 4, f32(1) / deviation + (var - var))  # NaN where the variance is infinite


@composed(nothing)
def range_of_row(desc: int, row: int, place: int) -> None:
    """The record of a row."""
    x, first = load(i64, desc, FIRST) + load(i64, desc, FIRST_STRIDE) * row, load(i64, desc, FIRST_CHANNELS)
    x2, second = load(i64, desc, SECOND) + load(i64, desc, SECOND_STRIDE) * row, load(i64, desc, SECOND_CHANNELS)
    gamma, beta = load(i64, desc, GAMMA), load(i64, desc, BETA)
    mean, inverse = load_splat(f32x16, place, 0), load_splat(f32x16, place, 4)
    low, high, bad = zero(f32x16), zero(f32x16), zero(f32x16)
    low, high, bad = range_of(x, first, gamma, beta, mean, inverse, low, high, bad, 4 * load(i64, desc, FIRST_STRIDE))
    gamma, beta = beyond(gamma, first), beyond(beta, first)
    low, high, bad = range_of(
        x2, second, gamma, beta, mean, inverse, low, high, bad, 4 * load(i64, desc, SECOND_STRIDE)
    )
    failed = sum_lanes(bad)
    record = load(i64, desc, RECORDS) + 8 * row
    store_record(record, min_lanes(low) + failed, max_lanes(high) + failed, load(i64, desc, FLIP))


@composed(lambda address, channels: address)
def beyond(address: int, channels: int) -> int:
    """Where an array's part for the second source begins; 0 stays."""
    return address + 4 * channels if address != 0 else address


@composed(nothing)
def write_row(desc: int, row: int, place: int) -> None:
    x, first = load(i64, desc, FIRST) + load(i64, desc, FIRST_STRIDE) * row, load(i64, desc, FIRST_CHANNELS)
    x2, second = load(i64, desc, SECOND) + load(i64, desc, SECOND_STRIDE) * row, load(i64, desc, SECOND_CHANNELS)
    gamma, beta = load(i64, desc, GAMMA), load(i64, desc, BETA)
    mean, inverse = load_splat(f32x16, place, 0), load_splat(f32x16, place, 4)
    records, flip = load(i64, desc, RECORDS), load(i64, desc, FLIP)
    target = load(i64, desc, OUTPUT) + load(i64, desc, OUTPUT_STRIDE) * row
    rest = load(i64, desc, OUTPUT_CHANNELS) - first - second
    if records == 0:
        write_floats(x, first, gamma, beta, mean, inverse, target)
        target += 4 * first
        write_floats(x2, second, beyond(gamma, first), beyond(beta, first), mean, inverse, target)
        fill(target + 4 * second, 4 * rest, desc + RECORDS)  # this field is 0
    else:
        record = records + 8 * row
        write_bytes(x, first, gamma, beta, mean, inverse, target, record, flip)
        target += first
        write_bytes(x2, second, beyond(gamma, first), beyond(beta, first), mean, inverse, target, record, flip)
        fill(target + second, rest, record + 4)  # the low byte of zero - flip is zero ^ flip


def rows_norm(desc: int, counter: int, cancel: int) -> None:
    """Take sixteen rows at a time until none is left.

    Four rows go through each pass before the next: the long way from a row's last element to its mean, scale or
    record (reductions, divisions, a root) then overlaps with other rows' work.
    """
    scratch = load(i64, desc, SCRATCH) + SCRATCH_BYTES * fetch_add(counter + NEXT_WORKER, 1)
    rows = load(i64, desc, ROWS)
    while load_acquire(cancel) == 0:
        start = fetch_add(counter, UNIT_ROWS)
        if start >= rows:
            break
        for four in range(start, min(rows, start + UNIT_ROWS), 4):
            here = min(4, rows - four)
            if load(i64, desc, GAMMA) != 0:
                for r in range(here):
                    store_statistics(desc, four + r, scratch + 8 * r)
            if load(i64, desc, RECORDS) != 0:
                for r in range(here):
                    range_of_row(desc, four + r, scratch + 8 * r)
            for r in range(here):
                write_row(desc, four + r, scratch + 8 * r)
