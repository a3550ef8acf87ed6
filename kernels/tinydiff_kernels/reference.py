"""The backend that is the specification: every operation through `ref/`, in plain NumPy.

Precision is float32; float64 measures the error of anything else; float16 rounds every activation to half
precision and computes in float32, which shows what a half-precision runtime would do (overflows too).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import numpy as np

from tinydiff_kernels import operations as op
from tinydiff_kernels.backend import Backend, Observer
from tinydiff_kernels.handles import Tensor
from tinydiff_kernels.ref import activation, attention, conv, embedding, matmul, norm
from tinydiff_kernels.rows import Array, Rows

Precision = Literal["float16", "float32", "float64"]


def _bias(tensor: Tensor | None) -> Array | None:
    return None if tensor is None else tensor.float32()


def _epilogue(o: op.Linear | op.Conv, y: Array) -> Array:
    if o.table is not None:
        images = y.reshape(o.grid.batch, o.grid.pixels, -1)
        images += o.table.array[:, None]
    if o.residual is not None:
        y += o.residual.array
    return activation.activate(y, o.activation)


def _linear(o: op.Linear) -> Array:
    w = o.weight
    return _epilogue(o, matmul.linear(o.x.array, w.weight.float32(), _bias(w.bias), w.adapters))


def _geglu(o: op.Geglu) -> Array:
    w = o.weight
    return matmul.geglu(o.x.array, w.weight.float32(), _bias(w.bias), w.adapters)


def _conv(o: op.Conv) -> Array:
    x, grid, w = o.x.array, o.x.grid, o.weight
    if o.upsample_to is not None:
        x, grid = conv.upsample_nearest(x, grid, o.upsample_to)
    y = conv.conv2d(x, grid, w.weight.float32(), _bias(w.bias), o.stride, o.padding, o.border, w.adapters)
    return _epilogue(o, y)


def _group_norm(o: op.GroupNorm) -> Array:
    w = o.weight
    y = norm.group_norm(o.x.array, o.grid, w.weight.float32(), w.bias.float32(), o.groups, o.eps)
    if o.scale_shift is not None:
        scale, shift = np.split(o.scale_shift.array[:, None], 2, axis=2)
        y = (y.reshape(o.grid.batch, o.grid.pixels, -1) * (1 + scale) + shift).reshape(y.shape)
    return activation.activate(y, o.activation)


def _layer_norm(o: op.LayerNorm) -> Array:
    return norm.layer_norm(o.x.array, o.weight.weight.float32(), o.weight.bias.float32(), o.eps)


def _attention(o: op.Attention) -> Array:
    return attention.attention(o.q.array, o.k.array, o.v.array, o.grid.batch, o.heads, o.causal, o.lengths)


def _add(o: op.Add) -> Array:
    return o.x.array + o.scale * o.y.array


def _concat(o: op.Concat) -> Array:
    result: Array = np.concatenate([o.x.array, o.y.array], 1)
    return result


def _activate(o: op.Activate) -> Array:
    return activation.activate(o.x.array, o.activation)


def _affine(o: op.Affine) -> Array:
    return o.x.array * o.scale + o.shift


def _timestep_embedding(o: op.TimestepEmbedding) -> Array:
    return embedding.timestep_embedding(o.timesteps, o.dim, o.flip_sin_to_cos, o.freq_shift)


def _embed(o: op.Embed) -> Array:
    return embedding.embed(o.ids, o.tokens.weight.float32(), o.positions.weight.float32(), o.appended)


def _take_row(o: op.TakeRow) -> Array:
    rows: Array = o.x.array[np.arange(o.x.grid.batch) * o.x.grid.pixels + o.index]
    return rows


TABLE: dict[type[op.Operation], Callable[[Any], Array]] = {
    op.Linear: _linear,
    op.Geglu: _geglu,
    op.Conv: _conv,
    op.GroupNorm: _group_norm,
    op.LayerNorm: _layer_norm,
    op.Attention: _attention,
    op.Add: _add,
    op.Concat: _concat,
    op.Activate: _activate,
    op.Affine: _affine,
    op.TimestepEmbedding: _timestep_embedding,
    op.Embed: _embed,
    op.TakeRow: _take_row,
}


class Reference(Backend):
    """Plain NumPy; see the module docstring for `precision`."""

    name = "reference"

    def __init__(self, precision: Precision = "float32", observers: Sequence[Observer] = ()) -> None:
        super().__init__(observers)
        self.precision = precision
        self._dtype = np.dtype(np.float64 if precision == "float64" else np.float32)

    def execute(self, operation: op.Operation) -> Rows:
        operation = self._converted(operation)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the watchdog names NaN, not NumPy
            y = TABLE[type(operation)](operation)
            if self.precision == "float16":
                y = y.astype(np.float16)
        return Rows(operation.grid, operation.channels, y.astype(self._dtype, copy=False))

    def _converted(self, operation: op.Operation) -> op.Operation:
        """Operands from outside (latents, text) arrive in float32; the functions work in the dtype they are given."""
        if all(x.array.dtype == self._dtype for x in operation.inputs()):
            return operation
        rows = {f.name: x for f in fields(operation) if isinstance(x := getattr(operation, f.name), Rows)}
        wide = {name: Rows(x.grid, x.channels, x.array.astype(self._dtype)) for name, x in rows.items()}
        return replace(operation, **wide)
