"""keys_i8: keys and values of attention_i8 as bytes. `descriptor_i8.py` has the formulas, the layout and the fields.

A unit of work is the keys, or the values, of one head of one image: a pass for the range of each channel, one for the
bytes. Four channels at a time, the last few one by one.

A channel with NaN or infinity gets the scale NaN. Of keys, all results of its head become NaN; of values, its channel.
"""

from __future__ import annotations

from typing import Any

from tinydiff_kernels._numba import types
from tinydiff_kernels.attention import descriptor as d
from tinydiff_kernels.attention.descriptor_i8 import (
    GROUPS,
    KEY_INVERSES,
    KEY_LOWS,
    KEY_SCALES,
    PREPARED,
    PREPARED_BYTES,
    VALUE_INVERSES,
    VALUE_MIDDLES,
    VALUE_SCALES,
    VALUES,
)
from tinydiff_kernels.attention.queries import nothing
from tinydiff_kernels.simd import (
    Vector,
    bit_and,
    composed,
    f32x4,
    fetch_add,
    fma,
    full_like,
    get_lane,
    i32x4,
    i64,
    less,
    load,
    load_acquire,
    load_splat,
    maximum,
    minimum,
    narrow,
    round_even,
    select,
    shift_left,
    splat,
    store,
    truncate_in_range,
    u8,
    u8x4,
    zero,
)

SMALLEST_SCALE = 2.0**-126
CANCEL_KEYS = 1024  # between two looks at the cancel word


@composed(lambda address, offset, whole: f32x4)
def read(address: int, offset: int, whole: bool) -> Vector:
    """Four channels, or one in every lane."""
    if whole:
        return load(f32x4, address, offset)
    return load_splat(f32x4, address, offset)


@composed(nothing)
def write(address: int, offset: int, x: Vector, whole: bool) -> None:
    """Four channels, or the first."""
    if whole:
        store(address, offset, x)
    else:
        store(address, offset, get_lane(x, 0))


