"""The fixed kernel calls whose instructions are counted: every kernel, on the shapes that a UNet and a decoder have,
only smaller. Imports no Numba: emulated ARM runs them too.

Changing a call changes its figure; add new ones under new names instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tinydiff_kernels.attention import call as attention
from tinydiff_kernels.attention import call_i8 as attention_i8
from tinydiff_kernels.call import run
from tinydiff_kernels.elementwise import descriptor as elementwise
from tinydiff_kernels.matmul import call as matmul
from tinydiff_kernels.matmul import geometry, packing
from tinydiff_kernels.norm import call as norm
from tinydiff_kernels.norm import group
from tinydiff_kernels.ref.quantise import FLIP, RECORD
from tinydiff_kernels.rows import Grid

Kernel = Callable[[int, int, int], None]
Call = Callable[[], object]
MATMULS: dict[str, packing.Kind] = {
    "matmul_f32": "f32",
    "matmul_f16": "f16",
    "matmul_i8": "i8",
    "matmul_i8_limited": "i8_limited",
    "matmul_i4": "i4",
}


def numbers(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def all_calls(kernels: Mapping[str, Kernel], *, signed: bool) -> Iterator[tuple[str, Call]]:
    """(name, call) of every call that `kernels` can make; `signed`: activations are stored less 128.

    One thread each, so that a call of a kernel is one call of its function.
    """
    for name, kind in MATMULS.items():
        if name in kernels:
            yield from _matmuls(kernels[name], kind)
    if "attention_f32" in kernels:
        yield from _attention(kernels["attention_f32"])
    if {"keys_i8", "attention_i8"} <= set(kernels):
        yield from _attention_i8(kernels["keys_i8"], kernels["attention_i8"])
    if {"norm_stats", "norm_fold", "norm_apply"} <= set(kernels):
        yield from _group_norms(kernels, FLIP * signed)
    if "rows_norm" in kernels:
        yield from _row_norms(kernels["rows_norm"], FLIP * signed)
    if "elementwise" in kernels:
        yield from _elementwise(kernels["elementwise"])


def _matmuls(kernel: Kernel, kind: packing.Kind) -> Iterator[tuple[str, Call]]:
    """A linear layer with an odd number of rows and every epilogue, a gated one, a 3x3 convolution."""
    rows, width = 97, 320
    packed, gated = _packed(kind, numbers(136, width)), _packed(kind, numbers(256, width), gated=True)
    x, residual, table = _operand(kind, rows, width), numbers(rows, 136), packing.pad_columns(numbers(1, 136))
    flat = Grid(1, 1, rows)
    linear = geometry.linear_geometry(flat, x.strides[0], 4 * packed.outputs)
    epilogue = {"residual": residual, "table": table, "table_stride": table.strides[0], "activation": "silu"}
    yield "linear", lambda: _matmul(kernel, packed, linear, x, **epilogue)
    gates = geometry.linear_geometry(flat, x.strides[0], 4 * gated.outputs)
    yield "gated", lambda: _matmul(kernel, gated, gates, x)
    side, channels = 14, 64
    taps = _packed(kind, numbers(48, channels, 3, 3))
    image = _operand(kind, 1, side + 2, side + 2, channels)
    conv = geometry.conv_geometry(Grid(1, side + 2, side + 2), image.strides[2], Grid(1, side, side), 4 * 48, (3, 3), 1)
    yield "3x3", lambda: _matmul(kernel, taps, conv, image)


def _packed(kind: packing.Kind, weight: Any, *, gated: bool = False) -> packing.Packed:
    if kind == "i4":
        return packing.pack_i4(weight, gated=gated)
    if kind in ("i8", "i8_limited"):
        return packing.pack_i8(weight, gated=gated, limited=kind == "i8_limited")
    return packing.pack_float(weight, "f16" if kind == "f16" else "f32", gated=gated)


def _operand(kind: packing.Kind, *shape: int) -> Any:
    if kind in ("f32", "f16"):
        return numbers(*shape)
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def _matmul(kernel: Kernel, packed: packing.Packed, placed: geometry.Geometry, x: Any, **epilogue: Any) -> Any:
    output = np.empty((placed.count, packed.outputs), np.float32)
    records = np.ones(placed.count, RECORD)
    fields = matmul.matmul_fields(
        packed, placed, input=x, output=output, bias=np.zeros(packed.panels * 16, np.float32),
        scratch=matmul.scratch_for(1), records=records, **epilogue,
    )  # fmt: skip
    matmul.run(kernel, fields, threads=1)
    return output


def _attention(kernel: Kernel) -> Iterator[tuple[str, Call]]:
    q, text, small = numbers(256, 2 * 40), numbers(77, 2 * 40), numbers(77, 2 * 64)
    yield "self", lambda: attention.attention(kernel, q, q, q, 1, 2, threads=1)
    yield "cross", lambda: attention.attention(kernel, q, text, text, 1, 2, threads=1)
    yield "causal", lambda: attention.attention(kernel, small, small, small, 1, 2, causal=True, threads=1)


def _attention_i8(keys: Kernel, kernel: Kernel) -> Iterator[tuple[str, Call]]:
    q = numbers(256, 2 * 40)
    yield "self", lambda: attention_i8.attention(keys, kernel, q, q, q, 1, 2, threads=1)


def _group_norms(kernels: Mapping[str, Kernel], flip: int) -> Iterator[tuple[str, Call]]:
    """With SiLU into an image with a border: of floats, and quantised, whose range costs a pass."""
    three = norm.GroupKernels(kernels["norm_stats"], kernels["norm_fold"], kernels["norm_apply"])
    side, channels = 20, 160
    grid, x = Grid(1, side, side), numbers(side * side, channels)
    learned = group.Norm(32, numbers(channels), numbers(channels), 1e-5)
    for word, dtype in (("float32", np.float32), ("quantised", np.uint8)):
        out = np.zeros((1, side + 2, side + 2, channels), dtype)

        def call(out: Any = out) -> object:
            return norm.group_norm(
                three, [x], grid, learned, out, activation="silu", border=(1, 1, 1, 1), flip=flip, threads=1
            )

        yield f"group norm, {word}", call


def _row_norms(kernel: Kernel, flip: int) -> Iterator[tuple[str, Call]]:
    rows, channels = 200, 320
    x, learned = numbers(rows, channels), (numbers(channels), numbers(channels), 1e-5)
    for word, dtype in (("float32", np.float32), ("quantised", np.uint8)):
        out = np.zeros((rows, channels), dtype)

        def call(out: Any = out) -> object:
            return norm.rows_norm(kernel, [x], learned, out, flip=flip, threads=1)

        yield f"layer norm, {word}", call


def _elementwise(kernel: Kernel) -> Iterator[tuple[str, Call]]:
    shape, stride = (100, 320), 4 * 320
    x, y, out = numbers(*shape), numbers(*shape), np.zeros(shape, np.float32)
    pixels, channels_first = np.zeros(shape, np.uint8), np.zeros(shape[::-1], np.float32)
    steps, table = np.linspace(0, 999, 20).astype(np.float32), elementwise.frequencies(320, 0.0)
    told = {
        "add": elementwise.add_fields(shape, x, stride, y, stride, out, stride, activation="silu"),
        "gelu": elementwise.linear_fields(shape, x, stride, out, stride, activation="gelu"),
        "pixels": elementwise.pixels_fields(shape, x, stride, pixels, 320),
        "transpose": elementwise.strided_fields(shape, x, (stride, 4), channels_first, (4, 400)),
        "sinusoids": elementwise.sinusoids_fields(20, 320, steps, table, out, stride, cosines_first=True),
    }
    for name, fields in told.items():

        def call(fields: Any = fields) -> object:
            return run(kernel, elementwise.WORDS, fields, [out, pixels, channels_first], threads=1)

        yield name, call
