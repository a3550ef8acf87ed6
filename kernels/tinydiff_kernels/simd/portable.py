"""Lowerings in plain LLVM vector IR: right on every CPU, and on most of them also the best code.

LLVM turns these into the machine's own instructions where it has them (`min` into minps, `narrow` into packs or
sqxtn). The instruction-set files hold only what LLVM does not find by itself.
"""

from __future__ import annotations

from collections.abc import Callable

from tinydiff_kernels._numba import ir
from tinydiff_kernels.simd.emit import I8, I16, I32, Emit, Value, constant, lanes_of, with_lanes


def by_kind(floats: str, integers: str) -> Callable[[Emit, Value, Value], Value]:
    """One of two builder methods, by the element's kind."""

    def lower(e: Emit, x: Value, y: Value) -> Value:
        return getattr(e.builder, floats if e.kind == "f" else integers)(x, y)

    return lower


add, sub, mul = by_kind("fadd", "add"), by_kind("fsub", "sub"), by_kind("fmul", "mul")


def div(e: Emit, x: Value, y: Value) -> Value:
    return e.builder.fdiv(x, y)


def neg(e: Emit, x: Value) -> Value:
    return e.builder.fneg(x) if e.kind == "f" else e.builder.neg(x)


def absolute(e: Emit, x: Value) -> Value:
    if e.kind == "f":
        return e.overloaded("llvm.fabs", x)
    return e.call(f"llvm.abs.v{lanes_of(x)}i{x.type.element.width}", x.type, x, ir.Constant(ir.IntType(1), 0))


def sqrt(e: Emit, x: Value) -> Value:
    return e.overloaded("llvm.sqrt", x)


def native_fma(e: Emit, x: Value, y: Value, z: Value) -> Value:
    return e.overloaded("llvm.fma", x, y, z)


def compare(sign: str) -> Callable[[Emit, Value, Value], Value]:
    """Comparison; with NaN it is false."""

    def lower(e: Emit, x: Value, y: Value) -> Value:
        if e.kind == "f":
            return e.builder.fcmp_ordered(sign, x, y)
        method = e.builder.icmp_signed if e.kind == "i" else e.builder.icmp_unsigned
        return method(sign, x, y)

    return lower


def select(e: Emit, mask: Value, x: Value, y: Value) -> Value:
    return e.builder.select(mask, x, y)


def smaller(e: Emit, x: Value, y: Value) -> Value:
    """For floats exactly `x < y ? x : y`, what minps does: y when either is NaN. Not IEEE minNum, on purpose."""
    if e.kind == "f":
        return e.builder.select(e.builder.fcmp_ordered("<", x, y), x, y)
    return e.overloaded("llvm.smin" if e.kind == "i" else "llvm.umin", x, y)


def larger(e: Emit, x: Value, y: Value) -> Value:
    """For floats exactly `x > y ? x : y`."""
    if e.kind == "f":
        return e.builder.select(e.builder.fcmp_ordered(">", x, y), x, y)
    return e.overloaded("llvm.smax" if e.kind == "i" else "llvm.umax", x, y)


def bitwise(method: str) -> Callable[[Emit, Value, Value], Value]:
    return lambda e, x, y: getattr(e.builder, method)(x, y)


def shift_left(e: Emit, x: Value, count: int) -> Value:
    return e.builder.shl(x, constant(x.type, count))


def shift_right(e: Emit, x: Value, count: int) -> Value:
    """Arithmetic for signed lanes, logical for unsigned ones."""
    return (e.builder.ashr if e.kind == "i" else e.builder.lshr)(x, constant(x.type, count))


# ---- lanes ----------------------------------------------------------------------------------------------


def reinterpret(e: Emit, x: Value) -> Value:
    return e.bits(x, e.result.ir)


def splat(e: Emit, scalar: Value) -> Value:
    return e.splat(e.result.ir, scalar)


def splat_lane(e: Emit, x: Value, lane: int) -> Value:
    return e.take(x, [lane] * lanes_of(x))


def get_lane(e: Emit, x: Value, lane: int) -> Value:
    return e.builder.extract_element(x, I32(lane))


