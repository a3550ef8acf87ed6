"""How an operation becomes a function of kernels: a rule over types, checked at compile time, and a row of the table.

    @operation
    def fma(x, y, z):
        return lowered("fma", same_floats("fma", x, y, z), x, y, z)

`fma` is now callable inside compiled functions only. A rule that finds mismatched types raises Numba's
TypingError with a message in the words of this package.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

from tinydiff_kernels._numba import compiler, errors, extending, types
from tinydiff_kernels.simd.emit import Emit
from tinydiff_kernels.simd.table import TABLE, choose
from tinydiff_kernels.simd.target import target_of
from tinydiff_kernels.simd.types import VectorType

Rule = Callable[..., Any]
Operation = Callable[..., Any]
Lowered = tuple[Any, Callable[..., Any]]


def operation(rule: Rule, *, constants: bool = False) -> Operation:
    """Make `rule(*argument types) -> (signature, code generator)` callable in kernels under the rule's name."""

    def define(_context: Any, *arguments: Any) -> Any:
        return rule(*arguments)

    define.__name__, define.__qualname__ = rule.__name__, rule.__qualname__
    define.__doc__ = rule.__doc__
    context = inspect.Parameter("_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in inspect.signature(rule).parameters.values()]
    define.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    made: Operation = extending.intrinsic(prefer_literal=constants)(define)
    return made


def operation_with_constants(rule: Rule) -> Operation:
    """An operation with an argument that must be known at compile time (a lane, a shift count)."""
    return operation(rule, constants=True)


def lowered(name: str, result: Any, *arguments: Any, constants: tuple[int, ...] = ()) -> Lowered:
    """The signature of a call, and a code generator that takes its lowering from the table.

    Types and compile-time constants among the arguments carry no run-time value; `constants` are handed to the
    lowering after the values.
    """
    if name not in TABLE:
        raise KeyError(f"simd operation {name!r} has no row in the table")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        carried = [v for v, t in zip(values, arguments, strict=True) if not is_static(t)]
        target = target_of(context)
        return choose(name, target)(Emit(builder, target, result, arguments), *carried, *constants)

    return result(*arguments), generate


def is_static(kind: Any) -> bool:
    return isinstance(kind, (types.TypeRef, types.NumberClass, types.IntegerLiteral))


def composed(result: Callable[..., Any]) -> Callable[[Callable[..., Any]], Operation]:
    """An operation written in Python with other operations; `result(*argument types)` is its type.

    It is compiled for the target of its caller, so the same source serves the JIT and cross compilation
    (a jitted function would be compiled for this machine). LLVM inlines it where that pays.
    """

    def decorate(function: Callable[..., Any]) -> Operation:
        function.__qualname__ = _unique_name(function)

        def rule(*arguments: Any) -> Lowered:
            plain = tuple(types.unliteral(a) for a in arguments)
            signature = result(*plain)(*plain)

            def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                flags = compiler.Flags()
                flags.error_model = "numpy"
                callee = context.compile_subroutine(builder, function, signature, flags=flags)
                return context.call_internal(builder, callee.fndesc, signature, values)

            return signature, generate

        rule.__name__, rule.__qualname__ = function.__name__, function.__qualname__
        rule.__doc__ = function.__doc__
        rule.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return operation(rule)

    return decorate


def _unique_name(function: Callable[..., Any]) -> str:
    """The qualified name, and for a closure a hash of what it closes over.

    Numba's symbols are made of the qualified name, the types and a count of this process. Kernels that were compiled
    and kept by different processes meet in one: closures of one factory need names of their own, or one's code would
    be called as another's.
    """
    if not function.__closure__:
        return function.__qualname__
    parts = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__, strict=True):
        inner = getattr(cell.cell_contents, "_defn", None)
        parts.append(f"{name}={cell.cell_contents!r}" if inner is None else f"{name}={inner.__qualname__}")
    return f"{function.__qualname__}_{hashlib.sha256(';'.join(parts).encode()).hexdigest()[:12]}"


# ---- rules over types -----------------------------------------------------------------------------------


def refuse(name: str, expected: str, *arguments: Any) -> Exception:
    given = ", ".join(str(a) for a in arguments)
    made: Exception = errors.TypingError(f"simd.{name}({given}): {expected}")
    return made


def same_vectors(name: str, *arguments: Any, kinds: str = "iuf") -> Any:
    """All arguments are one vector type whose element is of the kinds given; that type."""
    first = arguments[0]
    if not isinstance(first, VectorType) or first.element.kind not in kinds:
        words = {"i": "signed", "u": "unsigned", "f": "float", "m": "mask"}
        raise refuse(name, f"needs vectors of {' or '.join(words[k] for k in kinds)} elements", *arguments)
    if any(a != first for a in arguments):
        raise refuse(name, "all vectors must have the same type; widen, narrow or reinterpret first", *arguments)
    return first


def same_floats(name: str, *arguments: Any) -> Any:
    return same_vectors(name, *arguments, kinds="f")


def same_integers(name: str, *arguments: Any) -> Any:
    return same_vectors(name, *arguments, kinds="iu")


def vector_class(name: str, given: Any) -> Any:
    """The vector type that a type argument names: the `f32x8` of `zero(f32x8)`."""
    if not isinstance(given, types.TypeRef) or not isinstance(given.instance_type, VectorType):
        raise refuse(name, "the first argument must be a vector type such as f32x8", given)
    return given.instance_type


def constant_of(name: str, given: Any, low: int, high: int) -> int:
    """A compile-time integer in [low, high)."""
    if not isinstance(given, types.IntegerLiteral):
        raise refuse(name, "this argument must be a constant, written as a number", given)
    value = int(given.literal_value)
    if not low <= value < high:
        raise refuse(name, f"the constant must be in [{low}, {high})", given)
    return value
