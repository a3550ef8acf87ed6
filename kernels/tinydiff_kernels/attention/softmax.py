"""One block of keys for one vector of queries: scores, weights 2**(score - maximum), weighted values."""

from __future__ import annotations

from typing import Any

from tinydiff_kernels.attention.queries import nothing
from tinydiff_kernels.attention.tile import six_rows
from tinydiff_kernels.simd import (
    Vector,
    bytes_of,
    composed,
    exp2_of_negative,
    fma,
    less,
    load,
    maximum,
    select,
    splat,
    store,
    zero,
)

LOWEST = -3.4028234663852886e38  # the maximum before any key; finite, so that a score of -infinity weighs 0, not NaN
INFINITY = float("inf")


def vector_of(vec: Any, *_arguments: Any) -> Any:
    return vec.instance_type


@composed(vector_of)
def score_keys(vec: Any, k: int, stride: int, keys: int, width: int, queries: int, scores: int) -> Vector:
    """scores[j, :] = k[j] . queries; the largest score of each query. Six keys at a time, the last one repeated."""
    row = bytes_of(vec)
    top = splat(vec, LOWEST)
    for j in range(0, keys, 6):
        c0, c1, c2, c3, c4, c5 = six_rows(vec, k + stride * j, stride, keys - 1 - j, 4, width, queries)
        to = scores + row * j
        store(to, 0, c0)
        store(to, row, c1)
        store(to, 2 * row, c2)
        store(to, 3 * row, c3)
        store(to, 4 * row, c4)
        store(to, 5 * row, c5)
        top = maximum(maximum(maximum(c0, c1), maximum(c2, c3)), maximum(maximum(c4, c5), top))
    return top


@composed(vector_of)
def hide_future(vec: Any, first_key: int, keys: int, positions: Vector, scores: int) -> Vector:
    """Causal attention: -infinity where the key comes after the query; the largest score of each query."""
    row = bytes_of(vec)
    top = splat(vec, LOWEST)
    for j in range(keys):
        hidden = less(positions, splat(vec, first_key + j))
        score = select(hidden, splat(vec, -INFINITY), load(vec, scores, row * j))
        store(scores, row * j, score)
        top = maximum(score, top)
    return top


@composed(vector_of)
def weigh_keys(vec: Any, keys: int, top: Vector, scores: int) -> Vector:
    """Scores become weights, in place; the sum of each query's."""
    row = bytes_of(vec)
    total = zero(vec)
    for at in range(0, row * keys, row):
        weight = exp2_of_negative(load(vec, scores, at) - top)
        store(scores, at, weight)
        total = total + weight
    return total


@composed(nothing)
def add_values(
    vec: Any, v: int, stride: int, keys: int, width: int, factor: Vector, weights: int, results: int
) -> None:
    """results[c, :] = results[c, :] * factor + sum over j of v[j, c] * weights[j, :]. Six channels at a time."""
    row = bytes_of(vec)
    for c in range(0, width, 6):
        c0, c1, c2, c3, c4, c5 = six_rows(vec, v + 4 * c, 4, width - 1 - c, stride, keys, weights)
        to = results + row * c
        store(to, 0, fma(load(vec, to, 0), factor, c0))
        store(to, row, fma(load(vec, to, row), factor, c1))
        store(to, 2 * row, fma(load(vec, to, 2 * row), factor, c2))
        store(to, 3 * row, fma(load(vec, to, 3 * row), factor, c3))
        store(to, 4 * row, fma(load(vec, to, 4 * row), factor, c4))
        store(to, 5 * row, fma(load(vec, to, 5 * row), factor, c5))
