"""Scaled dot-product attention, image by image and head by head."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.rows import Array

QUERIES_AT_ONCE = 1024  # bounds the score matrix: softmax is per query row, so slicing queries is exact


def softmax(scores: Array) -> Array:
    """Over the last axis, shifted by the maximum so that exp cannot overflow."""
    e = np.exp(scores - scores.max(-1, keepdims=True))
    result: Array = e / e.sum(-1, keepdims=True)
    return result


def attention(
    q: Array,
    k: Array,
    v: Array,
    batch: int,
    heads: int,
    causal: bool = False,
    lengths: NDArray[np.int64] | None = None,
) -> Array:
    """q `[B*T, heads*d]`, k and v `[B*S, heads*d]` -> `[B*T, heads*d]`; see `operations.Attention`."""
    qs, ks, vs = (x.reshape(batch, -1, heads, x.shape[1] // heads) for x in (q, k, v))
    queries, keys = qs.shape[1], ks.shape[1]
    scale = q.dtype.type(1 / np.sqrt(qs.shape[3]))
    out = np.empty((batch, queries, heads, vs.shape[3]), q.dtype)
    for b in range(batch):
        seen = keys if lengths is None else int(lengths[b])
        for h in range(heads):
            kt, vh = ks[b, :seen, h].T, vs[b, :seen, h]
            for start in range(0, queries, QUERIES_AT_ONCE):
                part = slice(start, min(start + QUERIES_AT_ONCE, queries))
                scores = (qs[b, part, h] * scale) @ kt
                if causal:
                    hidden = np.arange(seen)[None, :] > np.arange(part.start, part.stop)[:, None]
                    scores[hidden] = -np.inf
                out[b, part, h] = softmax(scores) @ vh
    return out.reshape(batch * queries, v.shape[1])
