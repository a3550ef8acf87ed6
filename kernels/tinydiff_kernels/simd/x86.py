"""Lowerings to x86 instructions that LLVM does not find by itself: the dot products.

Instructions work on 16, 32 or 64 bytes; wider vectors are cut into parts of the widest that the target has.
"""

from __future__ import annotations

from collections.abc import Callable

from tinydiff_kernels._numba import ir
from tinydiff_kernels.simd.emit import I16, I32, Emit, Value, constant, lanes_of

Lower = Callable[[Emit, Value, Value, Value], Value]


def _register(e: Emit) -> int:
    """Widest vector register, in bytes."""
    return 64 if "avx512bw" in e.target.features else 32


def _parts(e: Emit, x: Value) -> int:
    return max(1, _nbytes(x) // _register(e))


def _nbytes(x: Value) -> int:
    return lanes_of(x) * int(x.type.element.width) // 8


def _vpdpbusd(e: Emit, acc: Value, x: Value, y: Value) -> Value:
    """AVX-VNNI and AVX512-VNNI share the intrinsic. Its operands were i32 before LLVM 22, which upgrades them."""
    bits = 8 * _nbytes(acc)
    x, y = (e.bits(v, acc.type) for v in (x, y))
    return e.call(f"llvm.x86.avx512.vpdpbusd.{bits}", acc.type, acc, x, y)


def _in_parts(e: Emit, lower: Lower, acc: Value, x: Value, y: Value) -> Value:
    return e.in_parts(_parts(e, x), lambda *v: lower(e, *v), acc, x, y)


def vnni_dot(e: Emit, acc: Value, x: Value, y: Value) -> Value:
    """vpdpbusd takes u8 * i8. Other signs are moved by 128: i8 x is (x ^ 0x80) - 128, u8 y is (y ^ 0x80) + 128."""
    kinds = "".join(t.element.kind for t in e.vectors[1:])
    flip = constant(x.type, 0x80)
    if kinds == "ui":
        return _in_parts(e, _vpdpbusd, acc, x, y)
    zero, all_128 = constant(acc.type, 0), constant(x.type, 0x80)
    if kinds == "ii":
        total = _in_parts(e, _vpdpbusd, acc, e.builder.xor(x, flip), y)
        return e.builder.sub(total, _in_parts(e, _vpdpbusd, zero, all_128, y))
    # u8 * u8: x * (y - 128) + x * 128, where 128 = 64 + 64 because 128 is no i8
    half = constant(x.type, 64)
    total = _in_parts(e, _vpdpbusd, acc, x, e.builder.xor(y, flip))
    return _in_parts(e, _vpdpbusd, _in_parts(e, _vpdpbusd, total, x, half), x, half)


def _pmaddwd(e: Emit, x: Value, y: Value) -> Value:
    """Two i16 products a lane, summed in 32 bits: exact but for -32768 * -32768 twice."""
    name = {16: "sse2.pmadd.wd", 32: "avx2.pmadd.wd", 64: "avx512.pmaddw.d.512"}[_nbytes(x)]
    return e.call(f"llvm.x86.{name}", ir.VectorType(I32, lanes_of(x) // 2), x, y)


def _even_odd_words(e: Emit, x: Value, kind: str) -> tuple[Value, Value]:
    """Bytes 0, 2, 4... and bytes 1, 3, 5..., each extended to 16 bits in place: two shifts, no shuffle."""
    b = e.builder
    words = e.bits(x, ir.VectorType(I16, lanes_of(x) // 2))
    eight = constant(words.type, 8)
    if kind == "u":
        return b.and_(words, constant(words.type, 0xFF)), b.lshr(words, eight)
    return b.ashr(b.shl(words, eight), eight), b.ashr(words, eight)


def avx2_dot(e: Emit, acc: Value, x: Value, y: Value) -> Value:
    """Exact for all bytes: 16-bit products in pmaddwd, bytes (0, 2) and (1, 3) of each group of four."""
    kinds = [t.element.kind for t in e.vectors[1:]]

    def lower(e: Emit, acc: Value, x: Value, y: Value) -> Value:
        (x0, x1), (y0, y1) = (_even_odd_words(e, v, kind) for v, kind in zip((x, y), kinds, strict=True))
        return e.builder.add(acc, e.builder.add(_pmaddwd(e, x0, y0), _pmaddwd(e, x1, y1)))

    return _in_parts(e, lower, acc, x, y)


def avx2_pair_products(e: Emit, x: Value, y: Value) -> Value:
    """vpmaddubsw: u8 * i8, two a lane, saturating at 16 bits."""

    def lower(x: Value, y: Value) -> Value:
        name = {16: "ssse3.pmadd.ub.sw.128", 32: "avx2.pmadd.ub.sw", 64: "avx512.pmaddubs.w.512"}[_nbytes(x)]
        return e.call(f"llvm.x86.{name}", ir.VectorType(I16, lanes_of(x) // 2), x, y)

    return e.in_parts(_parts(e, x), lower, x, y)


def avx2_dot_limited(e: Emit, acc: Value, x: Value, y: Value) -> Value:
    """Two instructions instead of six, exact while no pair of products passes 16 bits."""
    return avx2_add_pairs(e, acc, avx2_pair_products(e, x, y))


def avx2_dot_pairs(e: Emit, acc: Value, x: Value, y: Value) -> Value:
    products = e.in_parts(_parts(e, x), lambda p, q: _pmaddwd(e, p, q), x, y)
    return e.builder.add(acc, products)


def avx2_add_pairs(e: Emit, acc: Value, x: Value) -> Value:
    return avx2_dot_pairs(e, acc, x, constant(x.type, 1))
