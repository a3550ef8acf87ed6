"""The shapes of a network's operations, counted, and as lines of text.

    linear rows=4096 inputs=320 outputs=320 activation=none residual=1 x12

A network is called once on the dry backend; an observer sees every operation. `bench/shapes/` holds the lines of the
model families, `bench/make_shapes.py` makes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tinydiff.bench.families import build, caller
from tinydiff.parameters import Parameters
from tinydiff_kernels import operations as op
from tinydiff_kernels.compiled.dry import Dry
from tinydiff_kernels.operations import Operation
from tinydiff_kernels.rows import Rows

Fields = Mapping[str, int | str]


@dataclass(frozen=True)
class Shape:
    """A kind of operation and its sizes: all that decides how long it takes."""

    kind: str
    fields: tuple[tuple[str, int | str], ...]

    def __getitem__(self, name: str) -> Any:
        return dict(self.fields)[name]

    def __str__(self) -> str:
        return " ".join([self.kind, *(f"{name}={value}" for name, value in self.fields)])

    @classmethod
    def parse(cls, text: str) -> Shape:
        kind, *pairs = text.split()
        split = (pair.split("=", 1) for pair in pairs)
        return cls(kind, tuple((name, int(value) if value.isdigit() else value) for name, value in split))


def _linear(o: op.Linear) -> Fields:
    return {"rows": o.grid.rows, "inputs": o.x.channels, "outputs": o.channels, **_epilogue(o)}


def _geglu(o: op.Geglu) -> Fields:
    return {"rows": o.grid.rows, "inputs": o.x.channels, "outputs": o.channels}


def _conv(o: op.Conv) -> Fields:
    grid = o.x.grid
    sizes = {"images": grid.batch, "height": grid.height, "width": grid.width, "inputs": o.x.channels}
    taps = {"outputs": o.channels, "kernel": o.weight.kernel[0], "stride": o.stride, "doubled": int(_doubled(o))}
    return {**sizes, **taps, **_epilogue(o)}


def _doubled(o: op.Conv) -> bool:
    return o.upsample_to is not None


def _epilogue(o: op.Linear | op.Conv) -> Fields:
    return {"activation": o.activation or "none", "residual": int(o.residual is not None)}


def _attention(o: op.Attention) -> Fields:
    sizes = {"images": o.grid.batch, "heads": o.heads, "queries": o.grid.pixels, "keys": o.k.grid.pixels}
    return {**sizes, "width": o.q.channels // o.heads, "causal": int(o.causal)}


def _group_norm(o: op.GroupNorm) -> Fields:
    grid = o.grid
    sizes = {"images": grid.batch, "height": grid.height, "width": grid.width, "channels": o.channels}
    return {**sizes, "groups": o.groups, "activation": o.activation or "none"}


def _rows(o: op.LayerNorm | op.Add | op.Affine) -> Fields:
    return {"rows": o.grid.rows, "channels": o.channels}


def _activate(o: op.Activate) -> Fields:
    return {**_rows(o), "activation": o.activation}  # type: ignore[arg-type]


def _concat(o: op.Concat) -> Fields:
    return {"rows": o.grid.rows, "first": o.x.channels, "second": o.y.channels}


READERS: dict[type[Operation], tuple[str, Callable[[Any], Fields]]] = {
    op.Linear: ("linear", _linear),
    op.Geglu: ("geglu", _geglu),
    op.Conv: ("conv", _conv),
    op.Attention: ("attention", _attention),
    op.GroupNorm: ("group_norm", _group_norm),
    op.LayerNorm: ("layer_norm", _rows),
    op.Add: ("add", _rows),
    op.Affine: ("affine", _rows),
    op.Activate: ("activate", _activate),
    op.Concat: ("concat", _concat),
}  # left out: embeddings and picking rows, which take microseconds


def shape_of(operation: Operation) -> Shape | None:
    """None for kinds that are not counted."""
    if type(operation) not in READERS:
        return None
    kind, read = READERS[type(operation)]
    return Shape(kind, tuple(read(operation).items()))


class Counting:
    """An observer that counts shapes."""

    def __init__(self) -> None:
        self.shapes: Counter[Shape] = Counter()

    def before(self, operation: Operation) -> None:
        if shape := shape_of(operation):
            self.shapes[shape] += 1

    def after(self, operation: Operation, result: Rows) -> None:
        """Shapes have no results."""


def collect(config: Mapping[str, Any], size: int, batch: int = 1) -> Counter[Shape]:
    """Shapes of one step, decode or prompt, in the order in which they first occur."""
    backend, seen = Dry(lambda _weight: "f32", threads=1), Counting()
    call = caller(config, build(config, Parameters.declare(), backend), size, batch)
    backend.observers = [seen]
    call()
    return seen.shapes
