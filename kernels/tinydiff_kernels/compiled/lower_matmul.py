"""Linear layers and convolutions: which form of the input, which packed weight, which rows; adapters beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tinydiff_kernels import operations as op
from tinydiff_kernels.compiled import forms
from tinydiff_kernels.compiled.build import Builder
from tinydiff_kernels.compiled.program import Buffer
from tinydiff_kernels.compiled.scratch import Unpacked
from tinydiff_kernels.compiled.trace import Step, Value
from tinydiff_kernels.handles import LowRank, MatmulWeight
from tinydiff_kernels.matmul import descriptor as d
from tinydiff_kernels.matmul.call import matmul_fields
from tinydiff_kernels.matmul.geometry import PARITIES, Geometry, conv_geometry, linear_geometry, upsample_geometry
from tinydiff_kernels.matmul.packing import Packed
from tinydiff_kernels.rows import Array, Grid

QUANTISED = ("i8", "i8_limited", "i4")


@dataclass(frozen=True, eq=False, slots=True)
class Operand:
    """The input of a matmul in the form that its weight asks for."""

    buffer: Buffer
    stride: int  # bytes from row to row, or from pixel to pixel
    grid: Grid  # with its border
    records: Buffer | None = None
    record_per_image: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Epilogue:
    """What is added to the product, as buffers."""

    bias: Any
    table: Any = None
    table_stride: int = 0
    residual: Any = None
    activation: op.Activation | None = None


def rows_operand(b: Builder, x: Value, *, quantised: bool) -> Operand:
    if not quantised:
        return Operand(forms.dense(b, x), x.row_bytes, x.grid)
    q = forms.quantised_rows(b, x)
    return Operand(q.buffer, q.stride, x.grid, q.records)


def image_operand(b: Builder, x: Value, padding: op.Padding, border: op.Border, *, quantised: bool) -> Operand:
    image = forms.image(b, x, padding, border, quantised=quantised)
    return Operand(image.buffer, image.pixel, image.grid, image.records, record_per_image=True)


@dataclass(frozen=True, eq=False, slots=True)
class Panels:
    """Some panels of a weight in the arena; of a `Packed` what a launch needs."""

    kind: str
    data: Buffer
    taps: int
    steps: int
    outputs: int
    gated: bool
    panels: int
    panel_bytes: int
    scales: None = None


def multiply(
    b: Builder, packed: Packed | Unpacked, geometry: Geometry, x: Operand, e: Epilogue, output: Buffer
) -> None:
    """One launch of the indirect matmul, or one for each group of panels of a weight that is packed meanwhile."""
    if not isinstance(packed, Unpacked):
        _launch(b, packed, geometry, x, e, output)
        return
    groups = packed.groups()
    if packed.gated and e.residual is not None:
        groups = [(0, packed.panels)]  # such a residual has rows of all panels
    scratch = b.room(max((last - first for first, last in groups), default=0) * packed.panel_bytes)
    for first, last in groups:
        b.fill(partial(packed.pack, first, last), scratch, (last - first) * packed.panel_bytes, packed.source())
        start = first * packed.panel_outputs
        columns = min(last * packed.panel_outputs, packed.outputs) - start
        part = Panels(
            packed.kind, scratch, packed.taps, packed.steps, columns, packed.gated, last - first, packed.panel_bytes
        )
        beside = replace(
            e, bias=e.bias[first * d.PANEL : last * d.PANEL], table=_further(e.table, 4 * start),
            residual=_further(e.residual, 4 * start),
        )  # fmt: skip
        _launch(b, part, geometry, x, beside, (output, 4 * start))


def _further(buffer: Buffer | None, nbytes: int) -> Any:
    return None if buffer is None else (buffer, nbytes)


def _launch(b: Builder, packed: Packed | Panels, geometry: Geometry, x: Operand, e: Epilogue, output: Any) -> None:
    sizes: Any = packed
    fields = matmul_fields(
        sizes,
        geometry,
        input=x.buffer,
        output=output,
        bias=e.bias,
        scratch=b.room(b.threads * d.SCRATCH_BYTES),
        table=0 if e.table is None else e.table,
        table_stride=e.table_stride,
        residual=0 if e.residual is None else e.residual,
        activation=e.activation,
        records=0 if x.records is None else x.records,
        record_per_image=x.record_per_image,
    )
    channels = packed.steps * (4 if packed.kind in QUANTISED else 1)
    work = geometry.count * len(geometry.taps) * channels * packed.panels * d.PANEL
    b.launch(f"matmul_{packed.kind}", d.WORDS, fields, work)


def _epilogue(b: Builder, o: op.Linear | op.Conv, residual: Buffer | None) -> Epilogue:
    table: Any = o.table  # a Value here
    return Epilogue(
        b.weights.bias(o.weight),
        None if table is None else forms.dense(b, table),
        0 if table is None else table.row_bytes,
        residual,
        o.activation,
    )


def _residual(b: Builder, o: op.Linear | op.Conv) -> Buffer | None:
    given: Any = o.residual
    return None if given is None else forms.dense(b, given)


Reduce = Callable[[LowRank, Packed, Buffer], None]  # writes down(x) `[rows, rank]`


def _through_adapters(
    b: Builder, weight: MatmulWeight, grid: Grid, residual: Buffer | None, reduce: Reduce, *, gated: bool = False
) -> Buffer | None:
    """residual + sum of scale * up(down(x)): what the main product then has as its residual."""
    for adapter in weight.adapters:
        packed_down, packed_up = b.weights.adapter(adapter, gated=gated)
        rank, outputs = packed_down.outputs, packed_up.outputs
        reduced, added = b.room(4 * grid.rows * rank), b.room(4 * grid.rows * outputs)
        reduce(adapter, packed_down, reduced)
        widened = linear_geometry(grid, 4 * rank, 4 * outputs)
        up_input = Operand(reduced, 4 * rank, grid)
        multiply(b, packed_up, widened, up_input, Epilogue(_zeros(packed_up), residual=residual), added)
        residual = added
    return residual


def _reduced_from(b: Builder, x: Operand, placed: Callable[[Operand, int], Geometry]) -> Reduce:
    """`placed(operand, outputs)`: the geometry of the layer with so many outputs."""

    def reduce(adapter: LowRank, down: Packed, into: Buffer) -> None:
        multiply(b, down, placed(x, down.outputs), x, Epilogue(_zeros(down)), into)

    return reduce


def _zeros(packed: Packed) -> Array:
    return np.zeros(packed.panels * d.PANEL, np.float32)


def _row_geometry(x: Operand, outputs: int) -> Geometry:
    return linear_geometry(x.grid, x.stride, 4 * outputs)


def linear(b: Builder, step: Step) -> None:
    o: Any = step.operation
    packed, residual = b.weights.packed(o.weight), _residual(b, o)
    if o.weight.adapters:
        plain = rows_operand(b, o.x, quantised=False)
        residual = _through_adapters(b, o.weight, o.x.grid, residual, _reduced_from(b, plain, _row_geometry))
    x = rows_operand(b, o.x, quantised=packed.kind in QUANTISED)
    multiply(b, packed, _row_geometry(x, packed.outputs), x, _epilogue(b, o, residual), b.result(step.output))


def geglu(b: Builder, step: Step) -> None:
    """Values and gates meet in the epilogue; adapters add to both before."""
    o: Any = step.operation
    packed, residual = b.weights.packed(o.weight, gated=True), None
    if o.weight.adapters:
        plain = rows_operand(b, o.x, quantised=False)
        reduce = _reduced_from(b, plain, _row_geometry)
        residual = _through_adapters(b, o.weight, o.x.grid, None, reduce, gated=True)
    x = rows_operand(b, o.x, quantised=packed.kind in QUANTISED)
    epilogue = Epilogue(b.weights.bias(o.weight, gated=True), residual=residual)
    multiply(b, packed, _row_geometry(x, packed.outputs), x, epilogue, b.result(step.output))


def conv(b: Builder, step: Step) -> None:
    o: Any = step.operation
    x: Value = o.x
    if o.upsample_to is not None:
        if o.doubles:
            upsampled(b, step)
            return
        x = forms.enlarged(b, x, o.upsample_to)
    packed, residual = b.weights.packed(o.weight), _residual(b, o)
    grid = step.output.grid

    def placed(operand: Operand, outputs: int) -> Geometry:
        return conv_geometry(operand.grid, operand.stride, grid, 4 * outputs, o.weight.kernel, o.stride)

    if o.weight.adapters:
        image = image_operand(b, x, o.padding, o.border, quantised=False)
        residual = _through_adapters(b, o.weight, grid, residual, _reduced_from(b, image, placed))
    image = image_operand(b, x, o.padding, o.border, quantised=packed.kind in QUANTISED)
    multiply(b, packed, placed(image, packed.outputs), image, _epilogue(b, o, residual), b.result(step.output))


def upsampled(b: Builder, step: Step) -> None:
    """Four classes of output pixels, each a convolution of 2x2 taps on the small image; adapters likewise."""
    o: Any = step.operation
    residual, classes = _residual(b, o), [b.weights.packed(o.weight, parity=parity) for parity in PARITIES]

    def in_classes(x: Operand, weights: Sequence[Packed | Unpacked], epilogue: Epilogue, into: Buffer) -> None:
        for parity, packed in zip(PARITIES, weights, strict=True):
            geometry = upsample_geometry(x.grid, x.stride, 4 * packed.outputs, parity)
            multiply(b, packed, geometry, x, epilogue, into)

    if o.weight.adapters:
        plain = image_operand(b, o.x, o.padding, o.border, quantised=False)

        def reduce(adapter: LowRank, down: Packed, into: Buffer) -> None:
            in_classes(plain, b.weights.adapter_classes(adapter), Epilogue(_zeros(down)), into)

        residual = _through_adapters(b, o.weight, step.output.grid, residual, reduce)
    image = image_operand(b, o.x, o.padding, o.border, quantised=classes[0].kind in QUANTISED)
    in_classes(image, classes, _epilogue(b, o, residual), b.result(step.output))
