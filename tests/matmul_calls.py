"""Calls of the indirect matmul on arrays, and those whose bits must be the same everywhere. Imports no Numba: emulated
ARM runs them too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinydiff_kernels.matmul import call, geometry, packing
from tinydiff_kernels.rows import Grid

Kernel = Callable[[int, int, int], None]
KINDS = {
    "matmul_f32": "f32",
    "matmul_f16": "f16",
    "matmul_i8": "i8",
    "matmul_i8_limited": "i8_limited",
    "matmul_i4": "i4",
}
QUANTISED = ("i8", "i8_limited", "i4")


def numbers(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def pack(kind: str, weight: Any, *, gated: bool = False) -> packing.Packed:
    if kind in QUANTISED:
        if kind == "i4":
            return packing.pack_i4(weight, gated=gated)
        return packing.pack_i8(weight, gated=gated, limited=kind == "i8_limited")
    return packing.pack_float(weight, "f16" if kind == "f16" else "f32", gated=gated)


def quantise(x: Any, units: Any, *, signed: bool) -> tuple[Any, Any]:
    """Bytes of the same shape, channels padded to eight, and a record for each of the units (rows or images): small
    integers and given scales, so that a test can tell the exact result. `units[r]` is the unit of row r."""
    count = int(units.max(initial=-1)) + 1
    records = np.zeros(count, np.dtype([("scale", "<f4"), ("zero", "<i4")]))
    records["scale"] = np.linspace(0.01, 0.03, count)
    records["zero"] = np.arange(count) * 7 % 256
    q = np.clip(np.rint(x * 60 + records["zero"][units][:, None]), 0, 255).astype(np.uint8)
    padded = np.pad(q, ((0, 0), (0, -q.shape[1] % packing.GROUP)), constant_values=201)
    if signed:
        padded ^= 0x80
        records["zero"] -= 128
    return padded, records


def real(q: Any, records: Any, units: Any, channels: int, *, signed: bool) -> Any:
    """What the bytes of `quantise` mean, in float64."""
    stored = (q.view(np.int8) if signed else q).astype(np.float64)[:, :channels]
    return (stored - records["zero"][units][:, None]) * records["scale"][units][:, None].astype(np.float64)


def linear(
    kernel: Kernel,
    x: Any,
    packed: packing.Packed,
    bias: Any,
    *,
    records: Any = None,
    images: int = 1,
    table: Any = None,
    residual: Any = None,
    activation: str | None = None,
    threads: int = 2,
    cancel: Any = None,
) -> Any:
    """x `[rows, in]` (bytes with `records`) -> `[rows, out]`; row i of `table` serves the i-th of equal images."""
    grid = Grid(images, 1, len(x) // images)
    out = np.full((len(x), packed.outputs), np.nan, np.float32)
    placed = geometry.linear_geometry(grid, x.strides[0], 4 * packed.outputs)
    wide = packing.interleave_gates(bias[:, None])[:, 0] if packed.gated else bias
    rows = None if table is None else packing.pad_columns(table)
    fields = call.matmul_fields(
        packed,
        placed,
        input=x,
        output=out,
        bias=packing.pad_columns(wide),
        scratch=call.scratch_for(threads),
        table=0 if rows is None else rows,
        table_stride=0 if rows is None else rows.strides[0],
        residual=0 if residual is None else residual,
        activation=activation,
        records=0 if records is None else records,
    )
    call.run(kernel, fields, threads=threads, cancel=cancel)
    return out


def conv(
    kernel: Kernel,
    image: Any,
    packed: packing.Packed,
    bias: Any,
    size: tuple[int, int],
    *,
    stride: int = 1,
    records: Any = None,
    threads: int = 2,
) -> Any:
    """image `[B, H, W, C]` with its border -> `[B * H' * W', out]`."""
    padded = Grid(*image.shape[:3])
    height, width = ((n - k) // stride + 1 for n, k in zip(padded[1:], size, strict=True))
    placed = geometry.conv_geometry(
        padded, image.strides[2], Grid(padded.batch, height, width), 4 * packed.outputs, size, stride
    )
    return _run_image(kernel, image, packed, bias, [placed], [packed], records, threads)


def upsample(kernel: Kernel, image: Any, packed: Any, bias: Any, *, records: Any = None, threads: int = 2) -> Any:
    """image `[B, H + 2, W + 2, C]` and the four packed classes -> `[B * 2H * 2W, out]`."""
    small = Grid(*image.shape[:3])
    parities = [(a, b) for a in (0, 1) for b in (0, 1)]
    placed = [geometry.upsample_geometry(small, image.strides[2], 4 * packed[0].outputs, p) for p in parities]
    return _run_image(kernel, image, packed[0], bias, placed, packed, records, threads)


def _run_image(
    kernel: Kernel, image: Any, first: packing.Packed, bias: Any, placed: Any, packed: Any, records: Any, threads: int
) -> Any:
    out = np.full((sum(p.count for p in placed), first.outputs), np.nan, np.float32)
    for where, weight in zip(placed, packed, strict=True):
        fields = call.matmul_fields(
            weight, where, input=image, output=out, bias=packing.pad_columns(bias),
            scratch=call.scratch_for(threads), records=0 if records is None else records, record_per_image=True,
        )  # fmt: skip
        call.run(kernel, fields, threads=threads)
    return out


def results(name: str, kernel: Kernel, *, signed: bool) -> Iterator[Any]:
    """Linear layers with each epilogue, a gated one, a convolution: on three threads, odd shapes."""
    kind = KINDS[name]
    x, weight, residual = numbers(1, 53, 40), numbers(2, 37, 40), numbers(3, 53, 37)
    bias, packed, records = numbers(4, 37), pack(kind, weight), None
    if kind in QUANTISED:
        x, records = quantise(x, np.arange(53), signed=signed)
    for activation in (None, "silu", "gelu", "quick_gelu", "relu", "soft_clip"):
        yield linear(
            kernel, x[:52], packed, bias, records=records, images=2, table=numbers(5, 2, 37), residual=residual[:52],
            activation=activation, threads=3,
        )  # fmt: skip
    yield linear(kernel, x, pack(kind, numbers(6, 42, 40), gated=True), numbers(7, 42), records=records, threads=3)
    if kind not in QUANTISED:  # channels that are no multiple of four
        for channels in (1, 43):
            packed = pack(kind, numbers(13, 18, channels))
            yield linear(kernel, numbers(14, 29, channels), packed, numbers(15, 18), threads=3)
    image, records = numbers(8, 2 * 9 * 7, 12), None
    if kind in QUANTISED:
        image, records = quantise(image, np.repeat(np.arange(2), 63), signed=signed)
    image = image.reshape(2, 9, 7, -1)
    yield conv(
        kernel, image, pack(kind, numbers(9, 20, 12, 3, 3)), numbers(10, 20), (3, 3), stride=2, records=records,
        threads=3,
    )  # fmt: skip
    classes = [pack(kind, geometry.upsample_weights(numbers(11, 18, 12, 3, 3), (a, b))) for a in (0, 1) for b in (0, 1)]
    yield upsample(kernel, image, classes, numbers(12, 18), records=records, threads=3)
