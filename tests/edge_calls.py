"""Calls of all kernels at their edges: sizes around every tile, odd addresses between canaries, the largest integers,
scales of zero, NaN and infinity. Bits must be the same everywhere; imports no Numba, as emulated ARM makes them too.

What is right is said by tests/kernels/test_edges.py, on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import norm_calls
import numpy as np
from kernel_arrays import Framed, framed, one_nan
from matmul_calls import KINDS, QUANTISED, numbers, pack

from tinydiff_kernels.attention import call as attention
from tinydiff_kernels.attention import call_i8
from tinydiff_kernels.attention.descriptor import KEY_BLOCK
from tinydiff_kernels.call import run
from tinydiff_kernels.elementwise import descriptor as elementwise
from tinydiff_kernels.matmul import call, geometry, packing
from tinydiff_kernels.matmul.descriptor import ACTIVATIONS, SCRATCH_BYTES
from tinydiff_kernels.norm import group
from tinydiff_kernels.norm.row import UNIT_ROWS
from tinydiff_kernels.ref import quantise
from tinydiff_kernels.rows import Grid

Kernel = Callable[[int, int, int], None]
BAD = (np.nan, np.inf, -np.inf)
SIZES = [  # rows, inputs, outputs: tiles of 4, 6 and 8 rows, padding to 24, steps of 4, 8 and 32 channels, panels of 16
    (0, 4, 16),
    (1, 1, 1),
    (5, 3, 15),
    (6, 4, 16),
    (7, 8, 17),
    (8, 16, 31),
    (9, 17, 32),
    (23, 31, 33),
    (24, 32, 16),
    (25, 33, 48),
    (97, 67, 13),
]
SHAPES = [  # images, heads, queries, keys, width, value width: tiles of 6, vectors of 16 and 64, blocks of keys
    (1, 1, 0, 5, 4, 4),
    (1, 1, 1, 1, 1, 1),
    (1, 2, 15, 5, 6, 5),
    (1, 1, 16, 6, 7, 6),
    (2, 1, 17, 7, 8, 7),
    (1, 1, 63, KEY_BLOCK - 1, 13, 12),
    (1, 1, 64, KEY_BLOCK, 5, 3),
    (1, 1, 65, KEY_BLOCK + 1, 3, 13),
]
DEPTH = 2880  # the UNet's deepest sums of one tap


def results(kernels: Mapping[str, Kernel], flip: int) -> Iterator[Any]:
    for name in KINDS:
        yield from matmul_sizes(name, kernels[name], flip)
        yield from matmul_extremes(name, kernels[name], flip)
        yield from matmul_bad(name, kernels[name], flip)
    yield from attention_sizes(kernels["attention_f32"])
    yield from attention_bad(kernels["attention_f32"])
    yield from attention_i8(kernels["keys_i8"], kernels["attention_i8"])
    yield from group_norms(kernels, flip)
    yield from row_norms(kernels["rows_norm"], flip)
    yield from elementwise_bad(kernels["elementwise"])


# ------------------------------------------------------------------------------------------------------------- matmul


def matmul(kernel: Kernel, x: Any, packed: packing.Packed, bias: Any, records: Any = None, **options: Any) -> Any:
    """One linear layer, all buffers at odd addresses, canaries around what is written."""
    placed = geometry.linear_geometry(Grid(1, 1, len(x)), x.strides[0], 4 * packed.outputs)
    out = Framed((len(x), packed.outputs), np.float32)
    scratch = Framed((2, SCRATCH_BYTES), np.uint8)
    parts = {name: getattr(packed, name) for name in ("data", "scales", "sums", "group_scales")}
    odd = replace(packed, **{name: framed(part).array for name, part in parts.items() if part is not None})
    fields = call.matmul_fields(
        odd, placed, input=framed(x).array, output=out.array, bias=framed(packing.pad_columns(bias)).array,
        scratch=scratch.array, records=0 if records is None else framed(records).array, **options,
    )  # fmt: skip
    call.run(kernel, fields, threads=2)
    assert out.untouched_around()
    assert scratch.untouched_around()
    return one_nan(out.array)


def operand(kind: str, x: Any, flip: int) -> tuple[Any, Any]:
    """What a kernel gets of float rows, and its records: as `ref/quantise.py` has it."""
    if kind not in QUANTISED:
        return x, None
    records = quantise.rows_records(x, flip)
    q = quantise.quantise(x, records, flip)
    zero = (records["zero"] & 0xFF).astype(np.uint8)
    multiple = packing.GROUP if kind == "i4" else packing.CHANNEL_MULTIPLE
    return np.concatenate([q, np.repeat(zero, -x.shape[1] % multiple, axis=1)], 1), records[:, 0]


def matmul_sizes(name: str, kernel: Kernel, flip: int) -> Iterator[Any]:
    for rows, inputs, outputs in SIZES:
        x, records = operand(KINDS[name], numbers(1, rows, inputs), flip)
        packed, residual = pack(KINDS[name], numbers(2, outputs, inputs)), framed(numbers(3, rows, outputs)).array
        yield matmul(kernel, x, packed, numbers(4, outputs), records, residual=residual, activation="quick_gelu")


def extreme_integers(kind: str) -> Any:
    """`[33, DEPTH]`: the largest that a kind of packing allows, of one sign, of both, and of any."""
    beside = {"i8": 127, "i8_limited": 1, "i4": 7}[kind]
    largest = 7 if kind == "i4" else 127
    signs = np.sign(numbers(5, 33, DEPTH))
    signs[:4] = [[1], [-1], [1], [1]]
    signs[2, 1::2], signs[3, 2::4] = -1, -1
    return (signs * np.tile([largest, beside], DEPTH // 2)).astype(np.int8)


def matmul_extremes(name: str, kernel: Kernel, flip: int) -> Iterator[Any]:
    """Sums as large as they become, exact; then scales of zero, which leave the bias."""
    kind = KINDS[name]
    if kind not in QUANTISED:
        return
    integers = extreme_integers(kind)
    if kind == "i4":  # all groups as large as the largest, whose scale is 63
        packed = packing.pack_i4(integers.astype(np.float32) * 63)
    else:
        packed = packing.pack_integers(integers, np.ones(33, np.float32), 33, limited=kind == "i8_limited")
    records = np.zeros(9, quantise.RECORD)
    q = np.full((9, DEPTH), 255, np.uint8)
    q[0], q[1, ::2], q[2, 1::2] = 0, 0, 0
    for scale, zero in ((1, 0), (1, 255), (0, 7)):
        records["scale"], records["zero"] = scale, zero - flip
        yield matmul(kernel, q ^ np.uint8(flip), packed, np.zeros(33, np.float32), records)
    zeros = pack(kind, np.zeros((5, 40), np.float32))
    x, records = operand(kind, np.vstack([numbers(6, 3, 40), np.zeros((1, 40), np.float32)]), flip)
    yield matmul(kernel, x, zeros, numbers(7, 5), records)


def matmul_bad(name: str, kernel: Kernel, flip: int) -> Iterator[Any]:
    """A bad number in row 7, then in column 20 of the weights."""
    for bad in BAD:
        x, weight = numbers(8, 13, 40), numbers(9, 21, 40)
        x[7, 3] = bad
        given, records = operand(KINDS[name], x, flip)
        yield matmul(kernel, given, pack(KINDS[name], weight), numbers(10, 21), records)
        weight[20, 3] = bad
        given, records = operand(KINDS[name], numbers(8, 13, 40), flip)
        yield matmul(kernel, given, pack(KINDS[name], weight), numbers(10, 21), records)


# ---------------------------------------------------------------------------------------------------------- attention


def attention_at(kernel: Kernel, q: Any, k: Any, v: Any, images: int, heads: int, **options: Any) -> Any:
    out = Framed((len(q), v.shape[1]), np.float32)
    given = (framed(x).array for x in (q, k, v))
    attention.attention(kernel, *given, images, heads, output=out.array, threads=2, **options)
    assert out.untouched_around()
    return one_nan(out.array)


def attention_sizes(kernel: Kernel) -> Iterator[Any]:
    for images, heads, queries, keys, width, value_width in SHAPES:
        q, k = numbers(1, images * queries, heads * width), numbers(2, images * keys, heads * width)
        yield attention_at(kernel, q, k, numbers(3, images * keys, heads * value_width), images, heads)


def attention_bad(kernel: Kernel) -> Iterator[Any]:
    """One bad number in q, k or v; then scores so far apart that one key is all; causal, then all of them hidden."""
    for bad in BAD:
        for which in range(3):
            given = [numbers(seed, 70, 2 * 12) for seed in (4, 5, 6)]
            given[which][66, 5] = bad
            yield attention_at(kernel, *given, 1, 2)
            yield attention_at(kernel, *given, 1, 2, causal=True)
    for size in (1e4, 1e30, np.inf):
        k = np.full((KEY_BLOCK + 9, 4), -size, np.float32)
        k[KEY_BLOCK + 2] = min(size, 3e38)
        yield attention_at(kernel, np.ones((3, 4), np.float32), k, numbers(7, len(k), 4), 1, 1)
        yield attention_at(kernel, np.ones((3, 4), np.float32), k[:5], numbers(7, 5, 4), 1, 1)


def attention_i8_at(keys: Kernel, kernel: Kernel, q: Any, k: Any, v: Any, images: int, heads: int) -> Any:
    out = Framed((len(q), v.shape[1]), np.float32)
    given = (framed(x).array for x in (q, k, v))
    call_i8.attention(keys, kernel, *given, images, heads, output=out.array, threads=2)
    assert out.untouched_around()
    return one_nan(out.array)


def attention_i8(keys: Kernel, kernel: Kernel) -> Iterator[Any]:
    """Sizes; one bad number in q, k or v; then the largest integers of both signs, and scores that are far apart."""
    for images, heads, queries, count, width, value_width in SHAPES:
        q, k = numbers(1, images * queries, heads * width), numbers(2, images * count, heads * width)
        yield attention_i8_at(keys, kernel, q, k, numbers(3, images * count, heads * value_width), images, heads)
    for bad in BAD:
        for which in range(3):
            given = [numbers(seed, 70, 2 * 12) for seed in (4, 5, 6)]
            given[which][66, 5] = bad
            yield attention_i8_at(keys, kernel, *given, 1, 2)
    for size in (1e-30, 1.0, 1e4, 1e30):
        q, k = np.sign(numbers(7, 33, 80)), np.float32(size) * np.sign(numbers(8, 2 * KEY_BLOCK + 9, 80))
        q[:2], k[5], k[KEY_BLOCK + 2] = [[1], [-1]], -size, size
        yield attention_i8_at(keys, kernel, q, k, np.sign(numbers(9, len(k), 80)), 1, 1)


# -------------------------------------------------------------------------------------------------------------- norms


def plain(out: Any, records: Any, flip: int) -> Iterator[Any]:
    yield out ^ np.uint8(flip) if out.dtype == np.uint8 else one_nan(out)
    if out.dtype == np.uint8:
        yield one_nan(records["scale"])
        yield records["zero"] + np.int32(flip)


def spoilt(seed: int, rows: int, channels: int, bad: float) -> Any:
    x = numbers(seed, rows, channels)
    x[rows // 2, channels // 2] = bad
    return x


def group_norms(kernels: Mapping[str, Kernel], flip: int) -> Iterator[Any]:
    """Around a tile of rows and a vector of channels; constants and zeros; what is not finite."""
    cases = [(numbers(8, n, c), 1) for n in (1, group.TILE_ROWS - 1, group.TILE_ROWS) for c in (1, 15, 16)]
    cases += [(numbers(9, group.TILE_ROWS + 1, 17), 17), (np.zeros((5, 16), np.float32), 4)]
    cases += [(np.full((5, 16), 7.25, np.float32), 4)]
    cases += [(spoilt(10, 40, 24, bad), 3) for bad in (*BAD, 1e20)]
    for x, groups in cases:
        learned = group.Norm(groups, numbers(11, x.shape[1]), numbers(12, x.shape[1]), 1e-5)
        for norm in (learned, group.Norm()):
            for dtype, width in ((np.float32, x.shape[1]), (np.uint8, -(-x.shape[1] // 8) * 8)):
                out = Framed((1, 1, len(x), width), dtype)
                made = norm_calls.call.group_norm(
                    norm_calls.group_kernels(kernels), [framed(x).array], Grid(1, 1, len(x)), norm, out.array,
                    activation="silu", flip=flip, threads=2,
                )  # fmt: skip
                assert out.untouched_around()
                yield from plain(out.array, made, flip)


def row_norms(kernel: Kernel, flip: int) -> Iterator[Any]:
    cases = [numbers(13, n, c) for n in (1, UNIT_ROWS - 1, UNIT_ROWS, UNIT_ROWS + 1) for c in (1, 15, 16, 17)]
    cases += [np.zeros((2, 16), np.float32), np.full((3, 17), -3e30, np.float32)]
    cases += [spoilt(14, 9, 21, bad) for bad in (*BAD, 1e20)]
    for x in cases:
        for norm in ((numbers(11, x.shape[1]), numbers(12, x.shape[1]), 1e-5), None):
            for dtype, width in ((np.float32, x.shape[1]), (np.uint8, -(-x.shape[1] // 8) * 8)):
                out = Framed((len(x), width), dtype)
                made = norm_calls.call.rows_norm(kernel, [framed(x).array], norm, out.array, flip=flip, threads=2)
                assert out.untouched_around()
                yield from plain(out.array, made, flip)


# -------------------------------------------------------------------------------------------------------- elementwise

SPECIAL = np.array(
    [*BAD, 0.0, -0.0, 1e-42, -1e-42, 3.4e38, -3.4e38, 1e30, -1e30, 88.0, -88.0, 104.0, -104.0, 0.5], "f4"
)


def elementwise_bad(kernel: Kernel) -> Iterator[Any]:
    """Modes that compute, on numbers of all kinds, whole vectors and parts of one."""
    for columns in (1, 15, 16, 17, 33):
        x = np.stack([np.resize(np.roll(SPECIAL, -i), columns) for i in range(len(SPECIAL))])
        given, other = framed(x), framed(np.ascontiguousarray(x[::-1]))
        shape, stride = x.shape, x.strides[0]
        for activation in ACTIVATIONS:
            out = Framed(shape, np.float32)
            told = elementwise.add_fields(
                shape, given.array, stride, other.array, stride, out.array, stride, scale=0.5, activation=activation
            )
            yield one_nan(elementwise_at(kernel, told, out))
        pixels = Framed(shape, np.uint8)
        told = elementwise.pixels_fields(shape, given.array, stride, pixels.array, columns)
        yield elementwise_at(kernel, told, pixels)
        short, scales, wide = Framed(shape, np.int16), Framed((len(x), 1), np.float32), Framed(shape, np.float32)
        told = elementwise.shorten_fields(shape, given.array, stride, short.array, 2 * columns, scales.array)
        yield elementwise_at(kernel, told, short, scales)
        yield one_nan(scales.array)
        told = elementwise.widen_fields(shape, short.array, 2 * columns, scales.array, wide.array, stride)
        yield one_nan(elementwise_at(kernel, told, wide))


def elementwise_at(kernel: Kernel, told: Any, *outs: Framed) -> Any:
    run(kernel, elementwise.WORDS, told, [out.array for out in outs], threads=2)
    assert all(out.untouched_around() for out in outs)
    return outs[0].array.copy()
