"""Group norm, quantised or not, as three kernels: what each is told, and how that is filled. No Numba here.

    norm_stats   x -> mean, sum of squared deviations, minimum, maximum of every channel in every tile of 128 rows
    norm_fold    statistics, gamma, beta -> for every image and channel y = x * multiply + add; the image's range
    norm_apply   x -> activation(x * multiply + add) as float32 or u8, into rows or into an image with a border

The input is one or two sources (`sources.py`). Without a norm, `norm_stats` and `norm_fold` (groups 0) give an
image's range and `norm_apply` quantises it; `norm_apply` alone with `multiply = add = 0` only copies into a border.

NaN and infinity: a group that holds one is NaN as a whole, in float32; in u8 the image's record has scale NaN
(`ref/quantise.py`), and so has an image with numbers beyond 4e37. Numbers about 1e19 apart, whose squares leave
float32, count as infinite.

Buffers between them, in bytes (any alignment, not initialised; slots = `sources.slots`):
    stats  stats_bytes(batch, pixels, slots)      multiply, add  4 * batch * slots each
    records  8 * batch                           scratch of norm_apply  scratch_bytes(sources) a thread

Operands may be addresses, arrays, or whatever the caller puts addresses in place of before `words.filled`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinydiff_kernels import words
from tinydiff_kernels.matmul.descriptor import ACTIVATIONS
from tinydiff_kernels.ref.quantise import DIPS
from tinydiff_kernels.sources import Source, slots, source_fields

Fields = dict[int, Any]

BATCH = 48  # images; in all three kernels
PIXELS = 56  # rows of an image
STATS = 64  # address of float32 [batch, tiles, 4, slots]: mean, squared deviations, minimum, maximum
STATS_WORDS = 9
TILE_ROWS = 128
CHUNK = 512  # channels of a unit of work

GROUPS = 72  # 0: no norm
GAMMA = 80  # address of float32 [channels]
BETA = 88
EPS = 96  # float32
SCALE_SHIFT = 104  # address of float32 rows [2 * channels], scale and then shift, one an image; 0: none
SCALE_SHIFT_STRIDE = 112  # bytes from row to row
MULTIPLY = 120  # address of float32 [batch, slots]
ADD = 128
RECORDS = 136  # address of records of 8 bytes, one an image; 0: not wanted
ACTIVATION = 144  # the range is that after it
DIP = 152  # float32: where the activation has its minimum, infinity where it has none
DEPTH = 160  # float32: its value there
FLIP = 168  # 0, or 0x80 to keep q as int8
FOLD_WORDS = 22

HEIGHT = 56  # of norm_apply, which has these fields after BATCH
WIDTH = 64
TOP = 72  # pixels of border
BOTTOM = 80
LEFT = 88
RIGHT = 96
WRAP = 104  # 1: the border continues on the other side; 0: it is 0.0, or the zero point
FIRST_LINE = 112  # lines of the bordered image to write, for strips
LINES = 120
APPLY_MULTIPLY = 128  # as MULTIPLY; 0: y = x
APPLY_ADD = 136
APPLY_ACTIVATION = 144
APPLY_RECORDS = 152  # 0: float32 output
APPLY_FLIP = 160
OUTPUT = 168  # address of the first pixel of line FIRST_LINE of image 0
OUTPUT_STRIDE = 176  # bytes from pixel to pixel; lines and images follow each other without gaps
OUTPUT_CHANNELS = 184  # channels written; those beyond the input's get the border's value
APPLY_SCRATCH = 192  # address of scratch_bytes for each thread
APPLY_WORDS = 25
NEXT_WORKER = 8  # byte offset in the counters: threads number themselves to find their scratch
SEGMENT = 64  # pixels of a unit of work


def stats_bytes(batch: int, pixels: int, slot_count: int) -> int:
    """Size of the statistics; slots as `sources.slots` counts them."""
    return batch * -(-pixels // TILE_ROWS) * 16 * slot_count


def scratch_bytes(sources: Sequence[Source]) -> int:
    """What norm_apply needs for each thread: a pixel in float32."""
    return 4 * slots(sources)


def stats_fields(sources: Sequence[Source], batch: int, pixels: int, stats: Any) -> Fields:
    """What norm_stats is told; STATS_WORDS words."""
    return {**source_fields(sources), BATCH: batch, PIXELS: pixels, STATS: stats}


@dataclass(frozen=True, slots=True)
class Norm:
    """The learned part: groups, gamma, beta and perhaps a row of scale and shift for each image. Default: no norm."""

    groups: int = 0
    gamma: Any = 0
    beta: Any = 0
    eps: float = 0.0
    scale_shift: Any = 0
    scale_shift_stride: int = 0


def fold_fields(
    sources: Sequence[Source],
    batch: int,
    pixels: int,
    stats: Any,
    norm: Norm,
    multiply: Any,
    add: Any,
    *,
    records: Any = 0,
    activation: str | None = None,
    flip: int = 0,
) -> Fields:
    """What norm_fold is told; FOLD_WORDS words. Of the sources only the channels count."""
    dip, depth = DIPS.get(activation, (float("inf"), 0.0))
    return {
        **source_fields(sources),
        BATCH: batch,
        PIXELS: pixels,
        STATS: stats,
        GROUPS: norm.groups,
        GAMMA: norm.gamma,
        BETA: norm.beta,
        EPS: words.float_bits(norm.eps),
        SCALE_SHIFT: norm.scale_shift,
        SCALE_SHIFT_STRIDE: norm.scale_shift_stride,
        MULTIPLY: multiply,
        ADD: add,
        RECORDS: records,
        ACTIVATION: ACTIVATIONS[activation],
        DIP: words.float_bits(dip),
        DEPTH: words.float_bits(depth),
        FLIP: flip,
    }


def apply_fields(
    sources: Sequence[Source],
    shape: tuple[int, int, int],
    multiply: Any,
    add: Any,
    output: Any,
    output_stride: int,
    scratch: Any,
    *,
    output_channels: int | None = None,
    border: tuple[int, int, int, int] = (0, 0, 0, 0),
    wrap: bool = False,
    lines: tuple[int, int] | None = None,
    records: Any = 0,
    activation: str | None = None,
    flip: int = 0,
) -> Fields:
    """What norm_apply is told; APPLY_WORDS words. shape (batch, height, width), border (top, bottom, left, right).

    `lines` = (first, count) writes a strip of each bordered image; whole images otherwise.
    """
    batch, height, width = shape
    top, bottom, left, right = border
    first, count = (0, top + height + bottom) if lines is None else lines
    channels = sum(source.channels for source in sources)
    return {
        **source_fields(sources),
        BATCH: batch,
        HEIGHT: height,
        WIDTH: width,
        TOP: top,
        BOTTOM: bottom,
        LEFT: left,
        RIGHT: right,
        WRAP: int(wrap),
        FIRST_LINE: first,
        LINES: count,
        APPLY_MULTIPLY: multiply,
        APPLY_ADD: add,
        APPLY_ACTIVATION: ACTIVATIONS[activation],
        APPLY_RECORDS: records,
        APPLY_FLIP: flip,
        OUTPUT: output,
        OUTPUT_STRIDE: output_stride,
        APPLY_SCRATCH: scratch,
        OUTPUT_CHANNELS: channels if output_channels is None else output_channels,
    }
