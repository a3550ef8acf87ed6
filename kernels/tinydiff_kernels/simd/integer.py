"""Products of small integers: the heart of the int8 and int4 kernels. All exact unless the name says otherwise."""

from __future__ import annotations

from typing import Any

from tinydiff_kernels.simd.define import lowered, operation, refuse, same_vectors
from tinydiff_kernels.simd.types import vector

Type = Any
SIGNS = ("ui", "ii", "uu")


def _dot_type(name: str, acc: Any, x: Any, y: Any, signs: tuple[str, ...] = SIGNS) -> Any:
    """i32 lanes += groups of four bytes."""
    vec = same_vectors(name, acc, kinds="i")
    left, right = same_vectors(name, x, kinds="iu"), same_vectors(name, y, kinds="iu")
    bytes_only = vec.element.bits == 32 and left.element.bits == right.element.bits == 8
    if not bytes_only or not 4 * vec.lanes == left.lanes == right.lanes or vec.lanes < 4:
        raise refuse(name, "needs an i32 accumulator and two vectors of four times as many bytes", acc, x, y)
    if left.element.kind + right.element.kind not in signs:
        raise refuse(name, f"signs must be one of {', '.join(signs)} (u8 goes first)", acc, x, y)
    return vec


@operation
def dot(acc: Type, x: Type, y: Type) -> Any:
    """acc[i] + sum of x[4i + j] * y[4i + j], j = 0..3. u8 * i8, i8 * i8 or u8 * u8, exact for all bytes.

    vpdpbusd, usdot, sdot, udot; on AVX2 two vpmaddwd, on older NEON smull, saddlp and addp.
    """
    return lowered("dot", _dot_type("dot", acc, x, y), acc, x, y)


@operation
def dot_limited(acc: Type, x: Type, y: Type) -> Any:
    """`dot` of u8 * i8 where |y| <= 64, or x <= 127: then AVX2's vpmaddubsw is exact, and a third faster.

    Beyond these bounds AVX2 saturates and other paths do not: the caller guarantees them.
    """
    return lowered("dot_limited", _dot_type("dot_limited", acc, x, y, ("ui",)), acc, x, y)


@operation
def dot_pairs(acc: Type, x: Type, y: Type) -> Any:
    """acc[i] + x[2i] * y[2i] + x[2i + 1] * y[2i + 1] of i16, wrapping (vpmaddwd)."""
    vec, pair = same_vectors("dot_pairs", acc, kinds="i"), same_vectors("dot_pairs", x, y, kinds="i")
    if vec.element.bits != 32 or pair.element.bits != 16 or pair.lanes != 2 * vec.lanes:
        raise refuse("dot_pairs", "needs an i32 accumulator and two i16 vectors of twice as many lanes", acc, x, y)
    return lowered("dot_pairs", vec, acc, x, y)


@operation
def pair_products(x: Type, y: Type) -> Any:
    """x[2i] * y[2i] + x[2i + 1] * y[2i + 1] of u8 and i8 as i16, saturating (vpmaddubsw)."""
    left, right = same_vectors("pair_products", x, kinds="u"), same_vectors("pair_products", y, kinds="i")
    if left.element.bits != 8 or right.element.bits != 8 or left.lanes != right.lanes or left.lanes < 16:
        raise refuse("pair_products", "needs u8 and i8 vectors of one width, 16 bytes or more", x, y)
    return lowered("pair_products", vector("i16", left.lanes // 2), x, y)


@operation
def add_pairs(acc: Type, x: Type) -> Any:
    """acc[i] + x[2i] + x[2i + 1]: i16 pairs into i32 (sadalp; vpmaddwd with ones)."""
    vec, pair = same_vectors("add_pairs", acc, kinds="i"), same_vectors("add_pairs", x, kinds="i")
    if vec.element.bits != 32 or pair.element.bits != 16 or pair.lanes != 2 * vec.lanes:
        raise refuse("add_pairs", "needs an i32 accumulator and an i16 vector of twice as many lanes", acc, x)
    return lowered("add_pairs", vec, acc, x)


def _byte_products(name: str, x: Any, y: Any) -> Any:
    vec = same_vectors(name, x, y, kinds="i")
    if vec.element.bits != 8 or vec.lanes < 16:
        raise refuse(name, "needs two i8 vectors of 16 bytes or more", x, y)
    return vector("i16", vec.lanes // 2)


@operation
def mul_low(x: Type, y: Type) -> Any:
    """Products of the first half of the i8 lanes as i16, exact (smull). With `add_pairs`: the A53's dot product."""
    return lowered("mul_low", _byte_products("mul_low", x, y), x, y)


@operation
def mul_high(x: Type, y: Type) -> Any:
    """Products of the second half of the i8 lanes as i16 (smull2)."""
    return lowered("mul_high", _byte_products("mul_high", x, y), x, y)


@operation
def outer_dot(acc: Type, x: Type, y: Type) -> Any:
    """2x2 += (2x8) * (2x8)^T of bytes, in every 16 bytes: acc[2r + c] + sum over k < 8 of x[8r + k] * y[8c + k].

    smmla, ummla and usmmla; other paths use `dot`.
    """
    return lowered("outer_dot", _dot_type("outer_dot", acc, x, y), acc, x, y)
