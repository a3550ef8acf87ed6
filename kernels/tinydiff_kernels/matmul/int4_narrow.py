"""matmul_i4 on AVX2: the sums of a group in 16 bits.

As `int4.py`, with the same packed weights. vpmaddubsw makes sums of two products, and eight of those fit 16
bits: 8 * 2 * 255 * 8 = 32640. vpmaddwd then scales, widens and adds pairs in one. The tile is two halves of 6 x 8:
LLVM makes all products of a group before it adds any, so that 6 x 16, twelve registers of sums, would be spilled.
"""

from __future__ import annotations

from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.matmul.blocks import tiled
from tinydiff_kernels.matmul.descriptor import GROUP_SCALES, INPUT, ROWS, STEPS, TAP_COUNT, TAPS, WEIGHTS
from tinydiff_kernels.matmul.epilogue import dequantised_value, finisher
from tinydiff_kernels.simd import (
    Vector,
    composed,
    dot_pairs,
    i8x32,
    i16x16,
    i32x8,
    i32x16,
    i64,
    load,
    load_group,
    pair_products,
    reinterpret,
    shift_left,
    shift_right,
    splat,
    store,
    u8x8,
    u8x32,
    u16x16,
    widen,
    zero,
)

SIGNS = 0x88  # half a byte with its sign turned, as a number without a sign, is eight more than it was


@composed(lambda sums, *_: sums)
def add_products(sums: Vector, address: int, offset: int, weights: Vector) -> Vector:
    return sums + pair_products(load_group(u8x32, address, offset), weights)


@composed(lambda halves: i8x32)
def low_weights(halves: Vector) -> Vector:
    """The low halves of 32 bytes, of which the signs have been turned: AVX2 has no shift of bytes that keeps signs."""
    return reinterpret(i8x32, (halves & splat(u8x32, 0x0F)) - splat(u8x32, 8))


@composed(lambda halves: i8x32)
def high_weights(halves: Vector) -> Vector:
    return low_weights(reinterpret(u8x32, shift_right(reinterpret(u16x16, halves), 4)))


@composed(lambda address: i16x16)
def paired_scales(address: int) -> Vector:
    """Each of eight columns' scale twice: once for each pair of products."""
    scales = widen(i32x8, load(u8x8, address, 0))
    return reinterpret(i16x16, scales | shift_left(scales, 16))


@composed(nothing)
def add_scaled(sums: Vector, scales: Vector, place: int) -> None:
    store(place, 0, dot_pairs(load(i32x8, place, 0), sums, scales))


@composed(nothing)
def multiply(desc: int, tile: int, panel: int, panels: int, scratch: int) -> None:
    """`[6, 16]` int32 in scratch."""
    base, rows = load(i64, desc, INPUT), load(i64, desc, ROWS) + 48 * tile
    a0, a1, a2 = base + load(i64, rows, 0), base + load(i64, rows, 8), base + load(i64, rows, 16)
    a3, a4, a5 = base + load(i64, rows, 24), base + load(i64, rows, 32), base + load(i64, rows, 40)
    taps, tap_count, steps = load(i64, desc, TAPS), load(i64, desc, TAP_COUNT), load(i64, desc, STEPS)
    for row in range(6):
        store(scratch, 64 * row, zero(i32x16))
    for half in range(0, 64, 32):
        b = load(i64, desc, WEIGHTS) + 32 * steps * tap_count * panel + half
        scale = load(i64, desc, GROUP_SCALES) + 2 * steps * tap_count * panel + half // 4
        for t in range(tap_count):
            start = load(i64, taps, 8 * t)
            for group in range(start, start + 4 * steps, 32):
                c0, c1, c2 = zero(i16x16), zero(i16x16), zero(i16x16)
                c3, c4, c5 = zero(i16x16), zero(i16x16), zero(i16x16)
                for at in range(group, group + 32, 8):
                    halves = load(u8x32, b, 0) ^ splat(u8x32, SIGNS)
                    low, high = low_weights(halves), high_weights(halves)
                    c0 = add_products(add_products(c0, a0, at, low), a0, at + 4, high)
                    c1 = add_products(add_products(c1, a1, at, low), a1, at + 4, high)
                    c2 = add_products(add_products(c2, a2, at, low), a2, at + 4, high)
                    c3 = add_products(add_products(c3, a3, at, low), a3, at + 4, high)
                    c4 = add_products(add_products(c4, a4, at, low), a4, at + 4, high)
                    c5 = add_products(add_products(c5, a5, at, low), a5, at + 4, high)
                    b += 64
                scales = paired_scales(scale)
                add_scaled(c0, scales, scratch + half)
                add_scaled(c1, scales, scratch + half + 64)
                add_scaled(c2, scales, scratch + half + 128)
                add_scaled(c3, scales, scratch + half + 192)
                add_scaled(c4, scales, scratch + half + 256)
                add_scaled(c5, scales, scratch + half + 320)
                scale += 16


_run = tiled(multiply, finisher(dequantised_value), 6, 1, 32)


def matmul_i4_narrow(desc: int, counter: int, cancel: int) -> None:
    """Unsigned activations, tile 6 x 16 in two halves."""
    _run(desc, counter, cancel)
