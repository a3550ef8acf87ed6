"""What a lowering sees: an LLVM IR builder, the types of its call, and a few vector idioms.

A lowering is a function `(emit, *values) -> value` that writes LLVM IR. `emit.arguments` and `emit.result` are
the Numba types of the call, which know signedness (LLVM's integers do not).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinydiff_kernels._numba import cgutils, ir
from tinydiff_kernels.simd.target import Target
from tinydiff_kernels.simd.types import VectorType

Value = Any  # an llvmlite IR value
IRType = Any

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
LETTERS = {F16: "f16", F32: "f32", F64: "f64"}


def lanes_of(value: Value) -> int:
    return int(value.type.count)


def with_lanes(element: IRType, value: Value) -> IRType:
    """A vector of `element` with as many lanes as `value`."""
    return ir.VectorType(element, lanes_of(value))


def constant(vec: IRType, value: float) -> Value:
    """The same constant in every lane."""
    return ir.Constant(vec, [ir.Constant(vec.element, value)] * vec.count)


def suffix(vec: IRType) -> str:
    """How LLVM names a vector type in an overloaded intrinsic: v8f32, v16i8."""
    element = vec.element
    return f"v{vec.count}" + (f"i{element.width}" if isinstance(element, ir.IntType) else LETTERS[element])


class Emit:
    """One call being lowered."""

    def __init__(self, builder: Any, target: Target, result: Any, arguments: Sequence[Any]) -> None:
        self.builder = builder
        self.target = target
        self.result = result
        self.arguments = arguments

    @property
    def kind(self) -> str:
        """Kind of the first vector argument: "i", "u", "f" or "m"."""
        return self.vectors[0].element.kind

    @property
    def vectors(self) -> list[VectorType]:
        return [a for a in self.arguments if isinstance(a, VectorType)]

    def call(self, name: str, result: IRType, *values: Value) -> Value:
        """Call an intrinsic by its full name."""
        kind = ir.FunctionType(result, [v.type for v in values])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), values)

    def overloaded(self, name: str, *values: Value) -> Value:
        """Call an intrinsic that takes and returns vectors of one type."""
        return self.call(f"{name}.{suffix(values[0].type)}", values[0].type, *values)

    def shuffle(self, x: Value, y: Value, lanes: Sequence[int]) -> Value:
        """Lanes of x (0 to n-1) and y (n to 2n-1) in any order."""
        mask = ir.Constant(ir.VectorType(I32, len(lanes)), [I32(i) for i in lanes])
        return self.builder.shuffle_vector(x, y, mask)

    def take(self, x: Value, lanes: Sequence[int]) -> Value:
        """Lanes of one vector in any order."""
        return self.shuffle(x, ir.Constant(x.type, ir.Undefined), lanes)

    def splat(self, vec: IRType, scalar: Value) -> Value:
        undefined = ir.Constant(vec, ir.Undefined)
        return self.take(self.builder.insert_element(undefined, scalar, I32(0)), [0] * vec.count)

    def bits(self, x: Value, kind: IRType) -> Value:
        return self.builder.bitcast(x, kind)

    def extend(self, x: Value, element: IRType, kind: str) -> Value:
        """Widen integers: sign for "i", zeros for "u"."""
        widen = self.builder.sext if kind == "i" else self.builder.zext
        return widen(x, with_lanes(element, x))

    def both(self, x: Value, y: Value) -> Value:
        """Two vectors, one after the other."""
        return self.shuffle(x, y, range(2 * lanes_of(x)))

    def part(self, x: Value, index: int, lanes: int) -> Value:
        return self.take(x, range(index * lanes, (index + 1) * lanes))

    def even(self, x: Value) -> Value:
        return self.take(x, range(0, lanes_of(x), 2))

    def odd(self, x: Value) -> Value:
        return self.take(x, range(1, lanes_of(x), 2))

    def in_parts(self, count: int, lower: Callable[..., Value], *values: Value) -> Value:
        """Apply `lower` to each of `count` (a power of two) equal parts and put the results together."""
        if count == 1:
            return lower(*values)
        parts = [lower(*(self.part(v, i, lanes_of(v) // count) for v in values)) for i in range(count)]
        while len(parts) > 1:
            parts = [self.both(parts[i], parts[i + 1]) for i in range(0, len(parts), 2)]
        return parts[0]
