"""Kernels that mix up vector types do not compile, and the message says why in this package's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from numba import njit
from numba.core.errors import TypingError

from tinydiff_kernels import simd
from tinydiff_kernels.simd import define, f32x4, f32x8, i8x16, i16x16, i32x4, i32x8, u8x8, u8x16, vector
from tinydiff_kernels.simd.types import VectorType


def mixed_lanes(p: int) -> None:
    simd.store(p, 0, simd.fma(simd.zero(f32x8), simd.zero(f32x4), simd.zero(f32x8)))


def mixed_elements(p: int) -> None:
    simd.store(p, 0, simd.zero(f32x8) + simd.zero(i32x8))


def scalar_operand(p: int) -> None:
    simd.store(p, 0, simd.zero(f32x8) * 2.0)


def integer_square_root(p: int) -> None:
    simd.store(p, 0, simd.sqrt(simd.zero(i32x8)))


def not_a_type(p: int) -> None:
    simd.store(p, 0, simd.load(8, p, 0))


def float_address(p: int) -> None:
    simd.store(1.5, 0, simd.zero(f32x8))


def dot_of_wrong_width(p: int) -> None:
    simd.store(p, 0, simd.dot(simd.zero(i32x8), simd.zero(u8x16), simd.zero(i8x16)))


def dot_of_wrong_signs(p: int) -> None:
    simd.store(p, 0, simd.dot(simd.zero(i32x4), simd.zero(i8x16), simd.zero(u8x16)))


def narrow_to_wider(p: int) -> None:
    simd.store(p, 0, simd.narrow(i32x8, simd.load(u8x8, p, 0)))


def reinterpret_other_size(p: int) -> None:
    simd.store(p, 0, simd.reinterpret(f32x4, simd.zero(i16x16)))


def lane_out_of_range(p: int) -> None:
    simd.store(p, 0, simd.splat_lane(simd.zero(f32x8), 8))


def lane_not_constant(p: int) -> None:
    simd.store(p, 0, simd.splat_lane(simd.zero(f32x8), p))


def select_without_mask(p: int) -> None:
    simd.store(p, 0, simd.select(simd.zero(f32x8), simd.zero(f32x8), simd.zero(f32x8)))


def float_in_integers(p: int) -> None:
    simd.store(p, 0, simd.splat(i32x8, 0.5))


REFUSED: list[tuple[Callable[[int], None], str]] = [
    (mixed_lanes, r"simd.fma\(f32x8, f32x4, f32x8\): all vectors must have the same type"),
    (mixed_elements, r"simd.add\(f32x8, i32x8\): all vectors must have the same type"),
    (scalar_operand, r"simd.mul\(f32x8, float64\): all vectors must have the same type"),
    (integer_square_root, r"simd.sqrt\(i32x8\): needs vectors of float elements"),
    (not_a_type, r"simd.load\(.*\): the first argument must be a vector type"),
    (float_address, r"simd.store\(float64, .*\): address and offset must be integers"),
    (dot_of_wrong_width, r"simd.dot\(i32x8, u8x16, i8x16\): needs an i32 accumulator"),
    (dot_of_wrong_signs, r"simd.dot\(i32x4, i8x16, u8x16\): signs must be one of ui, ii, uu"),
    (narrow_to_wider, r"simd.narrow\(i32x8, u8x8\): the result needs as many lanes of a narrower integer"),
    (reinterpret_other_size, r"simd.reinterpret\(f32x4, i16x16\): both types must have the same number of bytes"),
    (lane_out_of_range, r"simd.splat_lane\(.*\): the constant must be in \[0, 8\)"),
    (lane_not_constant, r"simd.splat_lane\(int64\): this argument must be a constant"),
    (select_without_mask, r"simd.select\(.*\): the mask must come from a comparison"),
    (float_in_integers, r"simd.splat\(i32x8, float64\): a float cannot fill an integer vector"),
]


@pytest.mark.parametrize(("kernel", "message"), REFUSED, ids=[k.__name__ for k, _ in REFUSED])
def test_mismatched_types_do_not_compile(kernel: Any, message: str) -> None:
    with pytest.raises(TypingError, match=message):
        njit("void(int64)")(kernel)


def test_vector_types_are_equal_by_element_and_lanes() -> None:
    assert vector("f32", 8) == f32x8
    assert vector("f32", 8) != f32x4
    assert isinstance(f32x8, VectorType)
    assert (f32x8.nbytes, str(f32x8)) == (32, "f32x8")


@pytest.mark.parametrize(("element", "lanes"), [("f32", 3), ("f32", 128), ("i8", 2), ("u16", 256)])
def test_widths_that_no_kernel_uses_are_refused(element: str, lanes: int) -> None:
    with pytest.raises(ValueError, match=f"{element}x{lanes} is not"):
        vector(element, lanes)


def test_an_operation_without_a_row_is_an_error() -> None:
    with pytest.raises(KeyError, match="has no row in the table"):
        define.lowered("no such operation", f32x8)
