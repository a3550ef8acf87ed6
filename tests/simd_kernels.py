"""Kernels that use every SIMD operation, for tests/kernels (this CPU) and tests/neon (emulated ARM).

Each is f(a, b, c, out, n), all int64: three input addresses, the output's, the number of blocks. `simd_data.py`
holds inputs and what NumPy says the outputs are. One function holds many operations, because a compilation
costs half a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels import simd
from tinydiff_kernels.simd import (
    absolute,
    add_pairs,
    bfloat_to_float,
    combine,
    dot,
    dot_limited,
    dot_pairs,
    even_lanes,
    float_to_half,
    fma,
    get_lane,
    half_to_float,
    high_half,
    less,
    load,
    load_group,
    load_splat,
    low_half,
    max_lanes,
    maximum,
    min_lanes,
    minimum,
    mul_high,
    mul_low,
    narrow,
    odd_lanes,
    outer_dot,
    pair_products,
    reinterpret,
    round_even,
    select,
    shift_left,
    shift_right,
    splat,
    splat_lane,
    sqrt,
    store,
    sum_lanes,
    to_float,
    to_int,
    vector,
    widen,
    zero,
    zip_high,
    zip_low,
)

SIGNATURE = "void(int64, int64, int64, int64, int64)"
Kernel = Callable[..., None]


def floats(lanes: int) -> Kernel:
    vec: Any = vector("f32", lanes)
    size = 4 * lanes

    def kernel(a: int, b: int, c: int, out: int, n: int) -> None:
        for i in range(n):
            x, y, z = load(vec, a, i * size), load(vec, b, i * size), load(vec, c, i * size)
            p = out + 15 * size * i
            store(p, 0, x + y)
            store(p, size, x - y)
            store(p, 2 * size, x * y)
            store(p, 3 * size, x / y)
            store(p, 4 * size, fma(x, y, z))
            store(p, 5 * size, minimum(x, y))
            store(p, 6 * size, maximum(x, y))
            store(p, 7 * size, sqrt(x))
            store(p, 8 * size, absolute(x))
            store(p, 9 * size, -x)
            store(p, 10 * size, round_even(x))
            store(p, 11 * size, select(x < y, x, z))
            store(p, 12 * size, select((x <= y) & less(y, z), x, z))
            store(p, 13 * size, select((x == y) | less(z, y), y, z))
            store(p, 14 * size, x * y + z)

    return kernel


INT_RESULTS = 11


def integers(element: str, lanes: int) -> Kernel:
    """Signed elements have two results more (absolute, negated)."""
    vec: Any = vector(element, lanes)
    size = vec.nbytes
    signed = element.startswith("i")

    def kernel(a: int, b: int, c: int, out: int, n: int) -> None:
        for i in range(n):
            x, y = load(vec, a, i * size), load(vec, b, i * size)
            p = out + (INT_RESULTS + 2) * size * i
            store(p, 0, x + y)
            store(p, size, x - y)
            store(p, 2 * size, x * y)
            store(p, 3 * size, minimum(x, y))
            store(p, 4 * size, maximum(x, y))
            store(p, 5 * size, shift_left(x, 3))
            store(p, 6 * size, shift_right(x, 3))
            store(p, 7 * size, x & y)
            store(p, 8 * size, x | y)
            store(p, 9 * size, x ^ y)
            store(p, 10 * size, select(x < y, y, splat(vec, 7)))
            if signed:
                store(p, 11 * size, absolute(x))
                store(p, 12 * size, -x)

    return kernel


def lanes_kernel(element: str, lanes: int) -> Kernel:
    """Lane moves and reductions; `scalars` (n blocks of 4) come after the vectors of all blocks."""
    vec: Any = vector(element, lanes)
    words: Any = vector("u8", vec.nbytes)
    size, half = vec.nbytes, vec.nbytes // 2
    step = vec.element.bits // 8
    last = lanes - 1

    def kernel(a: int, b: int, c: int, out: int, n: int) -> None:
        for i in range(n):
            x, y = load(vec, a, i * size), load(vec, b, i * size)
            p = out + 9 * size * i
            store(p, 0, zip_low(x, y))
            store(p, size, zip_high(x, y))
            store(p, 2 * size, even_lanes(x, y))
            store(p, 3 * size, odd_lanes(x, y))
            store(p, 4 * size, combine(high_half(x), low_half(y)))
            store(p, 5 * size, splat_lane(x, last))
            store(p, 6 * size, zero(vec))
            store(p, 7 * size, high_half(x))
            store(p, 7 * size + half, low_half(x))
            store(p, 8 * size, reinterpret(vec, reinterpret(words, x) ^ splat(words, 255)))
            q = out + 9 * size * n + 4 * step * i
            store(q, 0, sum_lanes(x))
            store(q, step, min_lanes(x))
            store(q, 2 * step, max_lanes(x))
            store(q, 3 * step, get_lane(y, 1))

    return kernel


def conversions(a: int, b: int, c: int, out: int, n: int) -> None:
    """a: 16 x i32 a block; b: 16 x i16. Narrowing and widening in every pair of widths that kernels use."""
    for i in range(n):
        x, h = load(simd.i32x16, a, 64 * i), load(simd.i16x16, b, 32 * i)
        p = out + 544 * i
        store(p, 0, narrow(simd.i16x16, x))
        store(p, 32, narrow(simd.u16x16, x))
        store(p, 64, narrow(simd.i8x16, x))
        store(p, 80, narrow(simd.u8x16, x))
        store(p, 96, narrow(simd.i8x16, h))
        store(p, 112, narrow(simd.u8x16, h))
        store(p, 128, widen(simd.i32x16, h))
        bytes_ = load(simd.i8x16, b, 32 * i)
        store(p, 192, widen(simd.i16x16, bytes_))
        store(p, 224, widen(simd.i32x16, bytes_))
        unsigned = reinterpret(simd.u8x16, bytes_)
        store(p, 288, widen(simd.i16x16, unsigned))
        store(p, 320, widen(simd.i32x16, unsigned))
        store(p, 384, to_float(x))
        store(p, 448, narrow(simd.u8x16, reinterpret(simd.u32x16, x)))
        store(p, 464, narrow(simd.u8x4, load(simd.i32x4, a, 64 * i)))
        store(p, 468, narrow(simd.u8x8, load(simd.i32x8, a, 64 * i)))
        store(p, 476, narrow(simd.i8x4, load(simd.i32x4, a, 64 * i + 16)))
        store(p, 480, widen(simd.u32x16, reinterpret(simd.u16x16, h)))


def to_ints(a: int, b: int, c: int, out: int, n: int) -> None:
    for i in range(n):
        store(out, 32 * i, to_int(load(simd.f32x8, a, 32 * i)))


def halves_up(a: int, b: int, c: int, out: int, n: int) -> None:
    """16 numbers a block, as fp16 by 4, 8 and 16 lanes, and as bf16."""
    for i in range(n):
        bits = load(simd.u16x16, a, 32 * i)
        p = out + 192 * i
        store(p, 0, half_to_float(bits))
        store(p, 64, half_to_float(low_half(bits)))
        store(p, 96, half_to_float(low_half(high_half(bits))))
        store(p, 112, half_to_float(high_half(high_half(bits))))
        store(p, 128, bfloat_to_float(bits))


def halves_down(a: int, b: int, c: int, out: int, n: int) -> None:
    for i in range(n):
        x = load(simd.f32x16, a, 64 * i)
        store(out, 64 * i, float_to_half(x))
        store(out, 64 * i + 32, float_to_half(low_half(x)))
        store(out, 64 * i + 48, float_to_half(low_half(high_half(x))))
        store(out, 64 * i + 56, float_to_half(high_half(high_half(x))))


def dots(nbytes: int) -> Kernel:
    """a, b: bytes; c: i32 accumulators. dot with each pair of signs, the limited one, the 16-bit ones."""
    signed, unsigned = vector("i8", nbytes), vector("u8", nbytes)
    pairs, acc = vector("i16", nbytes // 2), vector("i32", nbytes // 4)

    def kernel(a: int, b: int, c: int, out: int, n: int) -> None:
        for i in range(n):
            o = nbytes * i
            start = load(acc, c, o)
            u, s, w = load(unsigned, a, o), load(signed, a, o), load(signed, b, o)
            v = load(unsigned, b, o)
            p = out + 10 * o
            store(p, 0, dot(start, u, w))
            store(p, nbytes, dot(start, s, w))
            store(p, 2 * nbytes, dot(start, u, v))
            store(p, 3 * nbytes, dot_limited(start, u, shift_right(w, 1)))
            store(p, 4 * nbytes, dot_pairs(start, load(pairs, a, o), load(pairs, b, o)))
            store(p, 5 * nbytes, pair_products(u, w))
            store(p, 6 * nbytes, add_pairs(start, load(pairs, a, o)))
            store(p, 7 * nbytes, mul_low(s, w))
            store(p, 8 * nbytes, mul_high(s, w))
            store(p, 9 * nbytes, dot(start, load_group(unsigned, a, o + 4), w))

    return kernel


def outer_dots(a: int, b: int, c: int, out: int, n: int) -> None:
    for i in range(n):
        o = 16 * i
        start = load(simd.i32x4, c, o)
        store(out, 3 * o, outer_dot(start, load(simd.u8x16, a, o), load(simd.i8x16, b, o)))
        store(out, 3 * o + 16, outer_dot(start, load(simd.i8x16, a, o), load(simd.i8x16, b, o)))
        store(out, 3 * o + 32, outer_dot(start, load(simd.u8x16, a, o), load(simd.u8x16, b, o)))


def memory(a: int, b: int, c: int, out: int, n: int) -> None:
    """a: bytes at any alignment; b: one int64 counter; c: one int32 cancel word."""
    store(out, 0, load(simd.f32x16, a, 1))
    store(out, 64, load(simd.u8x4, a, 3))
    store(out, 68, load(simd.i16x4, a, 5))
    store(out, 76, load_splat(simd.f32x4, a, 8))
    store(out, 92, load_splat(simd.i16x8, a, 7))
    store(out, 108, load_splat(simd.u8x16, a, 6))
    store(out, 124, load_group(simd.i16x16, a, 9))
    store(out, 156, splat(simd.f32x4, 0.1))
    store(out, 172, load(simd.i64, a, 11))
    store(out, 180, load(simd.f32, a, 12))
    store(out, 184, load(simd.u8, a, 13))
    store(out, 185, load(simd.i16, a, 14))
    taken = 0
    while simd.fetch_add(b, 2) < n:
        taken += 1
    store(out, 187, taken)
    store(out, 195, simd.load_acquire(c))
    store(out, 199, load(simd.f32x64, a, 2) + load_splat(simd.f32x64, a, 4))
    store(out, 199 + simd.bytes_of(simd.f32x64), simd.bytes_of(simd.i16x8))
    store(out, 463, simd.load_in_order(simd.i32x8, a, 21))


def function_kernel(function: Any) -> Kernel:
    vec: Any = simd.f32x8

    def kernel(a: int, b: int, c: int, out: int, n: int) -> None:
        for i in range(n):
            store(out, 32 * i, function(load(vec, a, 32 * i)))

    return kernel


INTEGERS = ("i8", "u8", "i16", "u16", "i32", "u32")
FUNCTIONS = (
    "exp",
    "exp2_of_negative",
    "log",
    "erf",
    "sin",
    "cos",
    "sigmoid",
    "silu",
    "gelu",
    "quick_gelu",
    "soft_clip",
)

KERNELS: dict[str, Kernel] = {
    **{f"floats{n}": floats(n) for n in (4, 8, 16)},
    **{
        f"{e}_{w}": integers(e, 8 * w // int(e[1:]))
        for e in ("i8", "u8", "i16", "u16", "i32", "u32")
        for w in (16, 32, 64)
    },
    **{f"lanes_{e}x{n}": lanes_kernel(e, n) for e, n in (("f32", 16), ("f32", 4), ("i8", 32), ("u16", 8), ("i32", 8))},
    "conversions": conversions,
    "to_ints": to_ints,
    "halves_up": halves_up,
    "halves_down": halves_down,
    **{f"dots{n}": dots(n) for n in (16, 32, 64)},
    "outer_dots": outer_dots,
    "memory": memory,
    **{f"function_{f}": function_kernel(getattr(simd, f)) for f in FUNCTIONS},
}
EXPORTS = {name: (kernel, SIGNATURE) for name, kernel in KERNELS.items()}
