"""matmul_i4 on 64-bit ARM with dot products: a tile of 8 x 16 in two halves, as `lanes.py` explains.

As `int4.py`, with the same packed weights. Three shifts take 16 bytes of them apart, for eight rows: 12 beside 64 sdot.
"""

from __future__ import annotations

from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.matmul.blocks import tiled
from tinydiff_kernels.matmul.descriptor import GROUP_SCALES, STEPS, TAP_COUNT, TAPS, WEIGHTS
from tinydiff_kernels.matmul.epilogue import dequantised_value, finisher
from tinydiff_kernels.matmul.int8 import LANES
from tinydiff_kernels.matmul.lanes import eight_loads, eight_rows_by_lane, eight_zeros, moved
from tinydiff_kernels.matmul.tiles import eight_addresses
from tinydiff_kernels.simd import (
    Vector,
    composed,
    i8x32,
    i16x16,
    i32x4,
    i32x8,
    i32x16,
    i64,
    load,
    load_in_order,
    reinterpret,
    shift_left,
    shift_right,
    store,
    u8x8,
    widen,
    zero,
)

zeros, quads = eight_zeros(i32x8), eight_loads(i32x4)
lane_0, lane_1, lane_2, lane_3 = (eight_rows_by_lane(i32x8, lane) for lane in LANES)


@composed(lambda address: i8x32)
def two_steps(address: int) -> Vector:
    return load_in_order(i8x32, address, 0)


@composed(lambda packed: i8x32)
def low_weights(packed: Vector) -> Vector:
    """The low halves of 32 bytes as signed numbers: shifted up within 16 bits, then down within 8."""
    return shift_right(reinterpret(i8x32, shift_left(reinterpret(i16x16, packed), 4)), 4)


@composed(lambda packed: i8x32)
def high_weights(packed: Vector) -> Vector:
    return shift_right(packed, 4)


@composed(nothing)
def add_scaled(sums: Vector, scales: Vector, place: int) -> None:
    store(place, 0, load(i32x8, place, 0) + sums * scales)


@composed(nothing)
def multiply(desc: int, tile: int, panel: int, panels: int, scratch: int) -> None:
    """`[8, 16]` int32 in scratch."""
    rows = eight_addresses(desc, tile)
    taps, tap_count, steps = load(i64, desc, TAPS), load(i64, desc, TAP_COUNT), load(i64, desc, STEPS)
    for row in range(8):
        store(scratch, 64 * row, zero(i32x16))
    for half in range(2):
        b = load(i64, desc, WEIGHTS) + 32 * steps * tap_count * panel + 32 * half
        scale = load(i64, desc, GROUP_SCALES) + 2 * steps * tap_count * panel + 8 * half
        place = scratch + 32 * half
        for t in range(tap_count):
            inputs = moved(rows, load(i64, taps, 8 * t))
            for group in range(0, 4 * steps, 32):
                sums = zeros()
                for at in range(group, group + 32, 16):
                    r, w, x = quads(inputs, at), two_steps(b), two_steps(b + 64)
                    sums = lane_1(r, sums, high_weights(w))  # ready first: one shift, not two
                    sums = lane_0(r, sums, low_weights(w))
                    sums = lane_3(r, sums, high_weights(x))
                    sums = lane_2(r, sums, low_weights(x))
                    b += 128
                s = widen(i32x8, load(u8x8, scale, 0))
                c0, c1, c2, c3, c4, c5, c6, c7 = sums
                add_scaled(c0, s, place)
                add_scaled(c1, s, place + 64)
                add_scaled(c2, s, place + 128)
                add_scaled(c3, s, place + 192)
                add_scaled(c4, s, place + 256)
                add_scaled(c5, s, place + 320)
                add_scaled(c6, s, place + 384)
                add_scaled(c7, s, place + 448)
                scale += 16


_run = tiled(multiply, finisher(dequantised_value), 8, 1, 32)


def matmul_i4_lanes(desc: int, counter: int, cancel: int) -> None:
    """Signed activations, sums in 32 bits."""
    _run(desc, counter, cancel)
