"""Attention on arrays: a workspace, a descriptor, one run of the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels import checked, pool, words
from tinydiff_kernels.attention.descriptor import ALIGNMENT, WORDS, Shape, Strides, attention_fields, workspace_bytes

Kernel = Callable[[int, int, int], None]
Float32 = NDArray[np.float32]


def attention(
    kernel: Kernel,
    q: Float32,
    k: Float32,
    v: Float32,
    images: int,
    heads: int,
    *,
    causal: bool = False,
    lengths: NDArray[np.int64] | None = None,
    output: Float32 | None = None,
    threads: int | None = None,
    cancel: NDArray[np.int32] | None = None,
) -> Float32:
    """q `[B*T, heads*d]`, k `[B*S, heads*d]`, v `[B*S, heads*dv]` -> `[B*T, heads*dv]`; see `operations.Attention`.

    Rows may lie further apart than they are long, in `output` too. The caller has checked the shapes.
    """
    count = pool.default_threads() if threads is None else threads
    shape = Shape(images, heads, len(q) // images, len(k) // images, q.shape[1] // heads, v.shape[1] // heads)
    out = np.empty((len(q), v.shape[1]), np.float32) if output is None else output
    workspace = _aligned(workspace_bytes(shape, count))
    seen: NDArray[np.int64] = np.full(images, shape.keys) if lengths is None else lengths.astype(np.int64)
    fields = attention_fields(
        shape,
        q=q,
        k=k,
        v=v,
        output=out,
        strides=Strides(q.strides[0], k.strides[0], v.strides[0], out.strides[0]),
        workspace=workspace,
        lengths=0 if lengths is None else seen,
        causal=causal,
    )
    descriptor = words.filled(WORDS, fields)
    if not checked.active():
        pool.run(kernel, descriptor, threads=count, cancel=cancel)
        return out
    readable = (part for array in (q, k, v, seen) for part in _contiguous(array))
    with checked.buffers(*readable, writable=(*_contiguous(out), workspace)):
        pool.run(kernel, descriptor, threads=count, cancel=cancel)
    return out


def _aligned(size: int) -> NDArray[np.uint8]:
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size]


def _contiguous(array: NDArray[Any]) -> list[NDArray[Any]]:
    """What a checked kernel may touch: the rows, not what lies between them."""
    return [array] if array.flags.c_contiguous else list(array)
