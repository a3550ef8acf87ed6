"""attention_f32: softmax(scale q k^T) v in float32. `ref/attention.py` is its specification.

Online softmax over blocks of KEY_BLOCK keys with queries in the lanes; `descriptor.py` explains both and has the
fields. Every result is one fixed sequence of operations on its own lane, so that the bits depend neither on the path
nor on the number of threads: scores are chains of fma over channels, weights are summed in the order of keys, values
are chains of fma over the keys of a block.

NaN and infinity: from a query they make its row NaN; from a key the rows of all queries that see it, but where the
score is -infinity, which weighs nothing (all of them so: NaN); from a value its channel in all rows that see it, even
where it weighs nothing. Other heads and images and what lies beyond a length reach nothing. Where causal, neither do
later keys; later values that are not finite may, since 0 times them is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels.attention.descriptor import (
    BLOCK_QUERIES,
    CAUSAL,
    HEADS,
    IMAGES,
    K_STRIDE,
    KEY_BLOCK,
    KEYS,
    LENGTHS,
    NEXT_WORKER,
    OUTPUT,
    OUTPUT_STRIDE,
    POSITIONS,
    Q_STRIDE,
    QUERIES,
    RESULT_ROWS,
    RESULTS,
    SCALE,
    SCORES,
    SCRATCH,
    SCRATCH_BYTES,
    SUMS,
    TOPS,
    V_STRIDE,
    VALUE_WIDTH,
    WIDTH,
    K,
    Q,
    V,
)
from tinydiff_kernels.attention.queries import load_queries, nothing, store_results
from tinydiff_kernels.attention.softmax import LOWEST, add_values, hide_future, score_keys, weigh_keys
from tinydiff_kernels.simd import (
    Vector,
    bytes_of,
    composed,
    exp2_of_negative,
    f32,
    f32x16,
    f32x64,
    fetch_add,
    fma,
    i64,
    load,
    load_acquire,
    maximum,
    splat,
    store,
    zero,
)


@composed(nothing)
def begin(vec: Any, desc: int, image: int, head: int, first: int, count: int, scratch: int) -> None:
    """Queries into lanes; no key seen yet."""
    width, rows = load(i64, desc, WIDTH), load(i64, desc, RESULT_ROWS)
    stride = load(i64, desc, Q_STRIDE)
    q = load(i64, desc, Q) + stride * (image * load(i64, desc, QUERIES) + first) + 4 * width * head
    scale = load(f32, desc, SCALE)
    for lane in range(0, count, bytes_of(vec) // 4):
        load_queries(vec, q + stride * lane, stride, count - lane, width, scale, scratch + 4 * width * lane)
        store(scratch + load(i64, desc, TOPS), 4 * lane, splat(vec, LOWEST))
        store(scratch + load(i64, desc, SUMS), 4 * lane, zero(vec))
        results = scratch + load(i64, desc, RESULTS) + 4 * rows * lane
        for at in range(0, bytes_of(vec) * rows, bytes_of(vec)):
            store(results, at, splat(vec, -0.0))  # the neutral number of addition; LLVM would call memset for 0.0
        for i in range(lane, lane + bytes_of(vec) // 4):
            store(scratch + load(i64, desc, POSITIONS), 4 * i, f32(first + i))


@composed(nothing)
def add_keys(vec: Any, desc: int, k: int, v: int, start: int, keys: int, first: int, lane: int, scratch: int) -> None:
    """A block of keys from number `start`, for the vector of queries from number `first + lane`."""
    width, value_width, rows = load(i64, desc, WIDTH), load(i64, desc, VALUE_WIDTH), load(i64, desc, RESULT_ROWS)
    k_stride, v_stride = load(i64, desc, K_STRIDE), load(i64, desc, V_STRIDE)
    scores = scratch + load(i64, desc, SCORES)
    tops, sums = scratch + load(i64, desc, TOPS), scratch + load(i64, desc, SUMS)
    top = score_keys(vec, k + k_stride * start, k_stride, keys, width, scratch + 4 * width * lane, scores)
    if load(i64, desc, CAUSAL) != 0 and start + keys > first + lane:
        positions = load(vec, scratch + load(i64, desc, POSITIONS), 4 * lane)
        top = hide_future(vec, start, keys, positions, scores)
    before = load(vec, tops, 4 * lane)
    top = maximum(top, before)
    factor = exp2_of_negative(before - top)
    total = weigh_keys(vec, keys, top, scores)
    store(tops, 4 * lane, top)
    store(sums, 4 * lane, fma(load(vec, sums, 4 * lane), factor, total))
    results = scratch + load(i64, desc, RESULTS) + 4 * rows * lane
    add_values(vec, v + v_stride * start, v_stride, keys, value_width, factor, scores, results)


@composed(nothing)
def finish(vec: Any, desc: int, image: int, head: int, first: int, count: int, scratch: int) -> None:
    """Divide by the sums and write the rows."""
    width, rows, stride = load(i64, desc, VALUE_WIDTH), load(i64, desc, RESULT_ROWS), load(i64, desc, OUTPUT_STRIDE)
    out = load(i64, desc, OUTPUT) + stride * (image * load(i64, desc, QUERIES) + first) + 4 * width * head
    for lane in range(0, count, bytes_of(vec) // 4):
        sums = load(vec, scratch + load(i64, desc, SUMS), 4 * lane)
        results = scratch + load(i64, desc, RESULTS) + 4 * rows * lane
        store_results(vec, results, sums, out + stride * lane, stride, count - lane, width)


@composed(nothing)
def attend(vec: Any, desc: int, cancel: int, image: int, head: int, first: int, scratch: int) -> None:
    """A block of queries from number `first`, over all keys that they see. Cancelled, it writes nothing."""
    keys, seen = load(i64, desc, KEYS), load(i64, desc, KEYS)
    block, lengths = load(i64, desc, BLOCK_QUERIES), load(i64, desc, LENGTHS)
    if lengths != 0:
        seen = load(i64, lengths, 8 * image)
    if load(i64, desc, CAUSAL) != 0:
        seen = min(seen, first + block)
    count = min(block, load(i64, desc, QUERIES) - first)
    k = load(i64, desc, K) + load(i64, desc, K_STRIDE) * image * keys + 4 * load(i64, desc, WIDTH) * head
    v = load(i64, desc, V) + load(i64, desc, V_STRIDE) * image * keys + 4 * load(i64, desc, VALUE_WIDTH) * head
    begin(vec, desc, image, head, first, count, scratch)
    for start in range(0, seen, KEY_BLOCK):
        if load_acquire(cancel) != 0:
            return
        for lane in range(0, count, bytes_of(vec) // 4):
            add_keys(vec, desc, k, v, start, min(KEY_BLOCK, seen - start), first, lane, scratch)
    finish(vec, desc, image, head, first, count, scratch)


def kernel_of(vec: Vector) -> Callable[[int, int, int], None]:
    """The kernel with vectors of this type: 16 queries or more."""

    def attention(desc: int, counter: int, cancel: int) -> None:
        scratch = load(i64, desc, SCRATCH) + load(i64, desc, SCRATCH_BYTES) * fetch_add(counter + NEXT_WORKER, 1)
        heads, block = load(i64, desc, HEADS), load(i64, desc, BLOCK_QUERIES)
        across = (load(i64, desc, QUERIES) + block - 1) // block
        units = load(i64, desc, IMAGES) * heads * across
        while load_acquire(cancel) == 0:
            unit = fetch_add(counter, 1)
            if unit >= units:
                break
            image, head = unit // across // heads, unit // across % heads
            attend(vec, desc, cancel, image, head, unit % across * block, scratch)

    return attention


attention_f32 = kernel_of(f32x16)
attention_f32_wide = kernel_of(f32x64)
