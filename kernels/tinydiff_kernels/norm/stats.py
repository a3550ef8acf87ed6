"""norm_stats: statistics of every channel in tiles of 128 rows, in one pass over memory. Fields in `group.py`.

Eight rows of eight channels are in registers at a time: their mean first, then the squares of their deviations from
it, as exact as two passes. Groups of rows are combined by the formula of Chan, Golub and LeVeque ("Updating formulae
and a pairwise algorithm for computing sample variances", 1979): with n rows so far and m more,

    d = mean_m - mean        mean += d * m / (n + m)        squares += squares_m + d * d * n * m / (n + m)

Every channel has its own chain, so neither the vector's width nor the number of threads changes a bit. NaN never
enters a minimum or maximum; it shows in the mean.
"""

from __future__ import annotations

from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.norm.group import BATCH, CHUNK, PIXELS, STATS, TILE_ROWS
from tinydiff_kernels.simd import (
    Scalar,
    Vector,
    composed,
    f32,
    f32x8,
    fetch_add,
    fma,
    full_like,
    get_lane,
    i64,
    load,
    load_acquire,
    load_splat,
    maximum,
    minimum,
    splat,
    store,
    zero,
)
from tinydiff_kernels.sources import (
    FIRST,
    FIRST_CHANNELS,
    FIRST_STRIDE,
    SECOND,
    SECOND_CHANNELS,
    SECOND_STRIDE,
)

EIGHTH = 1 / 8


@composed(lambda address, offset, whole: f32x8)
def read(address: int, offset: int, whole: bool) -> Vector:
    """Eight channels, or one of the last few: then every lane has it and one will be stored."""
    if whole:
        return load(f32x8, address, offset)
    return load_splat(f32x8, address, offset)


@composed(nothing)
def write(address: int, offset: int, x: Vector, whole: bool) -> None:
    if whole:
        store(address, offset, x)
    else:
        store(address, offset, get_lane(x, 0))


@composed(nothing)
def merge(
    out: int,
    plane: int,
    before: int,
    weight: Scalar,
    shared: Scalar,
    mean: Vector,
    squares: Vector,
    low: Vector,
    high: Vector,
    whole: bool,
) -> None:
    """Combine with the rows before. weight = m / (n + m), shared = n * m / (n + m); planes lie `plane` bytes apart."""
    if before > 0:
        earlier = read(out, 0, whole)
        d = mean - earlier
        mean = fma(d, splat(f32x8, weight), earlier)
        squares = fma(d * splat(f32x8, shared), d, squares + read(out, plane, whole))
        low = minimum(low, read(out, 2 * plane, whole))
        high = maximum(high, read(out, 3 * plane, whole))
    write(out, 0, mean, whole)
    write(out, plane, squares, whole)
    write(out, 2 * plane, low, whole)
    write(out, 3 * plane, high, whole)


@composed(lambda total, x, mean: f32x8)
def add_square(total: Vector, x: Vector, mean: Vector) -> Vector:
    d = x - mean
    return fma(d, d, total)


@composed(nothing)
def eight_rows(
    x: int, stride: int, out: int, plane: int, before: int, weight: Scalar, shared: Scalar, whole: bool
) -> None:
    """Statistics of eight rows of some channels, combined with those of the rows before."""
    x0, x1 = read(x, 0, whole), read(x, stride, whole)
    x2, x3 = read(x, 2 * stride, whole), read(x, 3 * stride, whole)
    x4, x5 = read(x, 4 * stride, whole), read(x, 5 * stride, whole)
    x6, x7 = read(x, 6 * stride, whole), read(x, 7 * stride, whole)
    mean = (((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7))) * full_like(x0, EIGHTH)
    even = add_square(add_square(zero(f32x8), x0, mean), x2, mean)
    even = add_square(add_square(even, x4, mean), x6, mean)
    odd = add_square(add_square(zero(f32x8), x1, mean), x3, mean)
    odd = add_square(add_square(odd, x5, mean), x7, mean)
    low, high = full_like(x0, float("inf")), full_like(x0, float("-inf"))
    low = minimum(x3, minimum(x2, minimum(x1, minimum(x0, low))))
    low = minimum(x7, minimum(x6, minimum(x5, minimum(x4, low))))
    high = maximum(x3, maximum(x2, maximum(x1, maximum(x0, high))))
    high = maximum(x7, maximum(x6, maximum(x5, maximum(x4, high))))
    merge(out, plane, before, weight, shared, mean, even + odd, low, high, whole)


@composed(nothing)
def one_row(x: int, out: int, plane: int, before: int, weight: Scalar, shared: Scalar, whole: bool) -> None:
    """The same of a single row: its mean is itself."""
    row = read(x, 0, whole)
    low = minimum(row, full_like(row, float("inf")))
    high = maximum(row, full_like(row, float("-inf")))
    merge(out, plane, before, weight, shared, row, zero(f32x8), low, high, whole)


@composed(nothing)
def tile_statistics(x: int, stride: int, channels: int, rows: int, out: int, plane: int) -> None:
    """Statistics of some channels of a tile, eight rows after eight."""
    whole, eights = channels // 8 * 8, rows // 8 * 8
    for r in range(0, eights, 8):
        weight = f32(8) / f32(r + 8)
        shared = weight * f32(r)
        row = x + stride * r
        for c in range(0, whole, 8):
            eight_rows(row + 4 * c, stride, out + 4 * c, plane, r, weight, shared, True)
        for c in range(whole, channels):
            eight_rows(row + 4 * c, stride, out + 4 * c, plane, r, weight, shared, False)
    for r in range(eights, rows):
        weight = f32(1) / f32(r + 1)
        shared = weight * f32(r)
        row = x + stride * r
        for c in range(0, whole, 8):
            one_row(row + 4 * c, out + 4 * c, plane, r, weight, shared, True)
        for c in range(whole, channels):
            one_row(row + 4 * c, out + 4 * c, plane, r, weight, shared, False)


def norm_stats(desc: int, counter: int, cancel: int) -> None:
    """A unit of work is up to 512 channels of one source in one tile."""
    pixels, stats = load(i64, desc, PIXELS), load(i64, desc, STATS)
    first_channels, second_channels = load(i64, desc, FIRST_CHANNELS), load(i64, desc, SECOND_CHANNELS)
    first_chunks = (first_channels + CHUNK - 1) // CHUNK
    chunks = first_chunks + (second_channels + CHUNK - 1) // CHUNK
    first_slots = (first_channels + 15) // 16 * 16
    plane = 4 * (first_slots + (second_channels + 15) // 16 * 16)
    tiles = (pixels + TILE_ROWS - 1) // TILE_ROWS
    units = load(i64, desc, BATCH) * tiles * chunks
    while load_acquire(cancel) == 0:
        unit = fetch_add(counter, 1)
        if unit >= units:
            break
        tile, chunk = unit // chunks, unit % chunks
        image, start = tile // tiles, tile % tiles * TILE_ROWS
        source, stride, channels, slot = load(i64, desc, FIRST), load(i64, desc, FIRST_STRIDE), first_channels, 0
        if chunk >= first_chunks:
            chunk -= first_chunks
            source, stride, channels = load(i64, desc, SECOND), load(i64, desc, SECOND_STRIDE), second_channels
            slot = first_slots
        channel = CHUNK * chunk
        x = source + stride * (image * pixels + start) + 4 * channel
        out = stats + 4 * plane * tile + 4 * (slot + channel)
        tile_statistics(x, stride, min(CHUNK, channels - channel), min(TILE_ROWS, pixels - start), out, plane)
