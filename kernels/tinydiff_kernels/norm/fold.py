"""norm_fold: from tiles' statistics to one multiply-add for every channel, and to the range of the result.

Fields in `group.py`. Float64 scalars (but for the root), in the order of tiles and channels; a unit of work is an
image. It takes a twentieth of the other two kernels' time.

    mean    = sum over tiles, channels of rows * mean_tc / count
    var     = sum over tiles, channels of (squares_tc + rows * (mean_tc - mean)^2) / count       (Chan et al. 1979)
    y       = x * multiply + add,   multiply = gamma / sqrt(var + eps),   add = beta - mean * multiply
    y'      = y * (1 + scale) + shift,  where there is a row of scale and shift

One multiply-add a number costs accuracy only where the mean is large beside the deviation: |x| / deviation * 1e-7.
"""

from __future__ import annotations

from tinydiff_kernels._numba import types
from tinydiff_kernels.channels import read
from tinydiff_kernels.epilogue import activate, nothing
from tinydiff_kernels.norm.group import (
    ACTIVATION,
    ADD,
    BATCH,
    BETA,
    DEPTH,
    DIP,
    EPS,
    FLIP,
    GAMMA,
    GROUPS,
    MULTIPLY,
    PIXELS,
    RECORDS,
    SCALE_SHIFT,
    SCALE_SHIFT_STRIDE,
    STATS,
    TILE_ROWS,
)
from tinydiff_kernels.quantised import store_record
from tinydiff_kernels.simd import (
    Scalar,
    composed,
    f32,
    f32x4,
    f32x16,
    fetch_add,
    fma,
    full_like,
    get_lane,
    i64,
    less,
    load,
    load_acquire,
    load_splat,
    max_lanes,
    maximum,
    min_lanes,
    minimum,
    select,
    splat,
    sqrt,
    store,
    sum_lanes,
    zero,
)
from tinydiff_kernels.sources import FIRST_CHANNELS, SECOND_CHANNELS

f64 = types.float64
VOID_ADD = -0.0  # x * 1 + -0.0 is x, also for x = -0.0


@composed(lambda desc, channel: types.int64)
def slot_of(desc: int, channel: int) -> int:
    """Where a channel lies in per-channel arrays: the second source begins at a multiple of 16."""
    first = load(i64, desc, FIRST_CHANNELS)
    return channel if channel < first else channel - first + (first + 15) // 16 * 16


@composed(lambda desc, stats, plane, first, width: types.float64)
def group_mean(desc: int, stats: int, plane: int, first: int, width: int) -> Scalar:
    """Mean of a group of channels over all tiles of an image."""
    pixels = load(i64, desc, PIXELS)
    total = 0.0
    for start in range(0, pixels, TILE_ROWS):
        part = 0.0
        for c in range(first, first + width):
            part += f64(load(f32, stats, 4 * slot_of(desc, c)))
        total += part * f64(min(TILE_ROWS, pixels - start))
        stats += 4 * plane
    return total / (f64(pixels) * f64(width))


@composed(lambda desc, stats, plane, first, width, mean: types.float64)
def group_variance(desc: int, stats: int, plane: int, first: int, width: int, mean: Scalar) -> Scalar:
    pixels = load(i64, desc, PIXELS)
    total = 0.0
    for start in range(0, pixels, TILE_ROWS):
        within, between = 0.0, 0.0
        for c in range(first, first + width):
            place = 4 * slot_of(desc, c)
            d = f64(load(f32, stats, place)) - mean
            within += f64(load(f32, stats, place + plane))
            between += d * d
        total += within + between * f64(min(TILE_ROWS, pixels - start))
        stats += 4 * plane
    return total / (f64(pixels) * f64(width))


@composed(nothing)
def fold_groups(desc: int, image: int, stats: int, plane: int, channels: int) -> None:
    """multiply and add of every channel of an image."""
    multiply, add = load(i64, desc, MULTIPLY) + plane * image, load(i64, desc, ADD) + plane * image
    gamma, beta = load(i64, desc, GAMMA), load(i64, desc, BETA)
    eps = f64(load(f32, desc, EPS))
    modulation = load(i64, desc, SCALE_SHIFT) + load(i64, desc, SCALE_SHIFT_STRIDE) * image
    groups = load(i64, desc, GROUPS)
    for g in range(groups):
        width = channels // groups
        mean = group_mean(desc, stats, plane, g * width, width)
        var = group_variance(desc, stats, plane, g * width, width, mean)
        deviation = get_lane(sqrt(splat(f32x4, var + eps)), 0)
        inverse = 1.0 / f64(deviation) + (var - var)  # NaN where the variance is infinite
        for c in range(g * width, (g + 1) * width):
            m = f64(load(f32, gamma, 4 * c)) * inverse
            a = f64(load(f32, beta, 4 * c)) - mean * m
            if load(i64, desc, SCALE_SHIFT) != 0:
                scale = 1.0 + f64(load(f32, modulation, 4 * c))
                m, a = m * scale, a * scale + f64(load(f32, modulation, 4 * (channels + c)))
            store(multiply, 4 * slot_of(desc, c), f32(m))
            store(add, 4 * slot_of(desc, c), f32(a))


