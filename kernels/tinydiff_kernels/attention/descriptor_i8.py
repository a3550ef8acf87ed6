"""What attention in 8-bit integers is told: `descriptor.py`'s fields, and where prepared keys and values lie.

    k[j, c]                         ~  low[c] + kscale[c] K[j, c]        K from 0 to 127, a range for each channel
    v[j, c]                         ~  middle[c] + vscale[c] V[j, c]     V from -63 to 63, likewise
    q[i, c] scale log2(e) kscale[c] ~  qscale[i] Q[i, c]                 Q from -63 to 63, a scale for each query

all for each head of an image. A query's scores are qscale[i] times sum over c of Q[i, c] K[j, c], but for low, which
adds the same to all of them: softmax does not see it. So keys need no zero point, and an offset of a channel costs
nothing (SageAttention, Zhang et al., arXiv:2410.02367, subtracts the mean; a range leaves all seven bits for what
varies). Weights of a block of KEY_BLOCK keys are

    P[i, j] = round(127 * 2**(score - the block's largest)), from 0 to 127

and a block adds 2**(its largest - the largest of all) times sum over j of P V to the result, and times sum over j of P
to the sum of weights. A maximum of its own for each block keeps the long tail of a query whose one key is large:
against the largest of all, weights below 1/254 would be nothing, and thousands of those can be most of the result.

One side of each product has no sign and stays below 128, the other stays within 63: four products fit 16 bits
(4 * 127 * 63 = 32004: vpmaddubsw twice before vpmaddwd, smull and smlal twice before sadalp), and what is below 128 is
the same with a sign (sdot) and without (vpdpbusd). So no path corrects anything.

`keys_i8` prepares keys and values of each head once, in the workspace; `attention_i8` reads them there:

    K   [keys / 6, groups, 6, 4]       four channels of a key in four bytes, of six keys side by side; zeros beyond the
                                       last channel, the last key again beyond it
    V   [keys / 4, result rows, 4]     four keys of a channel in four bytes; zeros beyond the last key, anything beyond
                                       the last channel
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinydiff_kernels.attention import descriptor as d

PREPARED = 208  # address of PREPARED_BYTES for each image and head; in them, K first, then at these places
PREPARED_BYTES = 216
GROUPS = 224  # of four channels, in the width of queries and keys
VALUES = 232  # V
KEY_SCALES = 240  # float32 [groups * 4], 0 in channels that do not vary; lows and 1 / scale only while preparing
KEY_LOWS = 248
KEY_INVERSES = 256
VALUE_SCALES = 264  # float32 [value width]
VALUE_MIDDLES = 272
VALUE_INVERSES = 280
QUERY_SCALES = 288  # in a thread's scratch: float32 of each query
WORDS = 37


@dataclass(frozen=True, slots=True)
class Shape(d.Shape):
    """Sizes of one attention, in 8-bit integers."""

    @property
    def groups(self) -> int:
        return -(-self.width // 4)

    @property
    def places(self) -> dict[int, int]:
        """Field -> place in a thread's scratch; of SCRATCH_BYTES, the end."""
        sizes = {  # rows of four bytes a query each
            d.RESULTS: self.groups,
            d.TOPS: self.result_rows,
            d.SUMS: 1,
            QUERY_SCALES: 1,
            d.SCORES: 1,
        }
        places, end = {}, 0
        for field, rows_before in sizes.items():
            end += 4 * self.block_queries * rows_before
            places[field] = end
        return {**places, d.SCRATCH_BYTES: end + 4 * (d.KEY_BLOCK + 2) * d.WIDEST}  # largest and sums too

    @property
    def prepared(self) -> dict[int, int]:
        """Field -> place in what is prepared of a head; of PREPARED_BYTES, the end."""
        sizes = {
            VALUES: 24 * -(-self.keys // d.ROW_TILE) * self.groups,
            KEY_SCALES: 4 * -(-self.keys // 4) * self.result_rows,
            KEY_LOWS: 16 * self.groups,
            KEY_INVERSES: 16 * self.groups,
            VALUE_SCALES: 16 * self.groups,
            VALUE_MIDDLES: 4 * self.value_width,
            VALUE_INVERSES: 4 * self.value_width,
            PREPARED_BYTES: 4 * self.value_width,
        }
        places, end = {}, 0
        for field, nbytes_before in sizes.items():
            end += -(-nbytes_before // d.ALIGNMENT) * d.ALIGNMENT
            places[field] = end
        return places

    @property
    def prepared_bytes(self) -> int:
        """Of all heads and images."""
        return self.images * self.heads * self.prepared[PREPARED_BYTES]


def workspace_bytes(shape: Shape, threads: int) -> int:
    """Bytes that a call needs on so many threads: keys and values in bytes, and scratch as for float32."""
    return shape.prepared_bytes + threads * shape.places[d.SCRATCH_BYTES]


def attention_fields(
    shape: Shape,
    *,
    q: Any,
    k: Any,
    v: Any,
    output: Any,
    strides: d.Strides,
    prepared: Any,
    scratch: Any,
) -> dict[int, Any]:
    """What keys_i8 and then attention_i8 are told; WORDS words. All keys count for all queries.

    `prepared` and `scratch` are the two parts of a workspace of `workspace_bytes(shape, threads)`, with any content.
    """
    fields = d.attention_fields(shape, q=q, k=k, v=v, output=output, strides=strides, workspace=scratch)
    return {**fields, PREPARED: prepared, GROUPS: shape.groups, **shape.prepared}
