"""Making vectors, moving lanes, reducing. All of these move bits only, but for the sums."""

from __future__ import annotations

from typing import Any

from tinydiff_kernels._numba import ir, types
from tinydiff_kernels.simd.define import (
    constant_of,
    lowered,
    operation,
    operation_with_constants,
    refuse,
    same_integers,
    same_vectors,
    vector_class,
)
from tinydiff_kernels.simd.types import VectorType, vector

Type = Any


def _filled(vec: VectorType, first: Any, scalar: Any) -> Any:
    """(type or like, scalar) -> vector of the scalar, converted to the element type."""
    if not isinstance(scalar, (types.Integer, types.Float)):
        raise refuse("splat", "the value must be a number", vec, scalar)
    if isinstance(scalar, types.Float) and vec.element.kind != "f":
        raise refuse("splat", "a float cannot fill an integer vector", vec, scalar)
    element = scalar_of(vec)
    _, generate = lowered("splat", vec, element)

    def convert(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        number = context.cast(builder, values[1], scalar, element)
        return generate(context, builder, signature, [number])

    return vec(first, scalar), convert


@operation
def splat(kind: Type, scalar: Type) -> Any:
    """`splat(f32x8, s)`: s in every lane. A Python float is rounded to float32."""
    return _filled(vector_class("splat", kind), kind, scalar)


@operation
def full_like(x: Type, scalar: Type) -> Any:
    """`full_like(x, s)`: s in every lane of a vector of x's type."""
    return _filled(same_vectors("full_like", x), x, scalar)


@operation
def zero(kind: Type) -> Any:
    """`zero(i32x8)`: all lanes zero."""
    vec = vector_class("zero", kind)
    return vec(kind), lambda context, builder, signature, values: ir.Constant(vec.ir, None)


@operation
def reinterpret(kind: Type, x: Type) -> Any:
    """The same bits as another vector type of as many bytes."""
    vec = vector_class("reinterpret", kind)
    if same_vectors("reinterpret", x).nbytes != vec.nbytes:
        raise refuse("reinterpret", "both types must have the same number of bytes", vec, x)
    return lowered("reinterpret", vec, kind, x)


@operation
def bits_of(x: Type) -> Any:
    """The bits of f32 lanes as i32."""
    vec = vector("i32", same_vectors("bits_of", x, kinds="f").lanes)
    return lowered("reinterpret", vec, x)


@operation
def float_of(x: Type) -> Any:
    """i32 lanes as the f32 whose bits they are."""
    vec = same_vectors("float_of", x, kinds="i")
    if vec.element.bits != 32:
        raise refuse("float_of", "needs i32 lanes", x)
    return lowered("reinterpret", vector("f32", vec.lanes), x)


@operation_with_constants
def splat_lane(x: Type, lane: Type) -> Any:
    """Lane number `lane` (a constant) in every lane."""
    vec = same_vectors("splat_lane", x)
    index = constant_of("splat_lane", lane, 0, vec.lanes)
    return lowered("splat_lane", vec, x, lane, constants=(index,))


@operation_with_constants
def get_lane(x: Type, lane: Type) -> Any:
    """Lane number `lane` (a constant) as a scalar."""
    vec = same_vectors("get_lane", x)
    index = constant_of("get_lane", lane, 0, vec.lanes)
    return lowered("get_lane", scalar_of(vec), x, lane, constants=(index,))


@operation_with_constants
def shift_left(x: Type, count: Type) -> Any:
    """x << count (a constant) of integers."""
    vec = same_integers("shift_left", x)
    amount = constant_of("shift_left", count, 0, vec.element.bits)
    return lowered("shift_left", vec, x, count, constants=(amount,))


@operation_with_constants
def shift_right(x: Type, count: Type) -> Any:
    """x >> count (a constant): arithmetic for signed elements, logical for unsigned ones."""
    vec = same_integers("shift_right", x)
    amount = constant_of("shift_right", count, 0, vec.element.bits)
    return lowered("shift_right", vec, x, count, constants=(amount,))


@operation
def low_half(x: Type) -> Any:
    """The first half of the lanes."""
    return lowered("low_half", _half(same_vectors("low_half", x)), x)


@operation
def high_half(x: Type) -> Any:
    """The second half of the lanes."""
    return lowered("high_half", _half(same_vectors("high_half", x)), x)


@operation
def combine(x: Type, y: Type) -> Any:
    """The lanes of x, then those of y."""
    vec = same_vectors("combine", x, y)
    return lowered("combine", vector(vec.element.name, 2 * vec.lanes), x, y)


@operation
def zip_low(x: Type, y: Type) -> Any:
    """x0 y0 x1 y1 ... from the first halves."""
    return lowered("zip_low", same_vectors("zip_low", x, y), x, y)


@operation
def zip_high(x: Type, y: Type) -> Any:
    """The same from the second halves."""
    return lowered("zip_high", same_vectors("zip_high", x, y), x, y)


@operation
def even_lanes(x: Type, y: Type) -> Any:
    """x0 x2 ... y0 y2 ...: undoes zip, first part."""
    return lowered("even_lanes", same_vectors("even_lanes", x, y), x, y)


@operation
def odd_lanes(x: Type, y: Type) -> Any:
    """x1 x3 ... y1 y3 ...: undoes zip, second part."""
    return lowered("odd_lanes", same_vectors("odd_lanes", x, y), x, y)


@operation
def sum_lanes(x: Type) -> Any:
    """Sum of all lanes, by halves: lane i + lane i + n/2, and again. In f32x16 that is one order on every path."""
    vec = same_vectors("sum_lanes", x)
    return lowered("sum_lanes", scalar_of(vec), x)


@operation
def min_lanes(x: Type) -> Any:
    """Smallest lane, by halves, each as `minimum`."""
    vec = same_vectors("min_lanes", x)
    return lowered("min_lanes", scalar_of(vec), x)


@operation
def max_lanes(x: Type) -> Any:
    """Largest lane, by halves, each as `maximum`."""
    vec = same_vectors("max_lanes", x)
    return lowered("max_lanes", scalar_of(vec), x)


def scalar_of(vec: VectorType) -> Any:
    """Numba's scalar type of a vector's elements."""
    return (
        types.float32
        if vec.element.kind == "f"
        else types.Integer.from_bitwidth(vec.element.bits, vec.element.kind == "i")
    )


def _half(vec: VectorType) -> VectorType:
    return vector(vec.element.name, vec.lanes // 2)


__all__ = [
    "bits_of",
    "combine",
    "even_lanes",
    "float_of",
    "full_like",
    "get_lane",
    "high_half",
    "low_half",
    "max_lanes",
    "min_lanes",
    "odd_lanes",
    "reinterpret",
    "scalar_of",
    "shift_left",
    "shift_right",
    "splat",
    "splat_lane",
    "sum_lanes",
    "zero",
    "zip_high",
    "zip_low",
]
