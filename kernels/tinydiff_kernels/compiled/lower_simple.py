"""Operations other than matmuls and norms."""

from __future__ import annotations

from typing import Any

import numpy as np


from tinydiff_kernels.compiled import forms
from tinydiff_kernels.compiled.build import Builder
from tinydiff_kernels.compiled.program import Buffer
from tinydiff_kernels.compiled.arena import Lifetime
from tinydiff_kernels.compiled.trace import Step, Value
from tinydiff_kernels.ref import embedding
from tinydiff_kernels.rows import Array


def deferred(b: Builder, step: Step) -> None:
    """Norms and concatenations: made in the forms that consumers ask for."""
    b.defer(step.operation, step.output)


def attention_real(b: Builder, step: Step) -> None:
    o: Any = step.operation
    q, k, v = (forms.dense(b, x) for x in (o.q, o.k, o.v))
    images, heads, queries, keys = o.q.grid.batch, o.heads, o.q.grid.pixels, o.k.grid.pixels
    width, value_width = o.q.channels // heads, o.v.channels // heads
    shape = a.Shape(images, heads, queries, keys, width, value_width)
    strides = a.Strides(o.q.row_bytes, o.k.row_bytes, o.v.row_bytes, step.output.row_bytes)
    words = a.words(shape, q=0, k=0, v=0, output=0, strides=strides, scratch=0, causal=o.causal)
    links: dict[int, Any] = {
        a.Q: q, a.K: k, a.V: v, a.OUTPUT: b.result(step.output),
        a.SCRATCH: b.room(a.workspace_bytes(shape, b.threads)),
    }  # fmt: skip
    if o.lengths is not None:
        links[a.LENGTHS] = of_step(b, "lengths")
    b.launch("attention_f32", words, links, images * heads * queries * keys * (width + value_width))


def of_step(b: Builder, attribute: str) -> Buffer:
    """An array of this run's operation."""
    return Buffer("step", Lifetime(0, 0, 0), b.step, attribute)


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


def _value(x: Any) -> Value:
    return x  # type: ignore[no-any-return]


# TEMPORARY: until the kernels are there
def _tmp(run):
    def lower(b, step):
        o = step.operation
        from dataclasses import fields as dataclass_fields
        inputs = [v for f in dataclass_fields(o) if isinstance(v := getattr(o, f.name), Value)]
        for x in inputs:
            forms.dense(b, x)
        b.host(run, inputs, step.output, b.result(step.output))
    return lower

def _ref(f):
    def run(operation, inputs, output):
        output[:] = f(operation, inputs)
    return run

from tinydiff_kernels.ref import activation as _act, attention as _att
add = _tmp(_ref(lambda o, i: i[0] + np.float32(o.scale) * i[1]))
activate = _tmp(_ref(lambda o, i: _act.activate(i[0], o.activation)))
affine = _tmp(_ref(lambda o, i: i[0] * np.float32(o.scale) + np.float32(o.shift)))
timestep_embedding = _tmp(_ref(lambda o, i: embedding.timestep_embedding(o.timesteps, o.dim, o.flip_sin_to_cos, o.freq_shift)))
attention = _tmp(_ref(lambda o, i: _att.attention(*i, o.q.grid.batch, o.heads, o.causal, o.lengths)))
