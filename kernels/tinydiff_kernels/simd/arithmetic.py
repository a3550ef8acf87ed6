"""Arithmetic on vectors. Every function is exact to the bit on every path (NaN payloads excepted).

`x + y`, `x - y`, `x * y`, `x / y`, `-x`, `x & y`, `x | y`, `x ^ y`, `x < y`, `x <= y` and `x == y` are these
functions. Nothing is contracted: `x * y + z` rounds twice, `fma(x, y, z)` once.
"""

from __future__ import annotations

import operator
from typing import Any

from tinydiff_kernels._numba import extending
from tinydiff_kernels.simd.define import lowered, operation, refuse, same_floats, same_vectors
from tinydiff_kernels.simd.types import VectorType, mask_of

Type = Any


@operation
def add(x: Type, y: Type) -> Any:
    """x + y; integers wrap."""
    return lowered("add", same_vectors("add", x, y), x, y)


@operation
def sub(x: Type, y: Type) -> Any:
    """x - y; integers wrap."""
    return lowered("sub", same_vectors("sub", x, y), x, y)


@operation
def mul(x: Type, y: Type) -> Any:
    """x * y; integers keep the low bits."""
    return lowered("mul", same_vectors("mul", x, y), x, y)


@operation
def div(x: Type, y: Type) -> Any:
    """x / y of floats, IEEE 754."""
    return lowered("div", same_floats("div", x, y), x, y)


@operation
def neg(x: Type) -> Any:
    """-x; of floats the sign bit is flipped, also of zero and NaN."""
    return lowered("neg", same_vectors("neg", x, kinds="if"), x)


@operation
def absolute(x: Type) -> Any:
    """|x|; the most negative integer stays as it is."""
    return lowered("abs", same_vectors("absolute", x, kinds="if"), x)


@operation
def sqrt(x: Type) -> Any:
    """Square root of floats, IEEE 754."""
    return lowered("sqrt", same_floats("sqrt", x), x)


@operation
def fma(x: Type, y: Type, z: Type) -> Any:
    """x * y + z of floats, rounded once. A CPU without the instruction gets the same bits from float64 arithmetic."""
    return lowered("fma", same_floats("fma", x, y, z), x, y, z)


@operation
def minimum(x: Type, y: Type) -> Any:
    """`x < y ? x : y`: y when either is NaN, and of two zeros the second. So `minimum(bound, x)` keeps NaN."""
    return lowered("min", same_vectors("minimum", x, y), x, y)


@operation
def maximum(x: Type, y: Type) -> Any:
    """`x > y ? x : y`: y when either is NaN, and of two zeros the second. So `maximum(x, bound)` removes NaN."""
    return lowered("max", same_vectors("maximum", x, y), x, y)


@operation
def round_even(x: Type) -> Any:
    """To the nearest integer, half to even, as a float; infinities, NaN and -0 stay."""
    return lowered("round", same_floats("round_even", x), x)


@operation
def less(x: Type, y: Type) -> Any:
    """Mask of x < y; false with NaN."""
    return lowered("less", mask_of(same_vectors("less", x, y)), x, y)


@operation
def less_equal(x: Type, y: Type) -> Any:
    """Mask of x <= y; false with NaN."""
    return lowered("less_equal", mask_of(same_vectors("less_equal", x, y)), x, y)


@operation
def equal(x: Type, y: Type) -> Any:
    """Mask of x == y; false with NaN, so `equal(x, x)` is "is a number"."""
    return lowered("equal", mask_of(same_vectors("equal", x, y)), x, y)


@operation
def select(mask: Type, x: Type, y: Type) -> Any:
    """x where the mask is set, else y."""
    result = same_vectors("select", x, y)
    if mask != mask_of(result):
        raise refuse("select", "the mask must come from a comparison of as many lanes", mask, x, y)
    return lowered("select", result, mask, x, y)


@operation
def bit_and(x: Type, y: Type) -> Any:
    """x & y of integers or masks."""
    return lowered("and", same_vectors("bit_and", x, y, kinds="ium"), x, y)


@operation
def bit_or(x: Type, y: Type) -> Any:
    """x | y of integers or masks."""
    return lowered("or", same_vectors("bit_or", x, y, kinds="ium"), x, y)


@operation
def bit_xor(x: Type, y: Type) -> Any:
    """x ^ y of integers or masks."""
    return lowered("xor", same_vectors("bit_xor", x, y, kinds="ium"), x, y)


OPERATORS = {
    operator.add: ("add", "iuf"),
    operator.sub: ("sub", "iuf"),
    operator.mul: ("mul", "iuf"),
    operator.truediv: ("div", "f"),
    operator.and_: ("and", "ium"),
    operator.or_: ("or", "ium"),
    operator.xor: ("xor", "ium"),
    operator.lt: ("less", "iuf"),
    operator.le: ("less_equal", "iuf"),
    operator.eq: ("equal", "iuf"),
}


def _register_operator(symbol: Any, name: str, kinds: str) -> None:
    """Let Numba type and lower `x symbol y` of two vectors."""

    def result_type(x: Any, y: Any) -> Any:
        vec = same_vectors(name, x, y, kinds=kinds)
        return mask_of(vec) if name in ("less", "less_equal", "equal") else vec

    @extending.type_callable(symbol)  # type: ignore[untyped-decorator]
    def typing(_context: Any) -> Any:
        def typer(x: Any, y: Any) -> Any:
            return result_type(x, y) if isinstance(x, VectorType) or isinstance(y, VectorType) else None

        return typer

    @extending.lower_builtin(symbol, VectorType, VectorType)  # type: ignore[untyped-decorator]
    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, generate = lowered(name, signature.return_type, *signature.args)
        return generate(context, builder, signature, values)


def _register_negation() -> None:
    @extending.type_callable(operator.neg)  # type: ignore[untyped-decorator]
    def typing(_context: Any) -> Any:
        def typer(x: Any) -> Any:
            return same_vectors("neg", x, kinds="if") if isinstance(x, VectorType) else None

        return typer

    @extending.lower_builtin(operator.neg, VectorType)  # type: ignore[untyped-decorator]
    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, generate = lowered("neg", signature.return_type, *signature.args)
        return generate(context, builder, signature, values)


for _symbol, (_name, _kinds) in OPERATORS.items():
    _register_operator(_symbol, _name, _kinds)
_register_negation()
__all__ = [
    "absolute",
    "add",
    "bit_and",
    "bit_or",
    "bit_xor",
    "div",
    "equal",
    "fma",
    "less",
    "less_equal",
    "maximum",
    "minimum",
    "mul",
    "neg",
    "round_even",
    "select",
    "sqrt",
    "sub",
]
