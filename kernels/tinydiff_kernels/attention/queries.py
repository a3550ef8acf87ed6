"""Queries into lanes, and results back into rows: transposes of 4 x 4 floats."""

from __future__ import annotations

from typing import Any

from tinydiff_kernels._numba import types
from tinydiff_kernels.simd import (
    Scalar,
    Vector,
    bytes_of,
    composed,
    f32,
    f32x4,
    load,
    prefetch,
    splat,
    store,
    zip_high,
    zip_low,
)


def nothing(*_arguments: Any) -> Any:
    return types.void


@composed(lambda *rows: types.UniTuple(rows[0], 4))
def transpose(r0: Vector, r1: Vector, r2: Vector, r3: Vector) -> tuple[Vector, ...]:
    """The columns of four f32x4 rows."""
    even_low, even_high = zip_low(r0, r2), zip_high(r0, r2)
    odd_low, odd_high = zip_low(r1, r3), zip_high(r1, r3)
    return (
        zip_low(even_low, odd_low),
        zip_high(even_low, odd_low),
        zip_low(even_high, odd_high),
        zip_high(even_high, odd_high),
    )


@composed(nothing)
def prefetch_rows(row: int, stride: int, width: int) -> None:
    """Ask for the second four rows from here. A head's part of a row is short, so that no CPU would guess the next."""
    for c in range(0, 4 * width, 64):
        prefetch(row + 4 * stride, c)
        prefetch(row + 5 * stride, c)
        prefetch(row + 6 * stride, c)
        prefetch(row + 7 * stride, c)


@composed(nothing)
def load_queries(vec: Any, q: int, stride: int, count: int, width: int, scale: Scalar, target: int) -> None:
    """Rows of queries times scale, as vectors [width] of queries. Lanes beyond `count` repeat the last query."""
    row, whole = bytes_of(vec), width - width % 4
    for lane in range(0, row // 4, 4):
        q0, q1 = q + stride * min(lane, count - 1), q + stride * min(lane + 1, count - 1)
        q2, q3 = q + stride * min(lane + 2, count - 1), q + stride * min(lane + 3, count - 1)
        prefetch_rows(q + stride * lane, stride, width)
        to = target + 4 * lane
        factor = splat(f32x4, scale)
        for c in range(0, 4 * whole, 16):
            x0, x1, x2, x3 = transpose(load(f32x4, q0, c), load(f32x4, q1, c), load(f32x4, q2, c), load(f32x4, q3, c))
            store(to, 0, x0 * factor)
            store(to, row, x1 * factor)
            store(to, 2 * row, x2 * factor)
            store(to, 3 * row, x3 * factor)
            to += 4 * row
        for c in range(4 * whole, 4 * width, 4):
            store(to, 0, load(f32, q0, c) * scale)
            store(to, 4, load(f32, q1, c) * scale)
            store(to, 8, load(f32, q2, c) * scale)
            store(to, 12, load(f32, q3, c) * scale)
            to += row


@composed(nothing)
def store_results(vec: Any, results: int, sums: Vector, out: int, stride: int, count: int, width: int) -> None:
    """Vectors [width] of results, divided by the sums of weights, as rows; lanes beyond `count` are no rows."""
    row = bytes_of(vec)
    for at in range(0, row * width, row):
        store(results, at, load(vec, results, at) / sums)
    store_rows(vec, results, out, stride, count, width)


@composed(nothing)
def store_rows(vec: Any, results: int, out: int, stride: int, count: int, width: int) -> None:
    """Vectors [width] of results as rows; lanes beyond `count` are no rows."""
    row, whole = bytes_of(vec), width - width % 4
    for lane in range(0, min(row // 4, count), 4):
        rows, at, to = min(4, count - lane), results + 4 * lane, out + stride * lane
        prefetch_rows(to, stride, width)
        for c in range(0, 4 * whole, 16):
            x0, x1, x2, x3 = transpose(
                load(f32x4, at, 0), load(f32x4, at, row), load(f32x4, at, 2 * row), load(f32x4, at, 3 * row)
            )
            store(to, c, x0)
            if rows > 1:
                store(to, stride + c, x1)
            if rows > 2:
                store(to, 2 * stride + c, x2)
            if rows > 3:
                store(to, 3 * stride + c, x3)
            at += 4 * row
        for c in range(4 * whole, 4 * width, 4):
            for r in range(rows):
                store(to, stride * r + c, load(f32, at, 4 * r))
            at += row
