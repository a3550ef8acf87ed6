"""attention_i8: softmax(scale q k^T) v with products of bytes. `ref/attention_i8.py` is its specification.

The loops are those of `float32.py`: online softmax over blocks of KEY_BLOCK keys with queries in the lanes. Keys and
values are bytes that `keys_i8` prepared (`descriptor_i8.py` has the formulas and the fields). Within a block all sums
are exact integers; blocks are joined in float32, in the order of keys, each a fixed sequence of operations on its own
lane. So the bits depend neither on the path nor on the number of threads.

NaN and infinity: from a query they make its row of the head NaN; from a key all rows of its head; from a value its
channel in all rows of the head. Other heads and images they do not reach. Finite numbers whose products pass float32's
range do the same.

Scratch of a thread: queries as bytes, results, three numbers a query, a block of scores. In the wide kernel a vector is
64 queries, of which 32 are weighed at a time: four keys' weights then fit the registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels.attention import descriptor as d
from tinydiff_kernels.attention import tile_i8_lanes, tile_i8_pairs
from tinydiff_kernels.attention.descriptor_i8 import (
    GROUPS,
    KEY_SCALES,
    PREPARED,
    PREPARED_BYTES,
    QUERY_SCALES,
    VALUE_MIDDLES,
    VALUE_SCALES,
    VALUES,
)
from tinydiff_kernels.attention.queries import nothing, store_rows
from tinydiff_kernels.attention.queries_i8 import load_queries
from tinydiff_kernels.attention.softmax_i8 import LOWEST, adder, scorer, total_of_signed, total_of_unsigned, weigher
from tinydiff_kernels.attention.tile_i8 import (
    key_pairs,
    keys_unsigned,
    six_rows,
    six_rows_of_pairs,
    value_pairs,
    weights_unsigned,
)
from tinydiff_kernels.simd import (
    composed,
    exp2_of_negative,
    f32,
    fetch_add,
    fma,
    i64,
    load,
    load_acquire,
    load_splat,
    maximum,
    splat,
    store,
    to_float,
    vector,
    zero,
)

Function = Callable[..., Any]


def kernel_of(lanes: int, key_rows: Function, value_rows: Function, weigh_keys: Function) -> Callable[..., None]:
    """The kernel with vectors of so many queries; how they multiply is `tile_i8.py`'s."""
    floats, kind, size = vector("f32", lanes), vector("i32", lanes), 4 * lanes
    score_keys = scorer(kind, size, key_rows)
    add_values = adder(floats, size, value_rows)

    @composed(nothing)
    def begin(desc: int, q: int, count: int, prepared: int, scratch: int) -> None:
        """Queries into lanes; no key seen yet."""
        width, row, rows = load(i64, desc, d.WIDTH), 4 * load(i64, desc, GROUPS), load(i64, desc, d.RESULT_ROWS)
        stride, scale, key_scales = load(i64, desc, d.Q_STRIDE), load(f32, desc, d.SCALE), load(i64, desc, KEY_SCALES)
        scales = scratch + load(i64, desc, QUERY_SCALES)
        for lane in range(0, count, lanes):
            load_queries(
                lanes, q + stride * lane, stride, count - lane, width, scale, prepared + key_scales,
                scratch + row * lane, scales + 4 * lane,
            )  # fmt: skip
            store(scratch + load(i64, desc, d.TOPS), 4 * lane, splat(kind, LOWEST))
            store(scratch + load(i64, desc, d.SUMS), 4 * lane, zero(floats))
            results = scratch + load(i64, desc, d.RESULTS) + 4 * rows * lane
            for at in range(0, size * rows, size):
                store(results, at, splat(floats, -0.0))  # as in `float32.py`

    @composed(nothing)
    def add_keys(desc: int, prepared: int, start: int, keys: int, lane: int, scratch: int) -> None:
        """A block of keys from number `start`, for a vector of queries."""
        groups, rows = load(i64, desc, GROUPS), load(i64, desc, d.RESULT_ROWS)
        scores, results = scratch + load(i64, desc, d.SCORES), scratch + load(i64, desc, d.RESULTS)
        tops, sums = scratch + load(i64, desc, d.TOPS), scratch + load(i64, desc, d.SUMS)
        scales = scratch + load(i64, desc, QUERY_SCALES)
        scale = load(floats, scales, 4 * lane)
        here = score_keys(prepared + 4 * groups * start, keys, groups, scratch + 4 * groups * lane, scores)
        earlier = load(kind, tops, 4 * lane)
        top = maximum(here, earlier)
        before = exp2_of_negative(to_float(earlier - top) * scale)
        now = exp2_of_negative(to_float(here - top) * scale)
        store(scores, d.KEY_BLOCK * size, here)
        weigh_keys(keys, scores + d.KEY_BLOCK * size, scales + 4 * lane, scores, scores + (d.KEY_BLOCK + 1) * size)
        total = to_float(load(kind, scores, (d.KEY_BLOCK + 1) * size))
        store(tops, 4 * lane, top)
        store(sums, 4 * lane, fma(load(floats, sums, 4 * lane), before, total * now))
        values = prepared + load(i64, desc, VALUES) + rows * start
        add_values(values, (keys + 3) // 4, rows, before, now, scores, results + 4 * rows * lane)

    @composed(nothing)
    def finish(desc: int, out: int, count: int, prepared: int, scratch: int) -> None:
        """Divide by the sums, give channels their range back, and write the rows."""
        width, rows = load(i64, desc, d.VALUE_WIDTH), load(i64, desc, d.RESULT_ROWS)
        stride = load(i64, desc, d.OUTPUT_STRIDE)
        scales, middles = prepared + load(i64, desc, VALUE_SCALES), prepared + load(i64, desc, VALUE_MIDDLES)
        for lane in range(0, count, lanes):
            sums = load(floats, scratch + load(i64, desc, d.SUMS), 4 * lane)
            results = scratch + load(i64, desc, d.RESULTS) + 4 * rows * lane
            for c in range(width):
                mean = load(floats, results, size * c) / sums
                result = fma(mean, load_splat(floats, scales, 4 * c), load_splat(floats, middles, 4 * c))
                store(results, size * c, result)
            store_rows(floats, results, out + stride * lane, stride, count - lane, width)

    @composed(nothing)
    def attend(desc: int, cancel: int, image: int, head: int, first: int, scratch: int) -> None:
        """A block of queries from number `first`, over all keys. Cancelled, it writes nothing."""
        keys, queries, heads = load(i64, desc, d.KEYS), load(i64, desc, d.QUERIES), load(i64, desc, d.HEADS)
        count = min(load(i64, desc, d.BLOCK_QUERIES), queries - first)
        row, place = image * queries + first, 4 * head
        q = load(i64, desc, d.Q) + load(i64, desc, d.Q_STRIDE) * row + place * load(i64, desc, d.WIDTH)
        out = load(i64, desc, d.OUTPUT) + load(i64, desc, d.OUTPUT_STRIDE) * row
        prepared = load(i64, desc, PREPARED) + load(i64, desc, PREPARED_BYTES) * (image * heads + head)
        begin(desc, q, count, prepared, scratch)
        for start in range(0, keys, d.KEY_BLOCK):
            if load_acquire(cancel) != 0:
                return
            for lane in range(0, count, lanes):
                add_keys(desc, prepared, start, min(d.KEY_BLOCK, keys - start), lane, scratch)
        finish(desc, out + place * load(i64, desc, d.VALUE_WIDTH), count, prepared, scratch)

    @composed(nothing)
    def attention(desc: int, counter: int, cancel: int) -> None:
        scratch = load(i64, desc, d.SCRATCH) + load(i64, desc, d.SCRATCH_BYTES) * fetch_add(counter + d.NEXT_WORKER, 1)
        heads, block = load(i64, desc, d.HEADS), load(i64, desc, d.BLOCK_QUERIES)
        across = (load(i64, desc, d.QUERIES) + block - 1) // block
        units = load(i64, desc, d.IMAGES) * heads * across
        while load_acquire(cancel) == 0:
            unit = fetch_add(counter, 1)
            if unit >= units:
                break
            image, head = unit // across // heads, unit // across % heads
            attend(desc, cancel, image, head, unit % across * block, scratch)

    return attention


def wide_kernel(lanes: int, part: int) -> Callable[..., None]:
    """For vpdpbusd."""
    kind, unsigned, signed = vector("i32", lanes), vector("u8", 4 * lanes), vector("i8", 4 * lanes)
    key_rows = six_rows(kind, 4 * lanes, keys_unsigned(unsigned, signed))
    value_rows = six_rows(kind, 4 * lanes, weights_unsigned(unsigned, signed))
    return kernel_of(lanes, key_rows, value_rows, unsigned_weigher(lanes, part))


def pairs_kernel(lanes: int, part: int) -> Callable[..., None]:
    """For vpmaddubsw."""
    kind, size, unsigned, signed = vector("i32", lanes), 4 * lanes, vector("u8", 4 * lanes), vector("i8", 4 * lanes)
    key_rows = six_rows_of_pairs(kind, size, key_pairs(unsigned, signed, size), keys_unsigned(unsigned, signed))
    value_rows = six_rows_of_pairs(kind, size, value_pairs(unsigned, signed, size), weights_unsigned(unsigned, signed))
    return kernel_of(lanes, key_rows, value_rows, unsigned_weigher(lanes, part))


def unsigned_weigher(lanes: int, part: int) -> Function:
    totals = total_of_unsigned(vector("u8", 4 * part), vector("i8", 4 * part))
    return weigher(4 * lanes, vector("f32", part), totals)


def signed_kernel(lanes: int, part: int, rows: Function) -> Callable[..., None]:
    """For sdot, or smull and smlal."""
    weigh_keys = weigher(4 * lanes, vector("f32", part), total_of_signed(vector("i8", 4 * part)))
    return kernel_of(lanes, rows, rows, weigh_keys)


_unsigned, _wide, _pairs = wide_kernel(16, 8), wide_kernel(64, 32), pairs_kernel(16, 8)
_lanes = signed_kernel(16, 8, tile_i8_lanes.six_rows)
_narrow = signed_kernel(8, 8, tile_i8_pairs.six_rows(8))

# Functions of the module: a compiled closure is kept under what it holds, which is no name that another process knows.


def attention_i8(desc: int, counter: int, cancel: int) -> None:
    """16 queries at a time, unsigned."""
    _unsigned(desc, counter, cancel)


def attention_i8_pairs(desc: int, counter: int, cancel: int) -> None:
    """16 queries at a time, sums of four products in 16 bits (AVX2)."""
    _pairs(desc, counter, cancel)


def attention_i8_wide(desc: int, counter: int, cancel: int) -> None:
    """64 queries at a time (AVX-512 with VNNI)."""
    _wide(desc, counter, cancel)


def attention_i8_lanes(desc: int, counter: int, cancel: int) -> None:
    """16 queries at a time, sdot by lane."""
    _lanes(desc, counter, cancel)


def attention_i8_narrow(desc: int, counter: int, cancel: int) -> None:
    """8 queries at a time, sums of four products in 16 bits (ARM without dot products)."""
    _narrow(desc, counter, cancel)
