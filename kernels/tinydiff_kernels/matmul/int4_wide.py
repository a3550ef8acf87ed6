"""matmul_i4 on AVX-512: a tile of 8 x 32, whose group sums fill sixteen of the thirty-two registers.

As `int4.py`, with the same packed weights. A half byte becomes a signed byte by leaving it in the high half, as sixteen
times itself: one or two instructions instead of four, since AVX-512 has no shift of bytes. The sums of a group, sixteen
times too large, still fit 32 bits (32 * 255 * 128), and shifting them back is exact.
"""

from __future__ import annotations

from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.matmul.blocks import tiled
from tinydiff_kernels.matmul.descriptor import GROUP_SCALES, STEPS, TAP_COUNT, TAPS, WEIGHTS
from tinydiff_kernels.matmul.epilogue import dequantised_value, finisher
from tinydiff_kernels.matmul.int4 import wide_scales
from tinydiff_kernels.matmul.int8 import unsigned_32
from tinydiff_kernels.matmul.tiles import eight_addresses, eight_products
from tinydiff_kernels.simd import (
    Vector,
    combine,
    composed,
    i8x64,
    i8x128,
    i16x32,
    i32x32,
    i64,
    load,
    reinterpret,
    shift_left,
    shift_right,
    splat,
    store,
    zero,
)

HIGH_HALF = -16  # 0xF0
step = eight_products(i32x32, unsigned_32)


@composed(lambda *_: i8x128)
def low_weights(b: int, beside: int) -> Vector:
    """16 times the low halves of 64 bytes of two panels."""
    first, second = shift_left(load(i16x32, b, 0), 4), shift_left(load(i16x32, b + beside, 0), 4)
    mask = splat(i8x64, HIGH_HALF)
    return combine(reinterpret(i8x64, first) & mask, reinterpret(i8x64, second) & mask)


@composed(lambda *_: i8x128)
def high_weights(b: int, beside: int) -> Vector:
    mask = splat(i8x64, HIGH_HALF)
    return combine(load(i8x64, b, 0) & mask, load(i8x64, b + beside, 0) & mask)


@composed(nothing)
def add_scaled(sums: Vector, scales: Vector, place: int) -> None:
    store(place, 0, load(i32x32, place, 0) + shift_right(sums, 4) * scales)


@composed(nothing)
def multiply(desc: int, tile: int, panel: int, panels: int, scratch: int) -> None:
    """`[8, 32]` int32 in scratch. A last odd panel is multiplied twice."""
    rows = eight_addresses(desc, tile)
    taps, tap_count, steps = load(i64, desc, TAPS), load(i64, desc, TAP_COUNT), load(i64, desc, STEPS)
    panel_bytes, next_panel = 32 * steps * tap_count, min(1, panels - 1 - panel)
    b, beside = load(i64, desc, WEIGHTS) + panel_bytes * panel, panel_bytes * next_panel
    scale, scale_beside = load(i64, desc, GROUP_SCALES) + panel_bytes // 16 * panel, beside // 16
    none = zero(i32x32)
    for row in range(8):
        store(scratch, 128 * row, none)
    for t in range(tap_count):
        start = load(i64, taps, 8 * t)
        for group in range(start, start + 4 * steps, 32):
            sums = (none, none, none, none, none, none, none, none)
            for at in range(group, group + 32, 8):
                sums = step(rows, sums, at, low_weights(b, beside))
                sums = step(rows, sums, at + 4, high_weights(b, beside))
                b += 64
            c0, c1, c2, c3, c4, c5, c6, c7 = sums
            scales = combine(wide_scales(scale), wide_scales(scale + scale_beside))
            add_scaled(c0, scales, scratch)
            add_scaled(c1, scales, scratch + 128)
            add_scaled(c2, scales, scratch + 256)
            add_scaled(c3, scales, scratch + 384)
            add_scaled(c4, scales, scratch + 512)
            add_scaled(c5, scales, scratch + 640)
            add_scaled(c6, scales, scratch + 768)
            add_scaled(c7, scales, scratch + 896)
            scale += 16


_run = tiled(multiply, finisher(dequantised_value), 8, 2, 32)


def matmul_i4_wide(desc: int, counter: int, cancel: int) -> None:
    """Unsigned activations, tile 8 x 32: a step is 16 vpdpbusd, 10 loads and 2 or 4 operations on weights."""
    _run(desc, counter, cancel)
