"""A shape as a call of the compiled backend on random numbers, and of the reference on the same ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinydiff.bench.shapes import Shape
from tinydiff_kernels import operations as op
from tinydiff_kernels.backend import Backend
from tinydiff_kernels.compiled.lower_simple import INTEGER_KEYS
from tinydiff_kernels.handles import ConvWeight, LinearWeight, NormWeight
from tinydiff_kernels.ref import attention_i8
from tinydiff_kernels.reference import Reference
from tinydiff_kernels.rows import Grid, Rows

Call = Callable[[Backend], Rows]
MOST_QUERIES = 256  # of attention that the reference computes: it holds queries x keys


class Values:
    """A weight in memory."""

    dtype = "F32"

    def __init__(self, name: str, values: Any) -> None:
        self.name, self.values, self.shape = name, values, values.shape

    def float32(self) -> Any:
        return self.values


class Calls:
    """Draws operands from one generator."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.rng = shape, np.random.default_rng(0)

    def numbers(self, *shape: int) -> Any:
        return self.rng.standard_normal(shape, np.float32)

    def rows(self, grid: Grid, channels: int) -> Rows:
        return Rows(grid, channels, self.numbers(grid.rows, channels))

    def weight(self, *shape: int) -> Any:
        return Values("weight", self.numbers(*shape) / np.float32(np.sqrt(np.prod(shape[1:]))))

    def norm(self, channels: int) -> NormWeight:
        return NormWeight("norm", Values("scale", self.numbers(channels)), Values("shift", self.numbers(channels)))

    def make(self) -> tuple[Call, Call, int]:
        """(the call to time, the same for the reference, perhaps on fewer rows; how many rows it gives)."""
        made: tuple[Call, Call, int] = getattr(self, self.shape.kind)()
        return made

    def _whole(self, call: Call, rows: int) -> tuple[Call, Call, int]:
        return call, call, rows

    def _flat(self) -> Grid:
        return Grid(1, 1, self.shape["rows"])

    def _epilogue(self, grid: Grid, outputs: int) -> dict[str, Any]:
        activation = None if self.shape["activation"] == "none" else self.shape["activation"]
        return {"activation": activation, "residual": self.rows(grid, outputs) if self.shape["residual"] else None}

    def linear(self) -> tuple[Call, Call, int]:
        s, grid = self.shape, self._flat()
        x, epilogue = self.rows(grid, s["inputs"]), self._epilogue(grid, s["outputs"])
        w = LinearWeight("layer", self.weight(s["outputs"], s["inputs"]), Values("bias", self.numbers(s["outputs"])))
        return self._whole(lambda b: b.linear(x, w, **epilogue), grid.rows)

    def geglu(self) -> tuple[Call, Call, int]:
        s, grid = self.shape, self._flat()
        x, both = self.rows(grid, s["inputs"]), 2 * s["outputs"]
        w = LinearWeight("layer", self.weight(both, s["inputs"]), Values("bias", self.numbers(both)))
        return self._whole(lambda b: b.geglu(x, w), grid.rows)

    def conv(self) -> tuple[Call, Call, int]:
        s = self.shape
        grid, size = Grid(s["images"], s["height"], s["width"]), s["kernel"]
        x = self.rows(grid, s["inputs"])
        w = ConvWeight(
            "layer", self.weight(s["outputs"], s["inputs"], size, size), Values("b", self.numbers(s["outputs"]))
        )
        doubled = (2 * grid.height, 2 * grid.width) if s["doubled"] else None
        height, width = doubled or (grid.height, grid.width)
        output = Grid(grid.batch, -(-height // s["stride"]), -(-width // s["stride"]))
        epilogue = self._epilogue(output, s["outputs"])
        border = (size // 2,) * 4

        def call(b: Backend) -> Rows:
            return b.conv(x, w, stride=s["stride"], padding=border, upsample_to=doubled, **epilogue)

        return self._whole(call, output.rows)

    def attention(self) -> tuple[Call, Call, int]:
        s = self.shape
        width = s["heads"] * s["width"]
        queries, keys = Grid(s["images"], 1, s["queries"]), Grid(s["images"], 1, s["keys"])
        q, k, v = self.rows(queries, width), self.rows(keys, width), self.rows(keys, width)
        causal = bool(s["causal"])
        if causal or s["images"] > 1 or s["queries"] <= MOST_QUERIES:
            return self._whole(lambda b: b.attention(q, k, v, s["heads"], causal=causal), queries.rows)
        few = Rows(Grid(1, 1, MOST_QUERIES), width, q.array[:MOST_QUERIES])
        return (
            lambda b: b.attention(q, k, v, s["heads"]),
            lambda b: b.attention(few, k, v, s["heads"]),
            MOST_QUERIES,
        )

    def group_norm(self) -> tuple[Call, Call, int]:
        s = self.shape
        grid = Grid(s["images"], s["height"], s["width"])
        x, w = self.rows(grid, s["channels"]), self.norm(s["channels"])
        activation: Any = None if s["activation"] == "none" else s["activation"]
        return self._whole(lambda b: b.group_norm(x, w, s["groups"], 1e-5, activation=activation), grid.rows)

    def layer_norm(self) -> tuple[Call, Call, int]:
        x, w = self.rows(self._flat(), self.shape["channels"]), self.norm(self.shape["channels"])
        return self._whole(lambda b: b.layer_norm(x, w, 1e-5), x.grid.rows)

    def add(self) -> tuple[Call, Call, int]:
        x, y = (self.rows(self._flat(), self.shape["channels"]) for _ in range(2))
        return self._whole(lambda b: b.add(x, y), x.grid.rows)

    def affine(self) -> tuple[Call, Call, int]:
        x = self.rows(self._flat(), self.shape["channels"])
        return self._whole(lambda b: b.affine(x, 0.5, 0.5), x.grid.rows)

    def activate(self) -> tuple[Call, Call, int]:
        x = self.rows(self._flat(), self.shape["channels"])
        return self._whole(lambda b: b.activate(x, self.shape["activation"]), x.grid.rows)

    def concat(self) -> tuple[Call, Call, int]:
        x, y = self.rows(self._flat(), self.shape["first"]), self.rows(self._flat(), self.shape["second"])
        return self._whole(lambda b: b.concat(x, y), x.grid.rows)


def takes_integers(s: Shape) -> bool:
    """Attention that is in integers where quantised layers made its rows (`lower_simple.in_integers`)."""
    return s.kind == "attention" and not s["causal"] and s["queries"] == s["keys"] >= INTEGER_KEYS


class IntegerAttention(Reference):
    """The reference with all attention in 8-bit integers."""

    def execute(self, operation: op.Operation) -> Rows:
        if not isinstance(operation, op.Attention):
            return super().execute(operation)
        o = operation
        result = attention_i8.attention(o.q.array, o.k.array, o.v.array, o.grid.batch, o.heads)
        return Rows(o.grid, o.channels, result)


def operations(s: Shape) -> int:
    """Multiply-adds count as two; of kinds that only move numbers, 0."""
    if s.kind in ("linear", "geglu"):
        return 2 * s["rows"] * s["inputs"] * s["outputs"] * (2 if s.kind == "geglu" else 1)
    if s.kind == "conv":
        pixels = s["images"] * s["height"] * s["width"] * (4 if s["doubled"] else 1) // s["stride"] ** 2
        taps = 4 if s["doubled"] else s["kernel"] ** 2  # doubling is done on the small image with 2x2 taps
        return 2 * pixels * s["inputs"] * s["outputs"] * taps
    if s.kind == "attention":
        return 4 * s["images"] * s["heads"] * s["queries"] * s["keys"] * s["width"] // (2 if s["causal"] else 1)
    return 0


def moved(s: Shape, weight_bits: int) -> int:
    """Bytes that must be read and written at least once: float32 activations, weights of so many bits."""
    if s.kind in ("linear", "geglu"):
        weight = s["inputs"] * s["outputs"] * (2 if s.kind == "geglu" else 1)
        return 4 * s["rows"] * (s["inputs"] + s["outputs"]) + weight * weight_bits // 8
    if s.kind == "conv":
        pixels = s["images"] * s["height"] * s["width"]
        after = pixels * (4 if s["doubled"] else 1) // s["stride"] ** 2
        weight = s["inputs"] * s["outputs"] * (16 if s["doubled"] else s["kernel"] ** 2)
        return 4 * (pixels * s["inputs"] + after * s["outputs"]) + weight * weight_bits // 8
    if s.kind == "attention":
        return 8 * s["images"] * s["heads"] * s["width"] * (s["queries"] + s["keys"])
    if s.kind == "group_norm":  # read twice: statistics, then values
        return 12 * s["images"] * s["height"] * s["width"] * s["channels"]
    if s.kind == "concat":
        return 8 * s["rows"] * (s["first"] + s["second"])
    return (12 if s.kind == "add" else 8) * s["rows"] * s["channels"]
