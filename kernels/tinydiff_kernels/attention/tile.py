"""The micro-kernel of attention: six rows times vectors of queries, for scores and for weighted values alike.

Tile: 6 rows x 16 queries are twelve registers of AVX2 (twenty-four of NEON), two hold queries, one an element
broadcast: fifteen of sixteen. 6 rows x 64 queries are twenty-four registers of AVX-512, four and one: its multipliers
need more sums at once. A step reads 64 bytes of b and six floats of a for 192 flops (256 bytes for 768).
"""

from __future__ import annotations

from typing import Any

from tinydiff_kernels._numba import types
from tinydiff_kernels.simd import Vector, bytes_of, composed, fma, load, load_splat, zero


@composed(lambda vec, *_arguments: types.UniTuple(vec.instance_type, 6))
def six_rows(vec: Any, a: int, row: int, last: int, step: int, depth: int, b: int) -> tuple[Vector, ...]:
    """sum over k of a[r, k] * b[k, :] for r = 0 to 5, each a chain of fma in the order of k.

    a[r, k] is the float at a + r * row + k * step; b is vectors one after the other. Rows after `last` are the last
    one again, so that nothing beyond it is read.
    """
    a0, a1, a2 = a, a + row * min(1, last), a + row * min(2, last)
    a3, a4, a5 = a + row * min(3, last), a + row * min(4, last), a + row * min(5, last)
    c0, c1, c2 = zero(vec), zero(vec), zero(vec)
    c3, c4, c5 = zero(vec), zero(vec), zero(vec)
    at = 0
    for _ in range(depth):
        lanes = load(vec, b, 0)
        c0 = fma(load_splat(vec, a0, at), lanes, c0)
        c1 = fma(load_splat(vec, a1, at), lanes, c1)
        c2 = fma(load_splat(vec, a2, at), lanes, c2)
        c3 = fma(load_splat(vec, a3, at), lanes, c3)
        c4 = fma(load_splat(vec, a4, at), lanes, c4)
        c5 = fma(load_splat(vec, a5, at), lanes, c5)
        at += step
        b += bytes_of(vec)
    return c0, c1, c2, c3, c4, c5