@composed(nothing)
def fold_nothing(desc: int, image: int, plane: int, channels: int) -> None:
    """Without a norm y = x."""
    multiply, add = load(i64, desc, MULTIPLY) + plane * image, load(i64, desc, ADD) + plane * image
    for c in range(channels):
        store(multiply, 4 * slot_of(desc, c), f32(1.0))
        store(add, 4 * slot_of(desc, c), f32(VOID_ADD))


@composed(nothing)
def fold_range(desc: int, image: int, stats: int, plane: int) -> None:
    """The record of an image: the range of activation(x * multiply + add), x between each channel's extremes.

    A product and an activation that only rises map extremes to extremes; a dip in between is put in. `bad` is NaN
    once anything was not finite (minimum and maximum pass NaN over), else 0.
    """
    multiply, add = load(i64, desc, MULTIPLY) + plane * image, load(i64, desc, ADD) + plane * image
    activation, pixels = load(i64, desc, ACTIVATION), load(i64, desc, PIXELS)
    first_channels, second_channels = load(i64, desc, FIRST_CHANNELS), load(i64, desc, SECOND_CHANNELS)
    dip, depth = load_splat(f32x16, desc, DIP), load_splat(f32x16, desc, DEPTH)
    lowest, highest, bad = zero(f32x16), zero(f32x16), zero(f32x16)
    for source in range(2):
        channels = first_channels if source == 0 else second_channels
        slot = 0 if source == 0 else (first_channels + 15) // 16 * 16
        c = 0
        while c < channels:
            whole = channels - c >= 16
            place = 4 * (slot + c)
            low, high = full_like(bad, float("inf")), full_like(bad, float("-inf"))
            for tile in range((pixels + TILE_ROWS - 1) // TILE_ROWS):
                at = stats + 4 * plane * tile + place
                bad = fma(read(at, 0, whole), zero(f32x16), bad)
                low = minimum(low, read(at, 2 * plane, whole))
                high = maximum(high, read(at, 3 * plane, whole))
            m, a = read(multiply, place, whole), read(add, place, whole)
            left, right = fma(low, m, a), fma(high, m, a)
            bad = fma(left, zero(f32x16), fma(right, zero(f32x16), bad))
            left, right = minimum(left, right), maximum(left, right)
            inside = less(left, dip) & less(dip, right)
            left, right = activate(left, activation), activate(right, activation)
            lowest = minimum(select(inside, depth, minimum(left, right)), lowest)
            highest = maximum(maximum(left, right), highest)
            c += 16 if whole else 1
    failed = sum_lanes(bad)
    record = load(i64, desc, RECORDS) + 8 * image
    store_record(record, min_lanes(lowest) + failed, max_lanes(highest) + failed, load(i64, desc, FLIP))


def norm_fold(desc: int, counter: int, cancel: int) -> None:
    """A unit of work is an image."""
    first_channels, second_channels = load(i64, desc, FIRST_CHANNELS), load(i64, desc, SECOND_CHANNELS)
    plane = 4 * ((first_channels + 15) // 16 * 16 + (second_channels + 15) // 16 * 16)
    image_stats = (load(i64, desc, PIXELS) + TILE_ROWS - 1) // TILE_ROWS * 4 * plane
    while load_acquire(cancel) == 0:
        image = fetch_add(counter, 1)
        if image >= load(i64, desc, BATCH):
            break
        stats = load(i64, desc, STATS) + image_stats * image
        if load(i64, desc, GROUPS) == 0:
            fold_nothing(desc, image, plane, first_channels + second_channels)
        else:
            fold_groups(desc, image, stats, plane, first_channels + second_channels)
        if load(i64, desc, RECORDS) != 0:
            fold_range(desc, image, stats, plane)
