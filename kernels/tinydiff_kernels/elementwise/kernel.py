"""elementwise: one kernel for what only moves memory; modes and fields in `descriptor.py`."""

from __future__ import annotations

from tinydiff_kernels.channels import activate_floats, read, write
from tinydiff_kernels.elementwise.descriptor import (
    ACTIVATION,
    ADD,
    COLUMNS,
    COSINES_FIRST,
    LINEAR,
    MODE,
    OUTPUT,
    OUTPUT_STEP,
    OUTPUT_STRIDE,
    PIXELS,
    ROWS,
    SCALE,
    SHIFT,
    SHORTEN,
    SINUSOIDS,
    UNIT_ROWS,
    WIDEN,
    X_STEP,
    X_STRIDE,
    Y_STRIDE,
    X,
    Y,
)
from tinydiff_kernels.elementwise.sixteen import shorten_row, widen_row
from tinydiff_kernels.epilogue import nothing
from tinydiff_kernels.simd import (
    composed,
    cos,
    f32,
    f32x16,
    fetch_add,
    fma,
    full_like,
    i64,
    load,
    load_acquire,
    load_splat,
    maximum,
    minimum,
    narrow,
    round_even,
    sin,
    store,
    truncate_in_range,
    u8x16,
    zero,
)


@composed(nothing)
def linear_row(desc: int, x: int, target: int, count: int) -> None:
    scale, shift = load_splat(f32x16, desc, SCALE), load_splat(f32x16, desc, SHIFT)
    c = 0
    while c < count:
        whole = count - c >= 16
        write(target, 4 * c, fma(read(x, 4 * c, whole), scale, shift), whole)
        c += 16 if whole else 1


@composed(nothing)
def add_row(desc: int, x: int, y: int, target: int, count: int) -> None:
    scale = load_splat(f32x16, desc, SCALE)
    c = 0
    while c < count:
        whole = count - c >= 16
        write(target, 4 * c, fma(read(y, 4 * c, whole), scale, read(x, 4 * c, whole)), whole)
        c += 16 if whole else 1


@composed(nothing)
def sinusoid_row(timestep: int, table: int, sines: int, cosines: int, half: int) -> None:
    t = load_splat(f32x16, timestep, 0)
    c = 0
    while c < half:
        whole = half - c >= 16
        angle = t * read(table, 4 * c, whole)
        write(sines, 4 * c, sin(angle), whole)
        write(cosines, 4 * c, cos(angle), whole)
        c += 16 if whole else 1


@composed(nothing)
def pixel_row(x: int, target: int, count: int) -> None:
    half, one = full_like(zero(f32x16), 0.5), full_like(zero(f32x16), 1.0)
    c = 0
    while c < count:
        whole = count - c >= 16
        unit = minimum(maximum(fma(read(x, 4 * c, whole), half, half), zero(f32x16)), one)
        levels = truncate_in_range(round_even(unit * full_like(unit, 255.0)))
        write(target, c, narrow(u8x16, levels), whole)
        c += 16 if whole else 1


@composed(nothing)
def strided_row(x: int, x_step: int, target: int, target_step: int, count: int) -> None:
    for c in range(count):
        store(target, target_step * c, load(f32, x, x_step * c))


@composed(nothing)
def one_row(desc: int, row: int) -> None:
    mode, count = load(i64, desc, MODE), load(i64, desc, COLUMNS)
    x = load(i64, desc, X) + load(i64, desc, X_STRIDE) * row
    target = load(i64, desc, OUTPUT) + load(i64, desc, OUTPUT_STRIDE) * row
    if mode == LINEAR:
        linear_row(desc, x, target, count)
        activate_floats(target, count, load(i64, desc, ACTIVATION))
    elif mode == ADD:
        add_row(desc, x, load(i64, desc, Y) + load(i64, desc, Y_STRIDE) * row, target, count)
        activate_floats(target, count, load(i64, desc, ACTIVATION))
    elif mode == SINUSOIDS:
        half = count // 2
        sines, cosines = target, target + 4 * half
        if load(i64, desc, COSINES_FIRST) != 0:
            sines, cosines = cosines, sines
        sinusoid_row(x, load(i64, desc, Y), sines, cosines, half)
        if count % 2 == 1:
            store(target, 8 * half, f32(0.0))
    elif mode == PIXELS:
        pixel_row(x, target, count)
    elif mode == SHORTEN:
        shorten_row(x, target, load(i64, desc, Y) + load(i64, desc, Y_STRIDE) * row, count)
    elif mode == WIDEN:
        widen_row(x, load(i64, desc, Y) + load(i64, desc, Y_STRIDE) * row, target, count)
    else:
        strided_row(x, load(i64, desc, X_STEP), target, load(i64, desc, OUTPUT_STEP), count)


def elementwise(desc: int, counter: int, cancel: int) -> None:
    """Take some rows at a time until none is left."""
    rows, unit = load(i64, desc, ROWS), load(i64, desc, UNIT_ROWS)
    while load_acquire(cancel) == 0:
        start = fetch_add(counter, unit)
        if start >= rows:
            break
        for row in range(start, min(rows, start + unit)):
            one_row(desc, row)
