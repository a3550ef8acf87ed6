"""Attention in 8-bit integers on arrays: a workspace, a descriptor, two runs of the pool."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels import pool
from tinydiff_kernels.attention import descriptor_i8 as d
from tinydiff_kernels.attention.descriptor import Strides
from tinydiff_kernels.call import run

Kernel = Callable[[int, int, int], None]
Float32 = NDArray[np.float32]


def attention(
    keys: Kernel,
    kernel: Kernel,
    q: Float32,
    k: Float32,
    v: Float32,
    images: int,
    heads: int,
    *,
    output: Float32 | None = None,
    threads: int | None = None,
    cancel: NDArray[np.int32] | None = None,
) -> Float32:
    """q `[B*T, heads*d]`, k `[B*S, heads*d]`, v `[B*S, heads*dv]` -> `[B*T, heads*dv]`; see `operations.Attention`.

    `keys` is keys_i8, `kernel` attention_i8. Rows may lie further apart than they are long, in `output` too.
    """
    count = pool.default_threads() if threads is None else threads
    shape = d.Shape(images, heads, len(q) // images, len(k) // images, q.shape[1] // heads, v.shape[1] // heads)
    out = np.empty((len(q), v.shape[1]), np.float32) if output is None else output
    workspace = np.empty(d.workspace_bytes(shape, count), np.uint8)
    fields = d.attention_fields(
        shape,
        q=q,
        k=k,
        v=v,
        output=out,
        strides=Strides(q.strides[0], k.strides[0], v.strides[0], out.strides[0]),
        prepared=workspace[: shape.prepared_bytes],
        scratch=workspace[shape.prepared_bytes :],
    )
    run(keys, d.WORDS, fields, [workspace], threads=count, cancel=cancel)
    run(kernel, d.WORDS, fields, [workspace, out], threads=count, cancel=cancel)
    return out
