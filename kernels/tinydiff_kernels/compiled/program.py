"""A compiled trace: launches of kernels whose descriptors need only addresses, and their run.

What a descriptor points to lies in one of five places: the arena; a constant of the program (weights, offsets); an
input of the trace; a result that outlives the run; an array of the operation itself (lengths of prompts). Constants
are filled in when the program is built, the others at the start of a run, and the arena's only when it has moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels import checked, dispatch, pool
from tinydiff_kernels.compiled.arena import SLACK, Arena, Lifetime
from tinydiff_kernels.compiled.trace import Step, Trace, Value
from tinydiff_kernels.rows import Array

Words = NDArray[np.int64]
Place = Literal["arena", "input", "output", "step"]
LONG_WORK = 4_000_000_000  # multiply-adds from which on a signal must not wait for a kernel's end
LITTLE_WORK = 4_000_000  # multiply-adds below which sharing a launch costs what it gains, even with threads awake
MOVED = 32  # multiply-adds that take as long as moving one number


@dataclass(eq=False, slots=True)
class Buffer:
    """Memory that a launch uses. `index`: of the input, output or step; `attribute`: of the step's operation; `skip`:
    bytes of it that come before."""

    place: Place
    life: Lifetime
    index: int = -1
    attribute: str = ""
    skip: int = 0

    def part(self, skip: int) -> Buffer:
        """The same memory, so many bytes further on."""
        return Buffer(self.place, self.life, self.index, self.attribute, self.skip + skip)


@dataclass(eq=False, slots=True)
class Link:
    """Word `word` of a descriptor is the address of `buffer` plus `add`."""

    word: int
    buffer: Buffer
    add: int


@dataclass(eq=False, slots=True)
class Launch:
    """One call of a kernel. `step` is the operation it belongs to."""

    kernel: str
    words: Words
    links: list[Link]
    constants: list[NDArray[Any]]  # arrays that words point to
    step: int
    work: int  # multiply-adds, or MOVED for each number where there are none: decides about threads
    address: int = field(init=False)  # of the words

    def __post_init__(self) -> None:
        self.address = int(self.words.ctypes.data)


@dataclass(eq=False, slots=True)
class Host:
    """A step done by NumPy: gathering of rows, which computes nothing. `run(operation, inputs, output)`."""

    run: Callable[[Any, list[Array], Array], None]
    step: int
    inputs: list[tuple[Buffer, Value]]
    output: tuple[Buffer, Value]


@dataclass(eq=False, slots=True)
class Fill:
    """Bytes that NumPy writes into the arena before a launch: a weight that is packed when it is used."""

    make: Callable[[NDArray[np.uint8]], None]
    into: Buffer
    nbytes: int
    step: int
    sources: list[NDArray[Any]]  # what it reads


class Stream(Protocol):
    """Told of a program's actions, so that weights that lie in files can be brought in ahead and let go behind."""

    def begin(self, program: Program) -> None: ...

    def before(self, index: int) -> None: ...

    def after(self, index: int) -> None: ...

    def end(self) -> None:
        """Also after an action that raised."""


