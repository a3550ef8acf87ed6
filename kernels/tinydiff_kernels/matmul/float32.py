"""matmul_f32, matmul_f16: the indirect matmul in float32, weights stored as float32 or half precision.

C[m, n] = act(sum A * B + bias + table + residual); fields and layouts in `descriptor.py` and `packing.py`, tiles in
`tiles.py`, epilogue in `epilogue.py`. Reference: `ref/matmul.py`, `ref/conv.py`; a chain of fma of K terms. A step
reads 64 bytes of B (32 as halves, widened exactly) and 4 bytes of each row of A.

NaN and infinity go where IEEE arithmetic takes them: from a pixel of A to the rows whose taps see it, from a column of
B to its column, to no other. All activations keep NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels.matmul.blocks import tiled
from tinydiff_kernels.matmul.epilogue import finisher, float_value
from tinydiff_kernels.matmul.lanes import by_lane, quads_by_lane
from tinydiff_kernels.matmul.tiles import eight_rows, six_rows
from tinydiff_kernels.simd import (
    Vector,
    combine,
    composed,
    f32x4,
    f32x8,
    f32x16,
    f32x32,
    fma,
    half_to_float,
    load,
    load_splat,
    splat_lane,
    u16x8,
    u16x16,
)


@composed(lambda sums, *_: sums)
def multiply_add_16(sums: Vector, address: int, offset: int, weights: Vector) -> Vector:
    return fma(load_splat(f32x16, address, offset), weights, sums)


@composed(lambda sums, *_: sums)
def multiply_add_8(sums: Vector, address: int, offset: int, weights: Vector) -> Vector:
    return fma(load_splat(f32x8, address, offset), weights, sums)


@composed(lambda sums, *_: sums)
def multiply_add_32(sums: Vector, address: int, offset: int, weights: Vector) -> Vector:
    return fma(load_splat(f32x32, address, offset), weights, sums)


@composed(lambda address: f32x16)
def float_weights(address: int) -> Vector:
    return load(f32x16, address, 0)


@composed(lambda address: f32x16)
def half_weights(address: int) -> Vector:
    return half_to_float(load(u16x16, address, 0))


@composed(lambda address: f32x8)
def eight_floats(address: int) -> Vector:
    return load(f32x8, address, 0)


@composed(lambda address: f32x8)
def eight_halves(address: int) -> Vector:
    return half_to_float(load(u16x8, address, 0))


def lane_of_float(lane: int) -> Callable[..., Any]:
    """`accumulate(sums, row, weights)` by one of the four floats of a row's register."""

    @composed(lambda sums, *_: sums)
    def multiply_add_lane(sums: Vector, row: Vector, weights: Vector) -> Vector:
        value = splat_lane(row, lane)
        return fma(combine(value, value), weights, sums)

    return multiply_add_lane


_LANES = [lane_of_float(lane) for lane in range(4)]
_finish = finisher(float_value)
_f32_quads = quads_by_lane(f32x8, f32x4, _LANES, eight_floats, 32)
_f16_quads = quads_by_lane(f32x8, f32x4, _LANES, eight_halves, 16)
_f32_lanes = tiled(by_lane(f32x8, _f32_quads, multiply_add_8, eight_floats, 32), _finish, 8, 1)
_f16_lanes = tiled(by_lane(f32x8, _f16_quads, multiply_add_8, eight_halves, 16), _finish, 8, 1, 32)
_f32_6x16 = tiled(six_rows(f32x16, multiply_add_16, float_weights, 64), _finish, 6, 1)
_f32_8x32 = tiled(eight_rows(f32x32, multiply_add_32, float_weights, 64), _finish, 8, 2)
_f16_6x16 = tiled(six_rows(f32x16, multiply_add_16, half_weights, 32), _finish, 6, 1, 32)
_f16_8x32 = tiled(eight_rows(f32x32, multiply_add_32, half_weights, 32), _finish, 8, 2, 32)


def matmul_f32(desc: int, counter: int, cancel: int) -> None:
    """Tile 6 x 16: a step is 12 fma and 8 loads on AVX2."""
    _f32_6x16(desc, counter, cancel)


def matmul_f32_wide(desc: int, counter: int, cancel: int) -> None:
    """Tile 8 x 32: a step is 16 fma and 10 loads on AVX-512."""
    _f32_8x32(desc, counter, cancel)


def matmul_f16(desc: int, counter: int, cancel: int) -> None:
    """Tile 6 x 16, weights in half precision."""
    _f16_6x16(desc, counter, cancel)


def matmul_f16_wide(desc: int, counter: int, cancel: int) -> None:
    """Tile 8 x 32, weights in half precision."""
    _f16_8x32(desc, counter, cancel)


def matmul_f32_lanes(desc: int, counter: int, cancel: int) -> None:
    """Tile 8 x 16 in two halves on NEON: four steps of one are 64 fmla by lane and 16 loads."""
    _f32_lanes(desc, counter, cancel)


def matmul_f16_lanes(desc: int, counter: int, cancel: int) -> None:
    """The same, weights in half precision."""
    _f16_lanes(desc, counter, cancel)
