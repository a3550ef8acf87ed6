"""norm_apply: activation(x * multiply + add) of every pixel, as float32 or u8, into an image with a border.

Fields in `group.py`; quantising as `ref/quantise.py`. A unit of work is up to 64 pixels of a line of the bordered
image, so that all output is written in order, borders included. A pixel passes through the first-level cache three
times: multiply and add, activation, quantise; short loops whose constants stay in registers.
"""

from __future__ import annotations

from tinydiff_kernels.channels import activate_floats, fill, read, write
from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.norm.group import (
    APPLY_ACTIVATION,
    APPLY_ADD,
    APPLY_FLIP,
    APPLY_MULTIPLY,
    APPLY_RECORDS,
    APPLY_SCRATCH,
    BATCH,
    FIRST_LINE,
    HEIGHT,
    LEFT,
    LINES,
    NEXT_WORKER,
    OUTPUT,
    OUTPUT_CHANNELS,
    OUTPUT_STRIDE,
    RIGHT,
    SEGMENT,
    TOP,
    WIDTH,
    WRAP,
)
from tinydiff_kernels.quantised import quantise
from tinydiff_kernels.simd import (
    Vector,
    composed,
    f32x16,
    fetch_add,
    fma,
    full_like,
    i32x16,
    i64,
    load,
    load_acquire,
    load_splat,
    prefetch,
    splat,
    zero,
)
from tinydiff_kernels.sources import FIRST, FIRST_CHANNELS, FIRST_STRIDE, SECOND, SECOND_CHANNELS, SECOND_STRIDE


@composed(nothing)
def affine(x: int, channels: int, multiply: int, add: int, target: int, ahead: int) -> None:
    """x * multiply + add of one source's channels of a pixel; what lies `ahead` bytes further will be needed soon."""
    c = 0
    while c < channels:
        whole = channels - c >= 16
        prefetch(x, 4 * c + ahead)
        y = read(x, 4 * c, whole)
        if multiply != 0:
            y = fma(y, read(multiply, 4 * c, whole), read(add, 4 * c, whole))
        write(target, 4 * c, y, whole)
        c += 16 if whole else 1


@composed(nothing)
def quantise_floats(x: int, count: int, target: int, inverse: Vector, zero_point: Vector, flip: int) -> None:
    c = 0
    while c < count:
        whole = count - c >= 16
        write(target, c, quantise(read(x, 4 * c, whole), inverse, zero_point, flip), whole)
        c += 16 if whole else 1


@composed(nothing)
def apply_segment(desc: int, image: int, line: int, start: int, end: int, scratch: int) -> None:
    """Pixels start..end of a line of the output."""
    height, width, wrap = load(i64, desc, HEIGHT), load(i64, desc, WIDTH), load(i64, desc, WRAP)
    first, first_stride = load(i64, desc, FIRST), load(i64, desc, FIRST_STRIDE)
    second, second_stride = load(i64, desc, SECOND), load(i64, desc, SECOND_STRIDE)
    first_channels, second_channels = load(i64, desc, FIRST_CHANNELS), load(i64, desc, SECOND_CHANNELS)
    first_slots = (first_channels + 15) // 16 * 16
    row = 4 * (first_slots + (second_channels + 15) // 16 * 16) * image
    multiply, add = load(i64, desc, APPLY_MULTIPLY), load(i64, desc, APPLY_ADD)
    second_multiply, second_add = multiply, add
    if multiply != 0:
        multiply, add = multiply + row, add + row
        second_multiply, second_add = multiply + 4 * first_slots, add + 4 * first_slots
    activation, flip = load(i64, desc, APPLY_ACTIVATION), load(i64, desc, APPLY_FLIP)
    records = load(i64, desc, APPLY_RECORDS)
    inverse, zero_point, size = zero(f32x16), zero(i32x16), 4
    border = desc + APPLY_RECORDS  # for float32 this field is 0, and so is its first byte
    if records != 0:
        record = records + 8 * image
        inverse = full_like(inverse, 1.0) / load_splat(f32x16, record, 0)
        zero_point = load_splat(i32x16, record, 4) + splat(i32x16, flip)
        size, border = 1, record + 4  # the low byte of zero - flip is zero ^ flip
    channels, written = first_channels + second_channels, load(i64, desc, OUTPUT_CHANNELS)
    across, stride = load(i64, desc, LEFT) + width + load(i64, desc, RIGHT), load(i64, desc, OUTPUT_STRIDE)
    target = load(i64, desc, OUTPUT) + stride * ((load(i64, desc, LINES) * image + line) * across + start)
    y = load(i64, desc, FIRST_LINE) + line - load(i64, desc, TOP)
    if wrap != 0:
        y %= height
    for x in range(start - load(i64, desc, LEFT), end - load(i64, desc, LEFT)):
        inside = x % width if wrap != 0 else x
        if 0 <= y < height and 0 <= inside < width:
            pixel = (height * image + y) * width + inside
            floats = target if records == 0 else scratch
            affine(first + first_stride * pixel, first_channels, multiply, add, floats, 2 * first_stride)
            place = floats + 4 * first_channels
            affine(
                second + second_stride * pixel, second_channels, second_multiply, second_add, place, 2 * second_stride
            )
            activate_floats(floats, channels, activation)
            if records != 0:
                quantise_floats(floats, channels, target, inverse, zero_point, flip)
            fill(target + size * channels, size * (written - channels), border)
        else:
            fill(target, size * written, border)
        target += stride


def norm_apply(desc: int, counter: int, cancel: int) -> None:
    """Take segments of lines until none is left."""
    channels = (load(i64, desc, FIRST_CHANNELS) + 15) // 16 * 16 + (load(i64, desc, SECOND_CHANNELS) + 15) // 16 * 16
    scratch = load(i64, desc, APPLY_SCRATCH) + 4 * channels * fetch_add(counter + NEXT_WORKER, 1)
    across = load(i64, desc, LEFT) + load(i64, desc, WIDTH) + load(i64, desc, RIGHT)
    lines, segments = load(i64, desc, LINES), (across + SEGMENT - 1) // SEGMENT
    units = load(i64, desc, BATCH) * lines * segments
    while load_acquire(cancel) == 0:
        unit = fetch_add(counter, 1)
        if unit >= units:
            break
        line, start = unit // segments, unit % segments * SEGMENT
        apply_segment(desc, line // lines, line % lines, start, min(across, start + SEGMENT), scratch)
