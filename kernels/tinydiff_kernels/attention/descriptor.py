"""What attention is told: the fields of its descriptor, its workspace, and how both are planned. No Numba here.

    out[i] = sum over keys j of softmax_j(scale q[i] . k[j]) v[j]        for each image and each head

Online softmax (Milakov and Gimelshein, arXiv:1805.02867; FlashAttention, Dao et al., arXiv:2205.14135): keys come in
blocks, and each query remembers its largest score m so far, the sum l of its weights and the weighted sum o of
values. A block that raises m multiplies l and o by 2**(m_old - m_new). Only one block of scores exists at a time, so
memory does not depend on the number of tokens.

Lanes are queries. One vector holds the same channel of many queries, and

    scores[j, :] = sum over c of k[j, c] q[c, :]          o[c, :] = sum over j of v[j, c] weights[j, :]

take keys and values one element at a time from where they lie: nothing of them is packed, padded or transposed, for
any head width. Maximum, sum and rescaling go lane by lane, without moving lanes. Only the block of queries is
transposed into scratch, and its result back.

The softmax is in base 2: queries are multiplied by scale * log2(e) on their way into scratch. Addresses, strides and
places are in bytes. A kernel reads the descriptor as int64 words at the byte offsets below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tinydiff_kernels.words import float_bits

Q = 0  # address of the queries, float32 rows [images * queries, heads * width]
K = 8  # of the keys [images * keys, heads * width]
V = 16  # of the values [images * keys, heads * value_width]
OUTPUT = 24  # of the result [images * queries, heads * value_width]
Q_STRIDE = 32  # from one row to the next
K_STRIDE = 40
V_STRIDE = 48
OUTPUT_STRIDE = 56
IMAGES = 64
HEADS = 72
QUERIES = 80  # rows of one image
KEYS = 88
WIDTH = 96  # channels of a head, in queries and keys
VALUE_WIDTH = 104  # in values and result
LENGTHS = 112  # address of one int64 an image: how many of its keys count; 0: all do
CAUSAL = 120  # 1: query i sees keys 0 to i
SCALE = 128  # float32: scale * log2(e)
BLOCK_QUERIES = 136  # queries in the unit of work that a thread takes: a multiple of WIDEST
RESULT_ROWS = 144  # value_width in whole tiles
SCRATCH = 152  # address of SCRATCH_BYTES for each thread; in it, first the transposed queries, then at these places
SCRATCH_BYTES = 160
RESULTS = 168  # weighted sums of values, transposed
TOPS = 176  # largest score of each query
SUMS = 184  # sum of weights of each query
POSITIONS = 192  # number of each query in its image, as a float
SCORES = 200  # [KEY_BLOCK, lanes], then the weights
WORDS = 26

NEXT_WORKER = 8  # byte offset in the counters: threads number themselves to find their scratch
ROW_TILE = 6  # rows (keys or channels) that the micro-kernel holds in registers
KEY_BLOCK = 96  # keys between two looks at the maximum, whole tiles; part of the result's bits: the same on every path
WIDEST = 64  # queries in the widest vector of any path
QUERY_CACHE = 1024 * 1024  # bytes of queries and results in a unit of work, so that they stay in the second-level cache
MOST_QUERIES = 256  # in a unit of work; every unit reads all keys and values once, so few would wait for memory
UNITS = 16  # where there are few heads and few queries: units of work for so many threads
ALIGNMENT = 64  # of scratch, for speed


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of one attention: `images` * `heads` problems of `queries` x `keys`."""

    images: int
    heads: int
    queries: int
    keys: int
    width: int
    value_width: int

    @property
    def block_queries(self) -> int:
        """Queries in a unit of work. Not a matter of path or threads: causal units see no key beyond their own end."""
        fitting = QUERY_CACHE // (4 * (self.width + self.value_width))
        shared = -(-self.images * self.heads * self.queries // UNITS)
        needed = -(-self.queries // WIDEST) * WIDEST
        return max(WIDEST, min(fitting, shared, needed, MOST_QUERIES) // WIDEST * WIDEST)

    @property
    def result_rows(self) -> int:
        return -(-self.value_width // ROW_TILE) * ROW_TILE

    @property
    def places(self) -> dict[int, int]:
        """Field -> place in a thread's scratch; of SCRATCH_BYTES, the end."""
        sizes = {  # rows of one float a query each
            RESULTS: self.width,
            TOPS: self.result_rows,
            SUMS: 1,
            POSITIONS: 1,
            SCORES: 1,
        }
        places, end = {}, 0
        for field, rows_before in sizes.items():
            end += 4 * self.block_queries * rows_before
            places[field] = end
        return {**places, SCRATCH_BYTES: end + 4 * KEY_BLOCK * WIDEST}


@dataclass(frozen=True, slots=True)
class Strides:
    """Bytes from one row to the next."""

    q: int
    k: int
    v: int
    output: int


def workspace_bytes(shape: Shape, threads: int) -> int:
    """Bytes that a call needs on so many threads, the same for any number of keys."""
    return threads * shape.places[SCRATCH_BYTES]


def attention_fields(
    shape: Shape,
    *,
    q: Any,
    k: Any,
    v: Any,
    output: Any,
    strides: Strides,
    workspace: Any,
    lengths: Any = 0,
    causal: bool = False,
    scale: float | None = None,
) -> dict[int, Any]:
    """What attention_f32 is told; WORDS words. q, k, v, output, workspace and lengths (0: all keys count) are operands.

    The workspace has `workspace_bytes(shape, threads)`, with any content; lengths are int64 from 1 to the number of
    keys; scale is 1/sqrt(width) unless given.
    """
    factor = 1 / math.sqrt(shape.width) if scale is None else scale
    return {
        Q: q,
        K: k,
        V: v,
        OUTPUT: output,
        Q_STRIDE: strides.q,
        K_STRIDE: strides.k,
        V_STRIDE: strides.v,
        OUTPUT_STRIDE: strides.output,
        IMAGES: shape.images,
        HEADS: shape.heads,
        QUERIES: shape.queries,
        KEYS: shape.keys,
        WIDTH: shape.width,
        VALUE_WIDTH: shape.value_width,
        LENGTHS: lengths,
        CAUSAL: int(causal),
        SCALE: float_bits(factor * math.log2(math.e)),
        BLOCK_QUERIES: shape.block_queries,
        RESULT_ROWS: shape.result_rows,
        SCRATCH: workspace,
        **shape.places,
    }