@dataclass(eq=False, slots=True)
class Program:
    """Launches in order. `shown`: after which of them rows are complete, where steps write all their rows."""

    actions: list[Launch | Host | Fill]
    outputs: list[Value]
    arena_bytes: int
    shown: dict[int, tuple[Buffer, Value]]
    owners: list[Any]  # weights and adapters: its key names them by identity
    bound_to: int = -1  # arena address in the descriptors
    seconds: list[float] = field(default_factory=list)  # of each action, when profiled
    moving: list[tuple[Words, Link]] = field(init=False)  # links to what lies elsewhere in every run, with their words

    def __post_init__(self) -> None:
        self.moving = [(words, link) for words, link in self._links() if link.buffer.place != "arena"]

    def _links(self) -> Iterator[tuple[Words, Link]]:
        return ((a.words, link) for a in self.actions if isinstance(a, Launch) for link in a.links)

    def run(
        self,
        trace: Trace,
        arena: Arena,
        *,
        threads: int,
        cancel: NDArray[np.int32],
        after: Callable[[Step], None],
        watch: Callable[[Step, Value, Array], None] | None = None,
        profile: bool = False,
        stream: Stream | None = None,
    ) -> list[Array]:
        """Compute; the outputs as new arrays. `after(step)` is called after every action, `watch(step, value, rows)`
        when rows are complete: a step's whole result, or a strip of it."""
        arena.reserve(self.arena_bytes)
        outputs = [np.empty((v.grid.rows, v.channels), np.float32) for v in self.outputs]
        found = _Addresses(trace, arena, outputs)
        for words, link in self.moving if self.bound_to == arena.address else self._links():
            words[link.word] = found.address(link.buffer) + link.add
        self.bound_to = arena.address
        alone = None if checked.active() else pool.Alone(cancel)
        self.seconds.clear()
        if stream is not None:
            stream.begin(self)
        try:
            for index, action in enumerate(self.actions):
                started = time.perf_counter() if profile else 0.0
                if stream is not None:
                    stream.before(index)
                if isinstance(action, Launch):
                    self._launch(action, found, threads, cancel, alone)
                else:
                    self._act(action, trace, found)
                if stream is not None:
                    stream.after(index)
                if profile:
                    self.seconds.append(time.perf_counter() - started)
                step = trace.steps[action.step]
                after(step)
                if watch is not None and index in self.shown:
                    buffer, value = self.shown[index]
                    watch(step, value, found.matrix(buffer, value))
        finally:
            if stream is not None:
                stream.end()
        return outputs

    def _act(self, action: Host | Fill, trace: Trace, found: _Addresses) -> None:
        if isinstance(action, Fill):
            action.make(found.memory(action.into)[0][: action.nbytes])
            return
        arrays = [found.matrix(buffer, value) for buffer, value in action.inputs]
        action.run(trace.steps[action.step].operation, arrays, found.matrix(*action.output))

    def _launch(
        self, action: Launch, found: _Addresses, threads: int, cancel: NDArray[np.int32], alone: pool.Alone | None
    ) -> None:
        """`alone`: how to run on this thread only; None where kernels are checked."""
        count, long = 1 if action.work < LITTLE_WORK else threads, action.work > LONG_WORK
        if alone is None:
            self._launch_checked(action, found, count, cancel)
        elif count == 1 and not long:
            alone.run(dispatch.kernel(action.kernel), action.address)
        else:
            pool.run(dispatch.kernel(action.kernel), action.words, threads=count, cancel=cancel, long=long)

    def _launch_checked(self, action: Launch, found: _Addresses, threads: int, cancel: NDArray[np.int32]) -> None:
        """Of the arena the kernel may touch only what it was given, and read a little behind it."""
        places = [found.memory(link.buffer) for link in action.links]
        read = (*action.constants, *found.arrays, *(slack for _, slack in places))
        with checked.buffers(*read, writable=(*(own for own, _ in places), *found.outputs)):
            pool.run(dispatch.kernel(action.kernel), action.words, threads=threads, cancel=cancel)


class _Addresses:
    """Where things lie in one run."""

    def __init__(self, trace: Trace, arena: Arena, outputs: Sequence[Array]) -> None:
        self.trace, self.arena, self.outputs = trace, arena, list(outputs)
        self.arrays: list[NDArray[Any]] = [array for _, array in trace.inputs]  # kept alive for the run

    def address(self, buffer: Buffer) -> int:
        if buffer.place == "arena":
            return self.arena.address + buffer.life.offset + buffer.skip
        if buffer.place == "step":
            given = getattr(self.trace.steps[buffer.index].operation, buffer.attribute)
            array = np.ascontiguousarray(given, np.int64 if given.dtype.kind in "iu" else np.float32)
            self.arrays.append(array)
            return int(array.ctypes.data)
        arrays = self.arrays if buffer.place == "input" else self.outputs
        return int(arrays[buffer.index].ctypes.data) + buffer.skip

    def memory(self, buffer: Buffer) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(bytes of a buffer of the arena, the same with what may be read behind them); of others none."""
        if buffer.place != "arena":
            return self.arena.memory[:0], self.arena.memory[:0]
        start, nbytes = buffer.life.offset - buffer.life.lead + self.arena.start, buffer.life.nbytes
        return self.arena.memory[start : start + nbytes], self.arena.memory[start : start + nbytes + SLACK]

    def matrix(self, buffer: Buffer, value: Value) -> Array:
        if buffer.place == "arena":
            return self.arena.floats(buffer.life.offset + buffer.skip, value.grid.rows, value.channels)
        first = buffer.skip // value.row_bytes
        return (self.arrays if buffer.place == "input" else self.outputs)[buffer.index][first : first + value.grid.rows]
