"""Between element types: widen, narrow with saturation, int and float, fp16 and bf16."""

from __future__ import annotations

from typing import Any

from tinydiff_kernels.simd.arithmetic import maximum, minimum, round_even
from tinydiff_kernels.simd.define import composed, lowered, operation, refuse, same_integers, same_vectors, vector_class
from tinydiff_kernels.simd.lanes import full_like
from tinydiff_kernels.simd.types import Vector, vector

Type = Any
LARGEST = 2147483520.0  # the largest float32 below 2**31
SMALLEST = -2147483648.0


@operation
def widen(kind: Type, x: Type) -> Any:
    """`widen(i32x8, x)`: integers to a wider element, by sign or by zeros as x's element says."""
    vec, source = vector_class("widen", kind), same_integers("widen", x)
    if vec.lanes != source.lanes or vec.element.bits <= source.element.bits or vec.element.kind == "f":
        raise refuse("widen", "the result needs as many lanes of a wider integer", vec, x)
    if source.element.kind == "i" and vec.element.kind == "u":
        raise refuse("widen", "signed lanes do not fit unsigned ones; reinterpret if that is meant", vec, x)
    return lowered("widen", vec, kind, x)


@operation
def narrow(kind: Type, x: Type) -> Any:
    """`narrow(u8x8, x)`: integers to a narrower element, saturating at its bounds."""
    vec, source = vector_class("narrow", kind), same_integers("narrow", x)
    if vec.lanes != source.lanes or vec.element.bits >= source.element.bits or vec.element.kind == "f":
        raise refuse("narrow", "the result needs as many lanes of a narrower integer", vec, x)
    return lowered("narrow", vec, kind, x)


@operation
def to_float(x: Type) -> Any:
    """i32 to f32, nearest even."""
    vec = same_vectors("to_float", x, kinds="i")
    if vec.element.bits != 32:
        raise refuse("to_float", "widen to i32 first", x)
    return lowered("int_to_float", vector("f32", vec.lanes), x)


@operation
def truncate_in_range(x: Type) -> Any:
    """f32 to i32 towards zero. Undefined beyond the range of int32: `to_int` is the safe one."""
    vec = same_vectors("truncate_in_range", x, kinds="f")
    return lowered("truncate_to_int", vector("i32", vec.lanes), x)


def _as_int(x: Any) -> Any:
    return vector("i32", same_vectors("to_int", x, kinds="f").lanes)


@composed(_as_int)
def to_int(x: Vector) -> Vector:
    """f32 to i32, nearest even, saturating at -2147483648 and 2147483520; NaN gives -2147483648.

    A signalling NaN, which arithmetic never makes, may give either bound.
    """
    bounded = minimum(maximum(x, full_like(x, SMALLEST)), full_like(x, LARGEST))
    return truncate_in_range(round_even(bounded))


@operation
def half_to_float(x: Type) -> Any:
    """fp16 bits (u16) to f32, exact. Signalling NaNs become quiet."""
    return lowered("half_to_float", vector("f32", _halves("half_to_float", x)), x)


@operation
def float_to_half(x: Type) -> Any:
    """f32 to fp16 bits (u16), nearest even, subnormals kept, infinity from 65520."""
    vec = same_vectors("float_to_half", x, kinds="f")
    return lowered("float_to_half", vector("u16", vec.lanes), x)


@operation
def bfloat_to_float(x: Type) -> Any:
    """bfloat16 bits (u16) to f32, exact."""
    return lowered("bfloat_to_float", vector("f32", _halves("bfloat_to_float", x)), x)


def _halves(name: str, x: Any) -> int:
    vec = same_vectors(name, x, kinds="u")
    if vec.element.bits != 16:
        raise refuse(name, "needs the 16 bits of each number as u16", x)
    return int(vec.lanes)