def low_half(e: Emit, x: Value) -> Value:
    return e.part(x, 0, lanes_of(x) // 2)


def high_half(e: Emit, x: Value) -> Value:
    return e.part(x, 1, lanes_of(x) // 2)


def combine(e: Emit, x: Value, y: Value) -> Value:
    return e.both(x, y)


def _zip(e: Emit, x: Value, y: Value, start: int) -> Value:
    n = lanes_of(x)
    return e.shuffle(x, y, [lane for i in range(start, start + n // 2) for lane in (i, n + i)])


def zip_low(e: Emit, x: Value, y: Value) -> Value:
    return _zip(e, x, y, 0)


def zip_high(e: Emit, x: Value, y: Value) -> Value:
    return _zip(e, x, y, lanes_of(x) // 2)


def even_lanes(e: Emit, x: Value, y: Value) -> Value:
    return e.shuffle(x, y, range(0, 2 * lanes_of(x), 2))


def odd_lanes(e: Emit, x: Value, y: Value) -> Value:
    return e.shuffle(x, y, range(1, 2 * lanes_of(x), 2))


def fold(combine_two: Callable[[Emit, Value, Value], Value]) -> Callable[[Emit, Value], Value]:
    """Reduce by halves: lane i with lane i + n/2, and again. The order is part of the result's bits."""

    def lower(e: Emit, x: Value) -> Value:
        while lanes_of(x) > 1:
            half = lanes_of(x) // 2
            x = combine_two(e, e.part(x, 0, half), e.part(x, 1, half))
        return e.builder.extract_element(x, I32(0))

    return lower


sum_lanes, min_lanes, max_lanes = fold(add), fold(smaller), fold(larger)


# ---- between widths -------------------------------------------------------------------------------------


def widen(e: Emit, x: Value) -> Value:
    return e.extend(x, e.result.element.ir, e.kind)


def narrow(e: Emit, x: Value) -> Value:
    """Clamp to the narrower element's range, then drop the high bits."""
    low, high = (0, 2**e.result.element.bits - 1)
    if e.result.element.kind == "i":
        low, high = -(high + 1) // 2, high // 2
    if e.kind == "i":
        x = e.overloaded("llvm.smax", x, constant(x.type, low))
        x = e.overloaded("llvm.smin", x, constant(x.type, high))
    else:
        x = e.overloaded("llvm.umin", x, constant(x.type, high))
    return e.builder.trunc(x, e.result.ir)


def int_to_float(e: Emit, x: Value) -> Value:
    return e.builder.sitofp(x, e.result.ir)


def truncate_to_int(e: Emit, x: Value) -> Value:
    """The caller has brought x into range."""
    return e.builder.fptosi(x, e.result.ir)


# ---- products -------------------------------------------------------------------------------------------


def dot(e: Emit, acc: Value, x: Value, y: Value) -> Value:
    """Four products of bytes a lane, exact in 32 bits. Signedness comes from the types."""
    wide_x, wide_y = (e.extend(v, I32, t.element.kind) for v, t in zip((x, y), e.vectors[1:], strict=True))
    products = e.builder.mul(wide_x, wide_y)
    pairs = e.builder.add(e.even(products), e.odd(products))
    return e.builder.add(acc, e.builder.add(e.even(pairs), e.odd(pairs)))


def dot_pairs(e: Emit, acc: Value, x: Value, y: Value) -> Value:
    products = e.builder.mul(e.extend(x, I32, "i"), e.extend(y, I32, "i"))
    return e.builder.add(acc, e.builder.add(e.even(products), e.odd(products)))


def pair_products(e: Emit, x: Value, y: Value) -> Value:
    """u8 * i8 fits 16 bits; only the sum of two can saturate."""
    products = e.builder.mul(e.extend(x, I16, "u"), e.extend(y, I16, "i"))
    return e.overloaded("llvm.sadd.sat", e.even(products), e.odd(products))


def add_pairs(e: Emit, acc: Value, x: Value) -> Value:
    wide = e.extend(x, I32, "i")
    return e.builder.add(acc, e.builder.add(e.even(wide), e.odd(wide)))


def _products(e: Emit, x: Value, y: Value, index: int) -> Value:
    half = lanes_of(x) // 2
    x, y = (e.extend(e.part(v, index, half), I16, t.element.kind) for v, t in zip((x, y), e.vectors, strict=True))
    return e.builder.mul(x, y)


def mul_low(e: Emit, x: Value, y: Value) -> Value:
    """LLVM sees the extensions and uses smull (NEON) or vpmovsxbw + vpmullw (x86)."""
    return _products(e, x, y, 0)


def mul_high(e: Emit, x: Value, y: Value) -> Value:
    return _products(e, x, y, 1)


def outer_dot_with(inner: Callable[[Emit, Value, Value, Value], Value]) -> Callable[[Emit, Value, Value, Value], Value]:
    """Two rows of eight bytes times two rows of eight: groups of four are brought together and given to `inner`."""

    def block(e: Emit, acc: Value, x: Value, y: Value) -> Value:
        groups_x, groups_y = (e.bits(v, ir.VectorType(I32, 4)) for v in (x, y))
        for k in (0, 1):
            left = e.bits(e.take(groups_x, [k, k, 2 + k, 2 + k]), ir.VectorType(I8, 16))
            right = e.bits(e.take(groups_y, [k, 2 + k, k, 2 + k]), ir.VectorType(I8, 16))
            acc = inner(e, acc, left, right)
        return acc

    def lower(e: Emit, acc: Value, x: Value, y: Value) -> Value:
        return e.in_parts(lanes_of(x) // 16, lambda *parts: block(e, *parts), acc, x, y)

    return lower


def bfloat_to_float(e: Emit, x: Value) -> Value:
    """bfloat16 is the upper half of a float32."""
    wide = e.extend(x, I32, "u")
    return e.bits(e.builder.shl(wide, constant(wide.type, 16)), with_lanes(e.result.element.ir, x))
