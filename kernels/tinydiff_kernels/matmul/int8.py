"""matmul_i8: the indirect matmul on quantised activations and int8 weights, exact in 32-bit integers.

    C[m, n] = act((sum q * w - zero[m] * colsum[n]) * (scale[m] * scale[n]) + bias[n] + table[m, n] + residual[m, n])

q are bytes with a zero point, one record (scale, zero) a row (linear) or an image (convolutions, whose padding is the
zero point); w are int8 packed in groups of four channels. On x86 q is unsigned (vpdpbusd; 16-bit products on AVX2);
on ARM it is signed, q - 128 with its zero point moved too (sdot, smmla). matmul_i8_limited is the same for weights
whose pairs keep |w[2i]| + |w[2i + 1]| <= 128, which AVX2 multiplies nearly twice as fast (vpmaddubsw). Reference:
`ref/quantise.py`. Depth: up to 33,000 channels times taps before 32 bits could overflow.

What was not finite when it was quantised has scale NaN: its row (or image), or its column, of C is NaN, and no other. A
scale of zero leaves bias, table and residual.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels.matmul.blocks import tiled
from tinydiff_kernels.matmul.epilogue import dequantised_value, finisher
from tinydiff_kernels.matmul.lanes import by_lane
from tinydiff_kernels.matmul.lanes_ahead import quads_ahead
from tinydiff_kernels.matmul.tiles import eight_rows, six_rows
from tinydiff_kernels.simd import (
    Vector,
    combine,
    composed,
    dot,
    dot_limited,
    i8x32,
    i8x64,
    i32x4,
    i32x8,
    i32x16,
    i32x32,
    load,
    load_group,
    load_in_order,
    reinterpret,
    splat_lane,
    u8x64,
    u8x128,
)


@composed(lambda sums, *_: sums)
def unsigned_16(sums: Vector, address: int, offset: int, weights: Vector) -> Vector:
    return dot(sums, load_group(u8x64, address, offset), weights)


@composed(lambda sums, *_: sums)
def limited_16(sums: Vector, address: int, offset: int, weights: Vector) -> Vector:
    return dot_limited(sums, load_group(u8x64, address, offset), weights)


@composed(lambda sums, *_: sums)
def unsigned_32(sums: Vector, address: int, offset: int, weights: Vector) -> Vector:
    return dot(sums, load_group(u8x128, address, offset), weights)


@composed(lambda sums, *_: sums)
def signed_8(sums: Vector, address: int, offset: int, weights: Vector) -> Vector:
    return dot(sums, load_group(i8x32, address, offset), weights)


@composed(lambda address: i8x64)
def byte_weights(address: int) -> Vector:
    return load(i8x64, address, 0)


@composed(lambda address: i8x32)
def half_of_weights(address: int) -> Vector:
    return load_in_order(i8x32, address, 0)


def lane_of_group(lane: int) -> Callable[..., Any]:
    """`accumulate(sums, row, weights)` by one of the four groups of four bytes of a row's register."""

    @composed(lambda sums, *_: sums)
    def dot_lane(sums: Vector, row: Vector, weights: Vector) -> Vector:
        group = splat_lane(row, lane)
        return dot(sums, weights, reinterpret(i8x32, combine(group, group)))

    return dot_lane


LANES = [lane_of_group(lane) for lane in range(4)]
_finish = finisher(dequantised_value)
_signed_quads = quads_ahead(i32x8, i32x4, LANES, half_of_weights, 32)
_signed_lanes = tiled(by_lane(i32x8, _signed_quads, signed_8, half_of_weights, 32), _finish, 8, 1)
_unsigned_6x16 = tiled(six_rows(i32x16, unsigned_16, byte_weights, 64), _finish, 6, 1, loop=True)
_limited_6x16 = tiled(six_rows(i32x16, limited_16, byte_weights, 64), _finish, 6, 1)
_unsigned_8x32 = tiled(eight_rows(i32x32, unsigned_32, byte_weights, 64), _finish, 8, 2)


def matmul_i8(desc: int, counter: int, cancel: int) -> None:
    """Tile 6 x 16 of unsigned activations: vpmaddwd on bytes 0 and 2, then 1 and 3 of every group on AVX2."""
    _unsigned_6x16(desc, counter, cancel)


def matmul_i8_limited(desc: int, counter: int, cancel: int) -> None:
    """Tile 6 x 16 of limited weights: a step is 12 x (vpmaddubsw, vpmaddwd, vpaddd) and 8 loads on AVX2."""
    _limited_6x16(desc, counter, cancel)


def matmul_i8_wide(desc: int, counter: int, cancel: int) -> None:
    """Tile 8 x 32 of unsigned activations: a step is 16 vpdpbusd and 10 loads on AVX-512."""
    _unsigned_8x32(desc, counter, cancel)


def matmul_i8_lanes(desc: int, counter: int, cancel: int) -> None:
    """Signed activations, tile 8 x 16 in two halves (ARM): four steps of one are 64 sdot by lane and 16 loads."""
    _signed_lanes(desc, counter, cancel)
