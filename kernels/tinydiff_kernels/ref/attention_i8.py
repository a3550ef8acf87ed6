"""Attention in 8-bit integers: exactly what keys_i8 and attention_i8 compute (`attention/descriptor_i8.py`).

All arithmetic is float32, one rounding an operation, in the kernels' order; a product that is added to is rounded once
(fma), but for one in 2**29, which float64 rounds twice. The kernels' exp2 between blocks is good to 2e-7, NumPy's is
not theirs: results differ by 2e-6 of the largest value of a channel at most. All integers are the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.attention.descriptor import KEY_BLOCK
from tinydiff_kernels.ref.quantise import SMALLEST_SCALE, Float32

KEY_STEPS, QUERY_STEPS, VALUE_STEPS = 127, 63, 63  # keys from 0 up, the others to both sides of 0
WEIGHT = (30.280473709106445, 89.33789825439453, 127.05628204345703)  # 127 * 2**r, |r| <= 1/2, to 0.2 %
UNDERFLOW = np.float32(-9)

Int32 = NDArray[np.int32]


def scale_and_inverse(distance: Float32, steps: float) -> tuple[Float32, Float32]:
    """distance / steps and 1 / that; both 0 where it is below the smallest normal number. NaN stays."""
    scale = np.asarray(distance / np.float32(steps), np.float32)
    tiny, none = scale < SMALLEST_SCALE, np.float32(0)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    return np.where(tiny, none, scale), np.where(tiny, none, inverse)


def rounded(steps: Float32, low: int, high: int) -> Int32:
    """To the nearest integer, half to even, within bounds; what is no number becomes the lower."""
    bounded = np.clip(np.where(np.isnan(steps), np.float32(low), steps), low, high)
    made: Int32 = np.rint(bounded).astype(np.int32)
    return made


def channel_ranges(x: Float32) -> tuple[Float32, Float32, Float32]:
    """Half of the smallest and of the largest number of each column, and 0, or NaN where one is not finite."""
    half, none = np.float32(0.5), np.float32(0)
    return np.fmin.reduce(x) * half, np.fmax.reduce(x) * half, (x * none).sum(0, dtype=np.float32)


def quantise_keys(k: Float32) -> tuple[Int32, Float32]:
    """k `[keys, width]` of one head -> integers from 0 to 127, scales `[width]`."""
    low, high, bad = channel_ranges(k)
    scale, inverse = scale_and_inverse(high - low + bad, KEY_STEPS / 2)
    return rounded((k - (low + low)) * inverse, 0, KEY_STEPS), scale


def quantise_values(v: Float32) -> tuple[Int32, Float32, Float32]:
    """v `[keys, width]` of one head -> integers from -63 to 63, scales and middles `[width]`."""
    low, high, bad = channel_ranges(v)
    scale, inverse = scale_and_inverse(high - low + bad, VALUE_STEPS)
    middle = low + high
    return rounded((v - middle) * inverse, -VALUE_STEPS, VALUE_STEPS), scale, middle


def quantise_queries(q: Float32, factor: np.float32, key_scales: Float32) -> tuple[Int32, Float32]:
    """q `[queries, width]` of one head -> integers from -63 to 63, scales `[queries, 1]`. `factor`: scale * log2(e)."""
    x = q * factor * key_scales
    none = np.float32(0)
    bad = (x * none).sum(1, keepdims=True, dtype=np.float32)
    largest = np.fmax.reduce(np.abs(x), 1, keepdims=True, initial=0)
    scale, inverse = scale_and_inverse(largest + bad, QUERY_STEPS)
    return rounded(x * inverse, -QUERY_STEPS, QUERY_STEPS), scale


def weights(differences: Int32, scale: Float32) -> Int32:
    """round(127 * 2**(scale * difference)) for differences <= 0, of degree 2 between whole powers; NaN gives 0."""
    x = np.maximum(differences.astype(np.float32) * scale, UNDERFLOW)
    n = np.rint(x)
    r, (c2, c1, c0) = x - n, (np.float32(c) for c in WEIGHT)
    p = _fma(_fma(c2, r, c1), r, c0)
    return rounded(np.ldexp(p, np.where(np.isnan(n), 0, n).astype(np.int32)), 0, 127)


def _fma(x: Float32 | np.float32, y: Float32, z: Float32 | np.float32) -> Float32:
    """x * y + z, rounded once: the product of two float32 is exact in float64."""
    made: Float32 = (np.float64(1) * x * y + z).astype(np.float32)
    return made


def head(q: Float32, k: Float32, v: Float32, factor: np.float32) -> Float32:
    """One head of one image: q `[queries, d]`, k `[keys, d]`, v `[keys, dv]` -> `[queries, dv]`."""
    keys, key_scales = quantise_keys(k)
    values, value_scales, middles = quantise_values(v)
    queries, scale = quantise_queries(q, factor, key_scales)
    top = np.full((len(q), 1), -(2**24), np.int32)
    total = np.zeros((len(q), 1), np.float32)
    result = np.zeros((len(q), v.shape[1]), np.float32)
    for start in range(0, len(k), KEY_BLOCK):
        scores = queries @ keys[start : start + KEY_BLOCK].T
        here = scores.max(1, keepdims=True)
        earlier, top = top, np.maximum(here, top)
        before, now = (np.exp2((x - top).astype(np.float32) * scale) for x in (earlier, here))
        p = weights(scores - here, scale)
        total = _fma(total, before, p.sum(1, keepdims=True).astype(np.float32) * now)
        result = _fma(result, before, (p @ values[start : start + KEY_BLOCK]).astype(np.float32) * now)
    return _fma(result / total, value_scales, middles)


def attention(q: Float32, k: Float32, v: Float32, batch: int, heads: int) -> Float32:
    """q `[B*T, heads*d]`, k and v `[B*S, heads*d]` -> `[B*T, heads*d]`; see `operations.Attention`."""
    qs, ks, vs = (x.reshape(batch, -1, heads, x.shape[1] // heads) for x in (q, k, v))
    factor = np.float32(np.log2(np.e) / np.sqrt(qs.shape[3]))
    out = np.empty((*qs.shape[:3], vs.shape[3]), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for b in range(batch):
            for h in range(heads):
                out[b, :, h] = head(qs[b, :, h], ks[b, :, h], vs[b, :, h], factor)
    return out.reshape(len(q), v.shape[1])
