"""What does not fit together is refused when an operation is described; each row below is one refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinydiff_kernels import operations as op
from tinydiff_kernels.handles import ConvWeight, EmbeddingWeight, LinearWeight, LowRank, NormWeight
from tinydiff_kernels.plan import Plan
from tinydiff_kernels.reference import TABLE, Reference
from tinydiff_kernels.rows import Grid, Rows, ShapeError, rows_from_nchw, rows_from_tokens


class Shape:
    """A tensor of which only name and shape matter."""

    def __init__(self, *shape: int) -> None:
        self.name, self.shape = "w", shape

    def float32(self) -> Any:
        return np.ones(self.shape, np.float32)


def rows(channels: int, batch: int = 2, height: int = 3, width: int = 4) -> Rows:
    return Rows(Grid(batch, height, width), channels)


def linear(inputs: int, outputs: int, *adapters: LowRank) -> LinearWeight:
    return LinearWeight("layer", Shape(outputs, inputs), None, list(adapters))


def kernel(inputs: int, outputs: int, size: int = 3, *adapters: LowRank) -> ConvWeight:
    return ConvWeight("layer", Shape(outputs, inputs, size, size), None, list(adapters))


def norm(channels: int) -> NormWeight:
    return NormWeight("layer", Shape(channels), Shape(channels))


def table(entries: int, channels: int) -> EmbeddingWeight:
    return EmbeddingWeight("layer", Shape(entries, channels))


def low_rank(down: tuple[int, ...], up: tuple[int, ...]) -> LowRank:
    return LowRank(np.zeros(down, np.float32), np.zeros(up, np.float32))


def ids(*values: int) -> Any:
    return np.array([values])


def attention(**changes: Any) -> op.Attention:
    given = {"q": rows(8), "k": rows(8, 2, 1, 5), "v": rows(8, 2, 1, 5), "heads": 2}
    return op.Attention(**{**given, **changes})


Make = Callable[[], op.Operation]
REFUSED: dict[str, tuple[Make, str]] = {
    "linear: channels": (lambda: op.Linear(rows(5), linear(6, 4)), r"Linear\(layer\): 5 channels into 6"),
    "linear: table per row": (lambda: op.Linear(rows(6), linear(6, 4), table=rows(4)), "table is"),
    "linear: table width": (lambda: op.Linear(rows(6), linear(6, 4), table=rows(6, 2, 1, 1)), "table is"),
    "linear: table batch": (lambda: op.Linear(rows(6), linear(6, 4), table=rows(4, 1, 1, 1)), "table is"),
    "linear: residual width": (lambda: op.Linear(rows(6), linear(6, 4), residual=rows(6)), "residual"),
    "linear: residual grid": (lambda: op.Linear(rows(6), linear(6, 4), residual=rows(4, 2, 4, 3)), "residual"),
    "linear: adapter down": (lambda: op.Linear(rows(6), linear(6, 4, low_rank((2, 5), (4, 2)))), "adapter"),
    "linear: adapter up": (lambda: op.Linear(rows(6), linear(6, 4, low_rank((2, 6), (5, 2)))), "adapter"),
    "linear: adapter ranks": (lambda: op.Linear(rows(6), linear(6, 4, low_rank((2, 6), (4, 3)))), "adapter"),
    "geglu: channels": (lambda: op.Geglu(rows(5), linear(6, 4)), "5 channels into 6"),
    "geglu: odd outputs": (lambda: op.Geglu(rows(6), linear(6, 5)), "odd number of outputs"),
    "geglu: adapter": (lambda: op.Geglu(rows(6), linear(6, 4, low_rank((1, 6), (2, 1)))), "adapter"),
    "conv: channels": (lambda: op.Conv(rows(5), kernel(6, 4)), r"Conv\(layer\): 5 channels into 6"),
    "conv: stride 0": (lambda: op.Conv(rows(6), kernel(6, 4), stride=0), "stride"),
    "conv: negative padding": (lambda: op.Conv(rows(6), kernel(6, 4), padding=(1, 1, -1, 1)), "negative padding"),
    "conv: kernel too high": (lambda: op.Conv(rows(6, 1, 2, 9), kernel(6, 4), padding=(0, 0, 0, 0)), "smaller"),
    "conv: kernel too wide": (lambda: op.Conv(rows(6, 1, 9, 1), kernel(6, 4, 5)), "smaller"),
    "conv: no pixels": (lambda: op.Conv(rows(6, 1, 0, 4), kernel(6, 4)), "empty"),
    "conv: enlarged to nothing": (lambda: op.Conv(rows(6), kernel(6, 4), upsample_to=(4, 0)), "empty"),
    "conv: border wider than the image": (
        lambda: op.Conv(rows(6, 1, 2, 9), kernel(6, 4, 7), padding=(3, 3, 3, 3), border="circular"),
        "circular border",
    ),
    "conv: table": (lambda: op.Conv(rows(6), kernel(6, 4), table=rows(4)), "table is"),
    "conv: residual of the input's size": (
        lambda: op.Conv(rows(6, 2, 4, 4), kernel(6, 6), stride=2, residual=rows(6, 2, 4, 4)),
        "residual",
    ),
    "conv: linear adapter": (lambda: op.Conv(rows(6), kernel(6, 4, 3, low_rank((2, 6), (4, 2)))), "adapter"),
    "conv: adapter kernel": (lambda: op.Conv(rows(6), kernel(6, 4, 3, low_rank((2, 6, 1, 1), (4, 2)))), "adapter"),
    "group norm: channels": (lambda: op.GroupNorm(rows(6), norm(8), 2, 1e-5), "6 channels into 8"),
    "group norm: groups": (lambda: op.GroupNorm(rows(6), norm(6), 4, 1e-5), "4 groups do not divide"),
    "group norm: no groups": (lambda: op.GroupNorm(rows(6), norm(6), 0, 1e-5), "0 groups"),
    "group norm: scale_shift": (
        lambda: op.GroupNorm(rows(6), norm(6), 2, 1e-5, scale_shift=rows(6, 2, 1, 1)),
        "scale_shift",
    ),
    "layer norm: channels": (lambda: op.LayerNorm(rows(6), norm(5), 1e-5), "6 channels into 5"),
    "attention: heads": (lambda: attention(heads=3), "3 heads do not divide"),
    "attention: no heads": (lambda: attention(heads=0), "0 heads"),
    "attention: key width": (lambda: attention(k=rows(6, 2, 1, 5)), "differ in width"),
    "attention: value width": (lambda: attention(v=rows(7, 2, 1, 5)), "divide the values"),
    "attention: value number": (lambda: attention(v=rows(8, 2, 1, 4)), "differ in number"),
    "attention: batch": (lambda: attention(k=rows(8, 1, 1, 5), v=rows(8, 1, 1, 5)), "differ in batch"),
    "attention: no keys": (lambda: attention(k=rows(8, 2, 1, 0), v=rows(8, 2, 1, 0)), "no keys"),
    "attention: causal": (lambda: attention(causal=True), "as many keys as queries"),
    "attention: lengths number": (lambda: attention(lengths=np.array([5])), "lengths"),
    "attention: length 0": (lambda: attention(lengths=np.array([5, 0])), "lengths"),
    "attention: length too long": (lambda: attention(lengths=np.array([6, 5])), "lengths"),
    "add: channels": (lambda: op.Add(rows(6), rows(5)), "differ"),
    "add: grid of as many rows": (lambda: op.Add(rows(6, 2, 3, 4), rows(6, 2, 4, 3)), "differ"),
    "concat: grid": (lambda: op.Concat(rows(6), rows(6, 2, 4, 3)), "grids"),
    "timesteps: not a table": (lambda: op.TimestepEmbedding(np.zeros(3), 8, True, 0), "timesteps"),
    "timesteps: no width": (lambda: op.TimestepEmbedding(np.zeros((1, 1)), 0, True, 0), "at least one"),
    "embed: ids not a table": (lambda: op.Embed(np.array([1, 2]), table(9, 4), table(7, 4)), "ids must be"),
    "embed: too many tokens": (lambda: op.Embed(ids(*range(8)), table(9, 4), table(7, 4)), "8 tokens, 7 positions"),
    "embed: id too large": (lambda: op.Embed(ids(1, 9), table(9, 4), table(7, 4)), r"token ids must be 0\.\.8"),
    "embed: negative id": (lambda: op.Embed(ids(-1), table(9, 4), table(7, 4)), "token ids"),
    "embed: id beyond appended": (
        lambda: op.Embed(ids(11), table(9, 4), table(7, 4), np.zeros((2, 4), np.float32)),
        r"0\.\.10",
    ),
    "embed: widths": (lambda: op.Embed(ids(1), table(9, 4), table(7, 5)), "differ in width"),
    "embed: appended width": (
        lambda: op.Embed(ids(1), table(9, 4), table(7, 4), np.zeros((2, 5), np.float32)),
        "appended",
    ),
    "take row: beyond": (lambda: op.TakeRow(rows(6), np.array([0, 12])), "index"),
    "take row: negative": (lambda: op.TakeRow(rows(6), np.array([-1, 0])), "index"),
    "take row: number": (lambda: op.TakeRow(rows(6), np.array([0])), "index"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_refused(row: str) -> None:
    make, message = REFUSED[row]
    with pytest.raises(ShapeError, match=message):
        make()


# Operands that fit, one of each operation: also the proof that the rows above fail for their one fault.
ACCEPTED: dict[str, tuple[Make, tuple[Grid, int]]] = {
    "Linear": (
        lambda: op.Linear(
            rows(6), linear(6, 4, low_rank((2, 6), (4, 2))), table=rows(4, 2, 1, 1), residual=rows(4), activation="silu"
        ),
        (Grid(2, 3, 4), 4),
    ),
    "Geglu": (lambda: op.Geglu(rows(6), linear(6, 4, low_rank((1, 6), (4, 1)))), (Grid(2, 3, 4), 2)),
    "Conv": (
        lambda: op.Conv(
            rows(6),
            kernel(6, 4, 3, low_rank((2, 6, 3, 3), (4, 2))),
            stride=2,
            padding=(0, 1, 0, 1),
            upsample_to=(5, 8),
            border="circular",
            table=rows(4, 2, 1, 1),
            residual=rows(4, 2, 2, 4),
        ),
        (Grid(2, 2, 4), 4),
    ),
    "GroupNorm": (
        lambda: op.GroupNorm(rows(6), norm(6), 3, 1e-5, "silu", rows(12, 2, 1, 1)),
        (Grid(2, 3, 4), 6),
    ),
    "LayerNorm": (lambda: op.LayerNorm(rows(6), norm(6), 1e-5), (Grid(2, 3, 4), 6)),
    "Attention": (lambda: attention(v=rows(6, 2, 1, 5), lengths=np.array([1, 5])), (Grid(2, 3, 4), 6)),
    "Add": (lambda: op.Add(rows(6), rows(6), 0.5), (Grid(2, 3, 4), 6)),
    "Concat": (lambda: op.Concat(rows(6), rows(5)), (Grid(2, 3, 4), 11)),
    "Activate": (lambda: op.Activate(rows(6), "relu"), (Grid(2, 3, 4), 6)),
    "Affine": (lambda: op.Affine(rows(6), 2, -1), (Grid(2, 3, 4), 6)),
    "TimestepEmbedding": (lambda: op.TimestepEmbedding(np.zeros((2, 3)), 8, True, 0), (Grid(2, 1, 1), 24)),
    "Embed": (
        lambda: op.Embed(ids(1, 10), table(9, 4), table(7, 4), np.zeros((2, 4), np.float32)),
        (Grid(1, 1, 2), 4),
    ),
    "TakeRow": (lambda: op.TakeRow(rows(6), np.array([0, 11])), (Grid(2, 1, 1), 6)),
}


def with_values(operation: op.Operation) -> op.Operation:
    """The same operation on random numbers."""
    rng = np.random.default_rng(1)
    for x in operation.inputs():
        object.__setattr__(x, "data", rng.standard_normal((x.grid.rows, x.channels), np.float32))
    return operation


@pytest.mark.parametrize("kind", ACCEPTED)
@pytest.mark.parametrize("precision", ["float16", "float32", "float64"])
def test_declared_shape_is_the_computed_shape(kind: str, precision: Any) -> None:
    make, (grid, channels) = ACCEPTED[kind]
    result = Reference(precision).run(with_values(make()))
    planned = Plan().run(make())
    assert result.array.shape == (grid.rows, channels)
    assert result.array.dtype == (np.float64 if precision == "float64" else np.float32)
    for answer in (result, planned):
        assert (answer.grid, answer.channels) == (grid, channels)


@pytest.mark.parametrize("kind", ACCEPTED)
def test_operands_are_left_as_they_were(kind: str) -> None:
    operation = with_values(ACCEPTED[kind][0]())
    before = [x.array.copy() for x in operation.inputs()]
    Reference().run(operation)
    assert all(np.array_equal(a, x.array) for a, x in zip(before, operation.inputs(), strict=True))


def test_every_operation_is_in_the_tables() -> None:
    described = {c.__name__ for c in TABLE}
    assert described == set(ACCEPTED)
    assert {f.split(":")[0] for f in REFUSED} >= {"linear", "geglu", "conv", "attention", "embed", "take row"}


def test_float16_rounds_every_result() -> None:
    x = rows_from_nchw(np.full((1, 1, 1, 2), 1 + 2**-12, np.float32))
    assert Reference("float32").affine(x, 1, 0).array[0, 0] == np.float32(1 + 2**-12)
    assert Reference("float16").affine(x, 1, 0).array[0, 0] == 1
    assert np.isinf(Reference("float16").affine(x, 70000, 0).array).all()


def test_float64_takes_float32_operands() -> None:
    """Latents and text come in float32; nothing may be rounded to it on the way."""
    x = rows_from_nchw(np.full((1, 1, 1, 1), 0.1, np.float32))
    y = Reference("float64").affine(x, 1 / 3, 0)
    assert y.array[0, 0] == float(np.float32(0.1)) / 3


def test_observers_see_every_operation_and_may_stop_it() -> None:
    seen: list[str] = []

    class Watch:
        def before(self, operation: op.Operation) -> None:
            seen.append(f"before {operation.kind}")
            if len(seen) > 3:
                raise KeyboardInterrupt

        def after(self, operation: op.Operation, result: Rows) -> None:
            seen.append(f"after {operation.kind} {result.array.shape}")

    backend = Reference(observers=[Watch()])
    x = rows_from_nchw(np.ones((1, 2, 1, 3), np.float32))
    y = backend.add(x, x)
    backend.concat(y, x)
    with pytest.raises(KeyboardInterrupt):
        backend.affine(y, 1, 0)
    assert seen == ["before Add", "after Add (3, 2)", "before Concat", "after Concat (3, 4)", "before Affine"]


def test_a_planned_activation_has_no_values() -> None:
    planned = Plan().affine(rows(3), 1, 0)
    with pytest.raises(ShapeError, match="planned, not computed"):
        rows_from_tokens(planned.array)
