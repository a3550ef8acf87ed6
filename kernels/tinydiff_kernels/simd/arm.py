"""Lowerings to NEON instructions that LLVM does not find by itself: the dot products. All work on 16 bytes."""

from __future__ import annotations

from tinydiff_kernels._numba import ir
from tinydiff_kernels.simd.emit import I16, I32, Emit, Value, constant, lanes_of

V4, V16 = "v4i32", "v16i8"


def _in_parts(e: Emit, name: str, acc: Value, x: Value, y: Value) -> Value:
    """One of the instructions (acc, 16 bytes, 16 bytes) -> acc, on each 16 bytes."""
    full = f"llvm.aarch64.neon.{name}.{V4}.{V16}"
    return e.in_parts(max(1, lanes_of(x) // 16), lambda a, p, q: e.call(full, a.type, a, p, q), acc, x, y)


def dotprod_dot(e: Emit, acc: Value, x: Value, y: Value) -> Value:
    """sdot and udot. u8 * i8 = (x - 128) * y + (64 + 64) * y: kernels that know sum(y) should give i8 instead."""
    kinds = "".join(t.element.kind for t in e.vectors[1:])
    if kinds != "ui":
        return _in_parts(e, "udot" if kinds == "uu" else "sdot", acc, x, y)
    half = constant(x.type, 64)
    total = _in_parts(e, "sdot", acc, e.builder.xor(x, constant(x.type, 0x80)), y)
    return _in_parts(e, "sdot", _in_parts(e, "sdot", total, half, y), half, y)


def i8mm_dot(e: Emit, acc: Value, x: Value, y: Value) -> Value:
    """usdot for mixed signs, else sdot and udot."""
    kinds = "".join(t.element.kind for t in e.vectors[1:])
    return _in_parts(e, {"ui": "usdot", "ii": "sdot", "uu": "udot"}[kinds], acc, x, y)


def neon_dot(e: Emit, acc: Value, x: Value, y: Value) -> Value:
    """Cortex-A53 and A72: products in 16 bits (they fit), added pairwise twice (saddlp or uaddlp, then addp)."""
    kinds = "".join(t.element.kind for t in e.vectors[1:])
    pairwise = "llvm.aarch64.neon." + ("uaddlp" if kinds == "uu" else "saddlp") + ".v4i32.v8i16"

    def lower(acc: Value, x: Value, y: Value) -> Value:
        halves = []
        for index in (0, 1):
            wide = [e.extend(e.part(v, index, 8), I16, kind) for v, kind in zip((x, y), kinds, strict=True)]
            halves.append(e.call(pairwise, ir.VectorType(I32, 4), e.builder.mul(*wide)))
        return e.builder.add(acc, e.overloaded("llvm.aarch64.neon.addp", *halves))

    return e.in_parts(lanes_of(x) // 16, lower, acc, x, y)


def neon_add_pairs(e: Emit, acc: Value, x: Value) -> Value:
    """sadalp: LLVM joins the pairwise addition and the accumulation."""

    def lower(acc: Value, x: Value) -> Value:
        return e.builder.add(acc, e.call("llvm.aarch64.neon.saddlp.v4i32.v8i16", acc.type, x))

    return e.in_parts(lanes_of(x) // 8, lower, acc, x)


def i8mm_outer_dot(e: Emit, acc: Value, x: Value, y: Value) -> Value:
    """smmla, ummla, usmmla."""
    kinds = "".join(t.element.kind for t in e.vectors[1:])
    return _in_parts(e, {"ui": "usmmla", "ii": "smmla", "uu": "ummla"}[kinds], acc, x, y)
