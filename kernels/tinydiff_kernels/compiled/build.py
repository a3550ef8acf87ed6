"""Building a program: launches in order, and the forms in which each activation exists.

An activation may be needed as float32 rows, as quantised rows, or as an image with a border, quantised or not. A form
is made when a consumer first asks for it, and then shared. Norms and concatenations are not computed on their own:
they are read in the form that is asked for, so that group norm, SiLU and quantising are one pass over memory, and a
concatenation that only norms and quantisers read is never written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.compiled.arena import Lifetime, place
from tinydiff_kernels.compiled.program import Buffer, Fill, Host, Launch, Link, Program
from tinydiff_kernels.compiled.trace import Step, Trace, Value
from tinydiff_kernels.compiled.weights import PackedWeights
from tinydiff_kernels.operations import Operation
from tinydiff_kernels.rows import Array, Grid

NEVER = 1 << 60
Operand = Any  # an int, an array (a constant), a Buffer, or (Buffer, bytes to add)


@dataclass(frozen=True, eq=False, slots=True)
class Quantised:
    """Bytes, `stride` from row to row, with a record for each row."""

    buffer: Buffer
    stride: int
    records: Buffer


@dataclass(frozen=True, eq=False, slots=True)
class Image:
    """Pixels with the border around them, `pixel` bytes from one to the next; records of images, where quantised."""

    buffer: Buffer
    grid: Grid
    pixel: int
    records: Buffer | None


@dataclass(eq=False, slots=True)
class Activation:
    """What is known of a value: where its float32 rows are, or the norm or concatenation that would make them."""

    value: Value
    dense: Buffer | None = None
    deferred: Any = None  # a GroupNorm, LayerNorm or Concat
    forms: dict[Any, Any] = field(default_factory=dict)


class Strip(Protocol):
    """A part of a pass that adds its own launches."""

    @property
    def signature(self) -> Any: ...

    def run(self) -> None: ...


class Builder:
    """Collects launches. `lower` maps kinds of operations to functions `(builder, step index)`."""

    def __init__(self, trace: Trace, outputs: list[Value], weights: PackedWeights, threads: int, flip: int) -> None:
        self.trace, self.weights, self.threads, self.flip = trace, weights, threads, flip
        self.actions: list[Launch | Host | Fill] = []
        self.step = 0  # whose launches are being added
        self._temporaries = 0
        self._outputs = outputs
        self._buffers: list[Buffer] = []
        self._inside: list[tuple[Buffer, list[Lifetime]]] = []  # workspaces and what lives in them
        self._shown: dict[int, tuple[Buffer, Value]] = {}
        self._known: dict[int, Activation] = {}
        self._outside = self._known
        self._makers = {step.output.number: step for step in trace.steps}
        for index, (value, _) in enumerate(trace.inputs):
            self._known[value.number] = Activation(value, Buffer("input", Lifetime(0, 0, 0), index))
        self._places = {v.number: Buffer("output", Lifetime(0, 0, 0), index) for index, v in enumerate(outputs)}

    # ---- memory ------------------------------------------------------------------------------------------

    def room(self, nbytes: int) -> Buffer:
        """Memory in the arena; it lives from the first launch that names it to the last."""
        buffer = Buffer("arena", Lifetime(nbytes, NEVER, -1))
        self._buffers.append(buffer)
        return buffer

    def place(self, value: Value) -> Buffer:
        """Where float32 rows go: to their assigned place, as results of the program have one, or into the arena."""
        return self._places.get(value.number) or self.room(value.nbytes)

    def assign(self, value: Value, place: Buffer) -> None:
        self._places[value.number] = place

    def result(self, value: Value) -> Buffer:
        """Where a step's float32 rows go."""
        known = self._known[value.number] = Activation(value, self.place(value))
        return known.dense  # type: ignore[return-value]

    def temporary(self, grid: Grid, channels: int) -> Value:
        """An activation that no step of the trace made."""
        value = self.unnamed(grid, channels)
        self.result(value)
        return value

    def unnamed(self, grid: Grid, channels: int) -> Value:
        """The same, not made yet."""
        self._temporaries += 1
        return Value(-self._temporaries, grid, channels)

    def point(self, value: Value, rows: Buffer) -> None:
        """An activation whose rows lie in another's."""
        self._known[value.number] = Activation(value, rows)

    def defer(self, operation: Operation, value: Value) -> None:
        """A norm or concatenation, to be made in the forms that are asked for."""
        self._known[value.number] = Activation(value, None, operation)

    def known(self, value: Value) -> Activation:
        return self._known[value.number]

    def find(self, value: Value) -> Activation | None:
        return self._known.get(value.number)

    def form(self, value: Value, key: Any, make: Callable[[], Any]) -> Any:
        """A form of an activation, made once."""
        forms = self.known(value).forms
        if key not in forms:
            forms[key] = make()
        return forms[key]

    def maker(self, value: Value) -> Step | None:
        """The step that makes a value; None where it comes from outside."""
        return self._makers.get(value.number)

    # ---- strips --------------------------------------------------------------------------------------------

    @contextmanager
    def within(self, workspace: Buffer) -> Iterator[None]:
        """What is made inside is known inside only and lives in `workspace`, which grows to hold it: it is placed
        apart, so that one workspace serves strip after strip."""
        buffers, self._known, self._buffers = self._buffers, dict[int, Activation](), list[Buffer]()
        try:
            yield
        finally:
            inside, self._known, self._buffers = self._buffers, self._outside, buffers
        lives, life = [buffer.life for buffer in inside if buffer.life.last >= 0], workspace.life
        life.nbytes = max(life.nbytes, place(lives))
        self._inside.append((workspace, lives))

    def outside(self, value: Value) -> Activation:
        """What is known of a value of the trace, also while a strip is built."""
        return self._outside[value.number]

    def strips(self, key: Any, workspace: Buffer, outer: list[Buffer], strips: Callable[[], Sequence[Strip]]) -> None:
        """Launches of all strips of a pass, which use `outer` and their workspace. Passes with equal keys, and within
        one pass strips with equal signatures, differ in addresses only."""
        start = len(self.actions)
        for strip in strips():
            with self.within(workspace):
                strip.run()
        self.span_launches([workspace, *outer], start)

    def span_launches(self, buffers: list[Buffer], start: int) -> None:
        """Buffers live through all launches since `start`."""
        for buffer in buffers:
            buffer.life.first = min(buffer.life.first, start)
            buffer.life.last = max(buffer.life.last, len(self.actions) - 1)

    def overlay(self, buffer: Buffer, lead: int) -> Buffer:
        """The same memory from `lead` bytes earlier on."""
        life, skip = buffer.life, buffer.skip - lead
        grown = max(0, -skip - life.lead)
        life.lead, life.nbytes = life.lead + grown, life.nbytes + grown
        return buffer.part(-lead)

    # ---- actions -----------------------------------------------------------------------------------------

    def launch(self, kernel: str, count: int, fields: Mapping[int, Operand], work: int) -> None:
        """A kernel call: `fields` at their byte offsets in `count` words. `work`: multiply-adds or numbers moved."""
        words, links, constants = np.zeros(count, np.int64), list[Link](), list[Array]()
        for offset, operand in fields.items():
            if isinstance(operand, np.ndarray):
                constants.append(operand)
                words[offset // 8] = operand.ctypes.data
            elif isinstance(operand, int):
                words[offset // 8] = operand
            else:
                buffer, add = operand if isinstance(operand, tuple) else (operand, 0)
                links.append(Link(offset // 8, buffer, add))
                self._use(buffer)
        self.actions.append(Launch(kernel, words, links, constants, self.step, work))

    def host(
        self, run: Callable[[Any, list[Array], Array], None], inputs: list[Value], output: Value, into: Buffer
    ) -> None:
        """A step of NumPy, which moves numbers and computes none."""
        given = [(self.known(value).dense, value) for value in inputs]
        sources = [(buffer, value) for buffer, value in given if buffer is not None]
        for buffer in (*(b for b, _ in sources), into):
            self._use(buffer)
        self.actions.append(Host(run, self.step, sources, (into, output)))

    def fill(
        self, make: Callable[[NDArray[np.uint8]], None], into: Buffer, nbytes: int, sources: list[NDArray[Any]]
    ) -> None:
        """Bytes of the arena that NumPy writes, from `sources`."""
        self._use(into)
        self.actions.append(Fill(make, into, nbytes, self.step, sources))

    def _use(self, buffer: Buffer) -> None:
        now, life = len(self.actions), buffer.life
        life.first, life.last = min(life.first, now), max(life.last, now)

    def show(self, value: Value) -> None:
        """The value's float32 rows are complete now."""
        rows = self.known(value).dense
        assert rows is not None
        self._shown[len(self.actions) - 1] = rows, value

    def finish(self) -> Program:
        total = place([buffer.life for buffer in self._buffers if buffer.life.last >= 0])
        for buffer in self._buffers:
            buffer.life.offset += buffer.life.lead
        for workspace, lives in self._inside:
            for life in lives:
                life.offset += workspace.life.offset
        return Program(self.actions, self._outputs, total, self._shown, self.trace.owners())