@composed(lambda *_arguments: types.UniTuple(f32x4, 3))
def column(x: int, stride: int, rows: int, whole: bool) -> Any:
    """Half of the smallest and of the largest value of four channels (twice could be infinite), and 0 or NaN."""
    low = high = read(x, 0, whole)
    bad, none = zero(f32x4), zero(f32x4)
    for _ in range(rows // 4):  # so that one operation on each result waits for the last one, not four
        y0, y1, y2, y3 = (
            read(x, 0, whole),
            read(x, stride, whole),
            read(x, 2 * stride, whole),
            read(x, 3 * stride, whole),
        )
        low = minimum(minimum(minimum(y0, y1), minimum(y2, y3)), low)
        high = maximum(maximum(maximum(y0, y1), maximum(y2, y3)), high)
        bad = bad + (fma(y0, none, y1 * none) + fma(y2, none, y3 * none))
        x += 4 * stride
    for _ in range(rows % 4):
        y = read(x, 0, whole)
        low, high, bad = minimum(y, low), maximum(y, high), fma(y, none, bad)
        x += stride
    half = splat(f32x4, 0.5)
    return low * half, high * half, bad


@composed(lambda distance, steps: types.UniTuple(f32x4, 2))
def scales(distance: Vector, steps: Vector) -> Any:
    """distance / steps and its inverse; both 0 where it is too small to matter. NaN stays."""
    scale = distance / steps
    tiny = less(scale, full_like(scale, SMALLEST_SCALE))
    none = zero(f32x4)
    return select(tiny, none, scale), select(tiny, none, full_like(scale, 1.0) / scale)


@composed(nothing)
def key_ranges(desc: int, k: int, stride: int, keys: int, head: int) -> None:
    width, groups = load(i64, desc, d.WIDTH), load(i64, desc, GROUPS)
    to_scale, to_low, to_inverse = (
        head + load(i64, desc, KEY_SCALES),
        head + load(i64, desc, KEY_LOWS),
        head + load(i64, desc, KEY_INVERSES),
    )
    store(to_scale, 16 * groups - 16, zero(f32x4))
    c = 0
    while c < width:
        whole = width - c >= 4
        low, high, bad = column(k + 4 * c, stride, keys, whole)
        scale, inverse = scales(high - low + bad, splat(f32x4, 63.5))
        write(to_scale, 4 * c, scale, whole)
        write(to_low, 4 * c, low + low, whole)
        write(to_inverse, 4 * c, inverse, whole)
        c += 4 if whole else 1


@composed(lambda *_arguments: i32x4)
def key_steps(k: int, low: int, inverse: int, offset: int, whole: bool) -> Vector:
    """Steps of a key above the lowest; what is no number gives 0."""
    steps = (read(k, offset, whole) - read(low, offset, whole)) * read(inverse, offset, whole)
    bounded = minimum(maximum(steps, zero(f32x4)), splat(f32x4, 127.0))
    return truncate_in_range(round_even(bounded))


@composed(nothing)
def prepare_keys(desc: int, cancel: int, k: int, stride: int, keys: int, head: int) -> None:
    width, groups = load(i64, desc, d.WIDTH), load(i64, desc, GROUPS)
    key_ranges(desc, k, stride, keys, head)
    low, inverse = head + load(i64, desc, KEY_LOWS), head + load(i64, desc, KEY_INVERSES)
    whole = width // 4 * 4
    for j in range((keys + 5) // 6 * 6):
        if j % CANCEL_KEYS == 0 and load_acquire(cancel) != 0:
            return
        row, to = k + stride * min(j, keys - 1), head + 4 * groups * (j // 6 * 6) + 4 * (j % 6)
        for c in range(0, whole, 4):
            store(to, 6 * c, narrow(u8x4, key_steps(row, low, inverse, 4 * c, True)))
        if whole < width:
            store(to, 6 * whole, zero(u8x4))
        for c in range(whole, width):
            store(to, 5 * whole + c, u8(get_lane(key_steps(row, low, inverse, 4 * c, False), 0)))


@composed(nothing)
def value_ranges(desc: int, v: int, stride: int, keys: int, head: int) -> None:
    width = load(i64, desc, d.VALUE_WIDTH)
    to_scale, to_middle, to_inverse = (
        head + load(i64, desc, VALUE_SCALES),
        head + load(i64, desc, VALUE_MIDDLES),
        head + load(i64, desc, VALUE_INVERSES),
    )
    c = 0
    while c < width:
        whole = width - c >= 4
        low, high, bad = column(v + 4 * c, stride, keys, whole)
        scale, inverse = scales(high - low + bad, splat(f32x4, 63.0))
        write(to_scale, 4 * c, scale, whole)
        write(to_middle, 4 * c, low + high, whole)
        write(to_inverse, 4 * c, inverse, whole)
        c += 4 if whole else 1


@composed(lambda *_arguments: i32x4)
def value_byte(v: int, middle: int, inverse: int, offset: int, whole: bool) -> Vector:
    """Steps of a value from the middle of its channel, as the low byte of each lane; what is no number gives -63."""
    steps = (read(v, offset, whole) - read(middle, offset, whole)) * read(inverse, offset, whole)
    bounded = minimum(maximum(steps, splat(f32x4, -63.0)), splat(f32x4, 63.0))
    return bit_and(truncate_in_range(round_even(bounded)), splat(i32x4, 0xFF))


@composed(nothing)
def prepare_values(desc: int, cancel: int, v: int, stride: int, keys: int, head: int) -> None:
    width = load(i64, desc, d.VALUE_WIDTH)
    value_ranges(desc, v, stride, keys, head)
    middle, inverse = head + load(i64, desc, VALUE_MIDDLES), head + load(i64, desc, VALUE_INVERSES)
    target = head + load(i64, desc, VALUES)
    for j in range(0, keys, 4):
        if j % CANCEL_KEYS == 0 and load_acquire(cancel) != 0:
            return
        last = keys - 1 - j
        v1, v2, v3 = v + stride * min(1, last), v + stride * min(2, last), v + stride * min(3, last)
        mask = splat(i32x4, -1 if last >= 3 else (1 << 8 * (last + 1)) - 1)
        c = 0
        while c < width:
            whole = width - c >= 4
            b0, b1 = value_byte(v, middle, inverse, 4 * c, whole), value_byte(v1, middle, inverse, 4 * c, whole)
            b2, b3 = value_byte(v2, middle, inverse, 4 * c, whole), value_byte(v3, middle, inverse, 4 * c, whole)
            four = b0 + shift_left(b1, 8) + (shift_left(b2, 16) + shift_left(b3, 24))
            write(target, 4 * c, bit_and(four, mask), whole)
            c += 4 if whole else 1
        v += 4 * stride
        target += 4 * load(i64, desc, d.RESULT_ROWS)


def keys_i8(desc: int, counter: int, cancel: int) -> None:
    """Even units prepare a head's keys, odd ones its values."""
    heads, keys = load(i64, desc, d.HEADS), load(i64, desc, d.KEYS)
    k_stride, v_stride = load(i64, desc, d.K_STRIDE), load(i64, desc, d.V_STRIDE)
    units = 2 * load(i64, desc, d.IMAGES) * heads
    while load_acquire(cancel) == 0:
        unit = fetch_add(counter, 1)
        if unit >= units:
            break
        image, head = unit // 2 // heads, unit // 2 % heads
        prepared = load(i64, desc, PREPARED) + load(i64, desc, PREPARED_BYTES) * (unit // 2)
        if unit % 2 == 0:
            k = load(i64, desc, d.K) + k_stride * image * keys + 4 * load(i64, desc, d.WIDTH) * head
            prepare_keys(desc, cancel, k, k_stride, keys, prepared)
        else:
            v = load(i64, desc, d.V) + v_stride * image * keys + 4 * load(i64, desc, d.VALUE_WIDTH) * head
            prepare_values(desc, cancel, v, v_stride, keys, prepared)
