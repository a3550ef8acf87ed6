"""keys_i8: keys and values of attention_i8 as bytes. `descriptor_i8.py` has the formulas, the layout and the fields.

A unit of work is the keys, or the values, of one head of one image: a pass for the range of each channel, one for the
bytes. Sixteen channels at a time, then four, the last few one by one.

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
from tinydiff_kernels.channels import write
from tinydiff_kernels.quantised import SMALLEST_SCALE
from tinydiff_kernels.simd import (
    Vector,
    composed,
    f32x4,
    f32x16,
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
    reinterpret,
    round_even,
    select,
    shift_left,
    splat,
    store,
    truncate_in_range,
    u8,
    u8x4,
    u8x16,
    vector,
    zero,
)

KEY_STEPS, VALUE_STEPS = 127.0, 63.0
CANCEL_KEYS = 1024  # between two looks at the cancel word


@composed(lambda vec, *_: vec.instance_type)
def read(vec: Any, address: int, offset: int, whole: bool) -> Vector:
    """A vector of channels, or one in every lane."""
    if whole:
        return load(vec, address, offset)
    return load_splat(vec, address, offset)


@composed(lambda vec, *_: types.UniTuple(vec.instance_type, 3))
def column(vec: Any, x: int, stride: int, rows: int, whole: bool) -> Any:
    """Half of the smallest and of the largest value of each channel (twice could be infinite), and 0 or NaN."""
    low = high = read(vec, x, 0, whole)
    bad, none = zero(vec), zero(vec)
    for _ in range(rows // 4):  # so that one operation on each result waits for the last one, not four
        y0, y1 = read(vec, x, 0, whole), read(vec, x, stride, whole)
        y2, y3 = read(vec, x, 2 * stride, whole), read(vec, x, 3 * stride, whole)
        low = minimum(minimum(minimum(y0, y1), minimum(y2, y3)), low)
        high = maximum(maximum(maximum(y0, y1), maximum(y2, y3)), high)
        bad = bad + (fma(y0, none, y1 * none) + fma(y2, none, y3 * none))
        x += 4 * stride
    for _ in range(rows % 4):
        y = read(vec, x, 0, whole)
        low, high, bad = minimum(y, low), maximum(y, high), fma(y, none, bad)
        x += stride
    half = splat(vec, 0.5)
    return low * half, high * half, bad


@composed(nothing)
def write_scales(distance: Vector, steps: Vector, scales: int, inverses: int, offset: int, whole: bool) -> None:
    """distance / steps and its inverse; both 0 where it is too small to matter. NaN stays."""
    scale, none = distance / steps, full_like(steps, 0.0)
    tiny = less(scale, full_like(scale, SMALLEST_SCALE))
    write(scales, offset, select(tiny, none, scale), whole)
    write(inverses, offset, select(tiny, none, full_like(scale, 1.0) / scale), whole)


@composed(lambda x, offset, inverse, low, high: vector("i32", x.lanes))
def rounded(x: Vector, offset: Vector, inverse: Vector, low: Vector, high: Vector) -> Vector:
    """(x - offset) * inverse to the nearest integer from low to high; what is no number gives low."""
    return truncate_in_range(round_even(minimum(maximum((x - offset) * inverse, low), high)))


@composed(nothing)
def key_range(vec: Any, desc: int, k: int, stride: int, keys: int, head: int, c: int, whole: bool) -> None:
    low, high, bad = column(vec, k + 4 * c, stride, keys, whole)
    scales, inverses = head + load(i64, desc, KEY_SCALES), head + load(i64, desc, KEY_INVERSES)
    write_scales(high - low + bad, splat(vec, KEY_STEPS / 2), scales, inverses, 4 * c, whole)
    write(head + load(i64, desc, KEY_LOWS), 4 * c, low + low, whole)


@composed(lambda vec, *_: vector("i32", vec.instance_type.lanes))
def key_steps(vec: Any, k: int, lows: int, inverses: int, offset: int, whole: bool) -> Vector:
    low, inverse = read(vec, lows, offset, whole), read(vec, inverses, offset, whole)
    return rounded(read(vec, k, offset, whole), low, inverse, zero(vec), splat(vec, KEY_STEPS))


@composed(nothing)
def prepare_keys(desc: int, cancel: int, k: int, stride: int, keys: int, head: int) -> None:
    width, groups = load(i64, desc, d.WIDTH), load(i64, desc, GROUPS)
    low, inverse = head + load(i64, desc, KEY_LOWS), head + load(i64, desc, KEY_INVERSES)
    most, whole = width // 16 * 16, width // 4 * 4
    store(head + load(i64, desc, KEY_SCALES), 16 * groups - 16, zero(f32x4))
    for c in range(0, most, 16):
        key_range(f32x16, desc, k, stride, keys, head, c, True)
    for c in range(most, whole, 4):
        key_range(f32x4, desc, k, stride, keys, head, c, True)
    for c in range(whole, width):
        key_range(f32x4, desc, k, stride, keys, head, c, False)
    for j in range((keys + 5) // 6 * 6):
        if j % CANCEL_KEYS == 0 and load_acquire(cancel) != 0:
            return
        row, to = k + stride * min(j, keys - 1), head + 4 * groups * (j // 6 * 6) + 4 * (j % 6)
        for c in range(0, most, 16):
            four = reinterpret(i32x4, narrow(u8x16, key_steps(f32x16, row, low, inverse, 4 * c, True)))
            store(to, 6 * c, get_lane(four, 0))
            store(to, 6 * c + 24, get_lane(four, 1))
            store(to, 6 * c + 48, get_lane(four, 2))
            store(to, 6 * c + 72, get_lane(four, 3))
        for c in range(most, whole, 4):
            store(to, 6 * c, narrow(u8x4, key_steps(f32x4, row, low, inverse, 4 * c, True)))
        if whole < width:
            store(to, 6 * whole, zero(u8x4))
        for c in range(whole, width):
            store(to, 5 * whole + c, u8(get_lane(key_steps(f32x4, row, low, inverse, 4 * c, False), 0)))


@composed(nothing)
def value_range(vec: Any, desc: int, v: int, stride: int, keys: int, head: int, c: int, whole: bool) -> None:
    low, high, bad = column(vec, v + 4 * c, stride, keys, whole)
    scales, inverses = head + load(i64, desc, VALUE_SCALES), head + load(i64, desc, VALUE_INVERSES)
    write_scales(high - low + bad, splat(vec, VALUE_STEPS), scales, inverses, 4 * c, whole)
    write(head + load(i64, desc, VALUE_MIDDLES), 4 * c, low + high, whole)


@composed(nothing)
def write_values(
    vec: Any, v: int, v1: int, v2: int, v3: int, middles: int, inverses: int, c: int, mask: int, to: int, whole: bool
) -> None:
    """Four keys of a vector of channels, or of one; the low bytes of integers side by side."""
    middle, inverse = read(vec, middles, 4 * c, whole), read(vec, inverses, 4 * c, whole)
    low, high = splat(vec, -VALUE_STEPS), splat(vec, VALUE_STEPS)
    b0 = rounded(read(vec, v, 4 * c, whole), middle, inverse, low, high)
    b1 = rounded(read(vec, v1, 4 * c, whole), middle, inverse, low, high)
    b2 = rounded(read(vec, v2, 4 * c, whole), middle, inverse, low, high)
    b3 = rounded(read(vec, v3, 4 * c, whole), middle, inverse, low, high)
    byte = full_like(b0, 0xFF)
    four = (b0 & byte) | shift_left(b1 & byte, 8) | shift_left(b2 & byte, 16) | shift_left(b3, 24)
    write(to, 4 * c, four & full_like(four, mask), whole)


@composed(nothing)
def prepare_values(desc: int, cancel: int, v: int, stride: int, keys: int, head: int) -> None:
    width, rows = load(i64, desc, d.VALUE_WIDTH), load(i64, desc, d.RESULT_ROWS)
    middle, inverse = head + load(i64, desc, VALUE_MIDDLES), head + load(i64, desc, VALUE_INVERSES)
    most, whole = width // 16 * 16, width // 4 * 4
    for c in range(0, most, 16):
        value_range(f32x16, desc, v, stride, keys, head, c, True)
    for c in range(most, whole, 4):
        value_range(f32x4, desc, v, stride, keys, head, c, True)
    for c in range(whole, width):
        value_range(f32x4, desc, v, stride, keys, head, c, False)
    to = head + load(i64, desc, VALUES)
    for j in range(0, keys, 4):
        if j % CANCEL_KEYS == 0 and load_acquire(cancel) != 0:
            return
        last = keys - 1 - j
        v1, v2, v3 = v + stride * min(1, last), v + stride * min(2, last), v + stride * min(3, last)
        mask = -1 if last >= 3 else (1 << 8 * (last + 1)) - 1  # bytes of keys that there are
        for c in range(0, most, 16):
            write_values(f32x16, v, v1, v2, v3, middle, inverse, c, mask, to, True)
        for c in range(most, whole, 4):
            write_values(f32x4, v, v1, v2, v3, middle, inverse, c, mask, to, True)
        for c in range(whole, width):
            write_values(f32x4, v, v1, v2, v3, middle, inverse, c, mask, to, False)
        v += 4 * stride
        to += 4 * rows


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
