"""The backend "numba": records what a network does, compiles it once for each shape, runs it in one arena."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels import dispatch, pool
from tinydiff_kernels import operations as op
from tinydiff_kernels.backend import Backend, Observer
from tinydiff_kernels.compiled import forms, lower_matmul, lower_simple
from tinydiff_kernels.compiled.arena import Arena
from tinydiff_kernels.compiled.build import Builder
from tinydiff_kernels.compiled.lower_matmul import QUANTISED
from tinydiff_kernels.compiled.program import Buffer, Program, Stream
from tinydiff_kernels.compiled.strip_build import StripBuild
from tinydiff_kernels.compiled.strip_schedule import Schedule
from tinydiff_kernels.compiled.strips import StripPolicy, chosen
from tinydiff_kernels.compiled.trace import Step, Trace, Value
from tinydiff_kernels.compiled.weights import KindOf, PackedWeights
from tinydiff_kernels.matmul.geometry import forget_geometry
from tinydiff_kernels.ref.quantise import FLIP
from tinydiff_kernels.rows import Array, Rows

Lower = Callable[[Builder, Step], None]
TABLE: dict[type[op.Operation], Lower] = {
    op.Linear: lower_matmul.linear,
    op.Geglu: lower_matmul.geglu,
    op.Conv: lower_matmul.conv,
    op.GroupNorm: lower_simple.deferred,
    op.LayerNorm: lower_simple.deferred,
    op.Concat: lower_simple.deferred,
    op.Attention: lower_simple.attention,
    op.Add: lower_simple.add,
    op.Activate: lower_simple.activate,
    op.Affine: lower_simple.affine,
    op.TimestepEmbedding: lower_simple.timestep_embedding,
    op.Embed: lower_simple.embed,
    op.TakeRow: lower_simple.take_row,
}
PROGRAMS_KEPT = 8


def fill(
    builder: Builder, outputs: list[Value], strips: StripPolicy | None, *, plainly: bool = False
) -> Callable[[Value], Buffer | None]:
    """Lower a builder's trace, in strips where there is a policy; a function that says where a value was kept.

    `plainly`: every step writes its float32 rows, norms and concatenations too, and shows them.
    """
    trace = builder.trace
    if strips is not None:
        schedule = Schedule(trace, outputs, strips, lambda weight: builder.weights.kind_of(weight) in QUANTISED)
        build = StripBuild(builder, schedule, strips.lines, TABLE, plainly=plainly)
        build.run()
        return build.place_of
    for index, step in enumerate(trace.steps):
        builder.step = index
        TABLE[type(step.operation)](builder, step)
        if plainly:
            forms.dense(builder, step.output)
            builder.show(step.output)
    for value in outputs:
        forms.dense(builder, value)
    return lambda value: builder.known(value).dense


class Compiled(Backend):
    """Float32 activations and epilogues; weights as `kind_of` says. `arena` may be shared by the networks of a
    pipeline; `keep` and `stream`: see `PackedWeights` and `program.Stream`, for networks under a memory limit.

    `cancel` is an int32 word that stops kernels between tiles. Observers see every operation when it is recorded
    (`before`). Where a result is not finite all is computed again, operation by operation, and each one's values are
    shown to them (`after`), so that the first layer that went wrong can be named.
    """

    name = "numba"

    def __init__(
        self,
        kind_of: KindOf,
        *,
        observers: Sequence[Observer] = (),
        threads: int | None = None,
        arena: Arena | None = None,
        cancel: NDArray[np.int32] | None = None,
        keep: bool = True,
        stream: Stream | None = None,
    ) -> None:
        super().__init__(observers)
        self.threads = pool.default_threads() if threads is None else threads
        self.arena = arena or Arena()
        self.cancel: NDArray[np.int32] = np.zeros(1, np.int32) if cancel is None else cancel
        self.profile = False
        self.strips: StripPolicy | tuple[StripPolicy, ...] | None = None  # of what runs next; see `strips.py`
        self.programs: OrderedDict[Any, Program] = OrderedDict()  # newest last
        self.stream = stream
        self.kind_of, self._keep = kind_of, keep
        self._weights = PackedWeights(kind_of, keep=keep)
        self._trace = Trace()

    def forget(self) -> None:
        """Give back programs, their geometry and packed weights: the next run makes them anew."""
        self.programs.clear()
        forget_geometry()
        self._weights = PackedWeights(self.kind_of, keep=self._keep)

    def run(self, operation: op.Operation) -> Rows:
        """Recorded, not computed; see `make`."""
        for observer in self.observers:
            observer.before(operation)
        return self.execute(operation)

    def execute(self, operation: op.Operation) -> Rows:
        return self._trace.record(operation, self)

    def make(self, rows: Rows) -> Array:
        """The matrix of a result: runs all that was recorded, and gives every result that is still held its matrix.

        Where that is cancelled or fails the trace stays: what is held then (keys and values of a context) is computed
        when the next result is asked for.
        """
        trace, self._trace = self._trace, Trace()
        try:
            return self._make(rows, trace)
        except BaseException:
            self._trace = trace
            raise

    def _make(self, rows: Rows, trace: Trace) -> Array:
        held = trace.alive()
        outputs = [value for value, _ in held]
        trace.forget_unused(outputs)
        strips = chosen(self.strips, len(trace.steps))
        key = strips, trace.key(outputs)
        program = self.programs.pop(key, None) or self._build(trace, outputs, strips)
        self.programs[key] = program
        while len(self.programs) > PROGRAMS_KEPT:
            self.programs.popitem(last=False)
        arrays = self._run(program, trace)
        if not all(np.isfinite(array).all() for array in arrays):
            self._run(self._build(trace, outputs, strips, plainly=True), trace, self._show)
        result: Array | None = None
        for (_, promised), array in zip(held, arrays, strict=True):
            object.__setattr__(promised, "data", array)
            result = array if promised is rows else result
        if result is None:
            raise RuntimeError("an activation was asked for after its trace had run without it")
        return result

    def _build(
        self, trace: Trace, outputs: list[Value], strips: StripPolicy | None, *, plainly: bool = False
    ) -> Program:
        builder = Builder(trace, outputs, self._weights, self.threads, FLIP * dispatch.choose().path.signed_bytes)
        fill(builder, outputs, strips, plainly=plainly)
        return builder.finish()

    def _run(
        self, program: Program, trace: Trace, watch: Callable[[Step, Value, Array], None] | None = None
    ) -> list[Array]:
        return program.run(
            trace, self.arena, threads=self.threads, cancel=self.cancel, after=self._check, watch=watch,
            profile=self.profile, stream=self.stream,
        )  # fmt: skip

    def _check(self, step: Step) -> None:
        """The observer that owns the cancel word raises."""
        if self.cancel[0]:
            for observer in self.observers:
                observer.before(step.operation)

    def _show(self, step: Step, value: Value, values: Array) -> None:
        for observer in self.observers:
            observer.after(step.operation, Rows(value.grid, value.channels, values))
