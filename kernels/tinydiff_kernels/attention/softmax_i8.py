"""One block of keys for one vector of queries in integers: scores, weights from 0 to 127, weighted values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels.attention.queries import nothing
from tinydiff_kernels.simd import (
    Vector,
    bit_and,
    bits_of,
    composed,
    dot,
    dot_limited,
    float_of,
    fma,
    full_like,
    load,
    maximum,
    reinterpret,
    shift_left,
    splat,
    store,
    to_float,
    vector,
    zero,
)

Function = Callable[..., Any]
LOWEST = -(2**24)  # below all scores; the difference of a score and it is exact as a float
MAGIC = 1.5 * 2.0**23 + 127.0  # `exp2_of_negative` explains it
ROUNDER = 1.5 * 2.0**23  # leaves no bits for a fraction: the low byte of the sum is the other number, rounded
FOUR_ROUNDERS = -0x74C00000  # bits of ROUNDER, shifted left by 0, 8, 16 and 24, added: 0x8B400000
UNDERFLOW = -9.0  # 127 * 2**-9 rounds to 0


@composed(lambda x: x)
def weight_bits(x: Vector) -> Vector:
    """ROUNDER + round(127 * 2**x) for x <= 0, NaN stays. 2**r of degree 2 is off by 0.2 %, less than rounding is.

    Coefficients: `bench/fit_exp2.py`.
    """
    x = maximum(full_like(x, UNDERFLOW), x)
    shifted = x + full_like(x, MAGIC)
    r = x - (shifted - full_like(x, MAGIC))
    p = fma(full_like(x, 30.280473709106445), r, full_like(x, 89.33789825439453))
    p = fma(p, r, full_like(x, 127.05628204345703))
    return fma(p, float_of(shift_left(bits_of(shifted), 23)), full_like(x, ROUNDER))


def scorer(kind: Any, size: int, rows: Function) -> Function:
    """`score_keys(k, keys, groups, queries, scores)`: scores[j, :] = k[j] . queries, the largest of each."""

    @composed(lambda *_: kind)
    def score_keys(k: int, keys: int, groups: int, queries: int, scores: int) -> Vector:
        top = splat(kind, LOWEST)
        for j in range(0, keys, 6):
            c0, c1, c2, c3, c4, c5 = rows(k + 4 * groups * j, 24, groups, queries)
            to = scores + size * j
            store(to, 0, c0)
            store(to, size, c1)
            store(to, 2 * size, c2)
            store(to, 3 * size, c3)
            store(to, 4 * size, c4)
            store(to, 5 * size, c5)
            top = maximum(maximum(maximum(c0, c1), maximum(c2, c3)), maximum(maximum(c4, c5), top))
        return top

    return score_keys


def weigher(size: int, floats: Any, total_of: Function) -> Function:
    """`weigh_keys(keys, tops, scales, scores, totals)`: scores become weights, those of four keys in four bytes, in
    place; their sums. The last four bytes are 0 where there is no key.

    Of rows of `size` bytes so many queries at a time as `floats` has, so that four keys of them fit the registers.
    """
    kind, nbytes = vector("i32", floats.lanes), floats.nbytes

    @composed(lambda *_: floats)
    def weight(scores: int, at: int, top: Vector, scale: Vector) -> Vector:
        return weight_bits(to_float(load(kind, scores, at) - top) * scale)

    @composed(nothing)
    def weigh_keys(keys: int, tops: int, scales: int, scores: int, totals: int) -> None:
        for part in range(0, size, nbytes):
            top, scale, total = load(kind, tops, part), load(floats, scales, part), zero(kind)
            here, weights = scores + part, scores + part
            for j in range(0, keys, 4):
                w0, w1 = bits_of(weight(here, 0, top, scale)), bits_of(weight(here, size, top, scale))
                w2, w3 = bits_of(weight(here, 2 * size, top, scale)), bits_of(weight(here, 3 * size, top, scale))
                four = (w0 + shift_left(w1, 8)) + (shift_left(w2, 16) + shift_left(w3, 24)) - splat(kind, FOUR_ROUNDERS)
                if keys - j < 4:
                    four = bit_and(four, splat(kind, (1 << 8 * (keys - j)) - 1))
                store(weights, 0, four)
                total = total_of(total, four)
                weights += size
                here += 4 * size
            store(totals, part, total)

    return weigh_keys


def adder(floats: Any, size: int, rows: Function) -> Function:
    """`add_values(v, groups, rows, before, now, weights, results)`:

    results[c, :] = results[c, :] * before + now * sum over groups of four keys of v[group, c] . weights[group, :]."""

    @composed(lambda old, before, now, new: old)
    def joined(old: Vector, before: Vector, now: Vector, new: Vector) -> Vector:
        return fma(old, before, to_float(new) * now)

    @composed(nothing)
    def add_values(v: int, groups: int, height: int, before: Vector, now: Vector, weights: int, results: int) -> None:
        for c in range(0, height, 6):
            c0, c1, c2, c3, c4, c5 = rows(v + 4 * c, 4 * height, groups, weights)
            to = results + size * c
            store(to, 0, joined(load(floats, to, 0), before, now, c0))
            store(to, size, joined(load(floats, to, size), before, now, c1))
            store(to, 2 * size, joined(load(floats, to, 2 * size), before, now, c2))
            store(to, 3 * size, joined(load(floats, to, 3 * size), before, now, c3))
            store(to, 4 * size, joined(load(floats, to, 4 * size), before, now, c4))
            store(to, 5 * size, joined(load(floats, to, 5 * size), before, now, c5))

    return add_values


def total_of_unsigned(unsigned: Any, signed: Any) -> Function:
    """`total_of(total, four)`: the weights of four keys added."""

    @composed(lambda total, four: total)
    def total_of(total: Vector, four: Vector) -> Vector:
        return dot_limited(total, reinterpret(unsigned, four), splat(signed, 1))

    return total_of


def total_of_signed(signed: Any) -> Function:
    """The same, on ARM."""

    @composed(lambda total, four: total)
    def total_of(total: Vector, four: Vector) -> Vector:
        return dot(total, reinterpret(signed, four), splat(signed, 1))

    return total_of
