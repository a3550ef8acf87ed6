"""Operations other than matmuls and norms."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinydiff_kernels import operations as op
from tinydiff_kernels.attention import descriptor as a
from tinydiff_kernels.attention import descriptor_i8 as a8
from tinydiff_kernels.compiled import forms
from tinydiff_kernels.compiled.arena import Lifetime
from tinydiff_kernels.compiled.build import Builder
from tinydiff_kernels.compiled.lower_matmul import QUANTISED
from tinydiff_kernels.compiled.program import MOVED, Buffer
from tinydiff_kernels.compiled.trace import Step
from tinydiff_kernels.elementwise import descriptor as e
from tinydiff_kernels.ref import embedding
from tinydiff_kernels.rows import Array

INTEGER_KEYS = 256  # fewer keys gain little; a prompt has 77, or a multiple


def deferred(b: Builder, step: Step) -> None:
    """Norms and concatenations: made in the forms that consumers ask for."""
    b.defer(step.operation, step.output)


def attention(b: Builder, step: Step) -> None:
    o: Any = step.operation
    q, k, v = (forms.dense(b, x) for x in (o.q, o.k, o.v))
    sizes = o.q.grid.batch, o.heads, o.q.grid.pixels, o.k.grid.pixels, o.q.channels // o.heads, o.v.channels // o.heads
    strides = a.Strides(o.q.row_bytes, o.k.row_bytes, o.v.row_bytes, step.output.row_bytes)
    if in_integers(b, o):
        _attention_i8(b, step, a8.Shape(*sizes), strides, q, k, v)
        return
    shape = a.Shape(*sizes)
    fields = a.attention_fields(
        shape, q=q, k=k, v=v, output=b.result(step.output), strides=strides,
        workspace=b.room(a.workspace_bytes(shape, b.threads)),
        lengths=0 if o.lengths is None else of_step(b, "lengths"), causal=o.causal,
    )  # fmt: skip
    b.launch("attention_f32", a.WORDS, fields, _products(shape))


def in_integers(b: Builder, o: Any) -> bool:
    """Self-attention of rows that quantised linear layers made of the same input, where it is long enough to pay.

    A matter of the model and of sizes only, so that every path and number of threads chooses the same.
    """
    if o.causal or o.lengths is not None or o.k.grid.pixels < INTEGER_KEYS:
        return False
    made = [b.maker(x) for x in (o.q, o.k, o.v)]
    linear: list[Any] = [m.operation for m in made if m is not None and isinstance(m.operation, op.Linear)]
    same = len(linear) == 3 and len({x.x.number for x in linear}) == 1
    return same and all(b.weights.kind_of(x.weight) in QUANTISED for x in linear)


def _attention_i8(b: Builder, step: Step, shape: a8.Shape, strides: a.Strides, q: Buffer, k: Buffer, v: Buffer) -> None:
    o: Any = step.operation
    fields = a8.attention_fields(
        shape, q=q, k=k, v=v, output=b.result(step.output), strides=strides, prepared=b.room(shape.prepared_bytes),
        scratch=b.room(b.threads * shape.places[a.SCRATCH_BYTES]),
    )  # fmt: skip
    b.launch("keys_i8", a8.WORDS, fields, MOVED * (o.k.nbytes + o.v.nbytes) // 4)
    b.launch("attention_i8", a8.WORDS, fields, _products(shape))


def _products(shape: a.Shape) -> int:
    return shape.images * shape.heads * shape.queries * shape.keys * (shape.width + shape.value_width)


def of_step(b: Builder, attribute: str) -> Buffer:
    """An array of this run's operation."""
    return Buffer("step", Lifetime(0, 0, 0), b.step, attribute)


def add(b: Builder, step: Step) -> None:
    o: Any = step.operation
    x, y, stride = forms.dense(b, o.x), forms.dense(b, o.y), step.output.row_bytes
    fields = e.add_fields(_shape(step), x, stride, y, stride, b.result(step.output), stride, scale=o.scale)
    b.launch("elementwise", e.WORDS, fields, MOVED * step.output.nbytes // 4)


def activate(b: Builder, step: Step) -> None:
    _linear(b, step, activation=step.operation.activation)


def affine(b: Builder, step: Step) -> None:
    _linear(b, step, scale=step.operation.scale, shift=step.operation.shift)


def _linear(b: Builder, step: Step, **settings: Any) -> None:
    x, stride = forms.dense(b, step.operation.x), step.output.row_bytes
    fields = e.linear_fields(_shape(step), x, stride, b.result(step.output), stride, **settings)
    b.launch("elementwise", e.WORDS, fields, MOVED * step.output.nbytes // 4)


def _shape(step: Step) -> tuple[int, int]:
    return step.output.grid.rows, step.output.channels


def timestep_embedding(b: Builder, step: Step) -> None:
    """Each number of a row becomes `dim` numbers, so rows of the kernel are numbers."""
    o: Any = step.operation
    table = e.frequencies(o.dim, o.freq_shift)
    fields = e.sinusoids_fields(
        o.timesteps.size, o.dim, of_step(b, "timesteps"), table, b.result(step.output), 4 * o.dim,
        cosines_first=o.flip_sin_to_cos,
    )  # fmt: skip
    b.launch("elementwise", e.WORDS, fields, MOVED * step.output.nbytes // 4)


def embed(b: Builder, step: Step) -> None:
    o: Any = step.operation
    tokens, positions = b.weights.table(o.tokens), b.weights.table(o.positions)

    def gather(operation: Any, inputs: list[Array], output: Array) -> None:
        output[:] = embedding.embed(operation.ids, tokens, positions, operation.appended)

    b.host(gather, [], step.output, b.result(step.output))


def take_row(b: Builder, step: Step) -> None:
    o: Any = step.operation
    forms.dense(b, o.x)
    b.host(_take_row, [o.x], step.output, b.result(step.output))


def _take_row(operation: Any, inputs: list[Array], output: Array) -> None:
    grid = operation.x.grid
    output[:] = inputs[0][np.arange(grid.batch) * grid.pixels + operation.index]
