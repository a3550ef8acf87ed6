"""Choosing what to keep: a ladder of policies from the whole image to the smallest arena.

A policy's arena and work are found by building its program without kernels, weights or memory: exact, and cheap,
because passes that two policies have in common are built once. The ladder is a greedy descent: of all values that live
when most memory is used, stop keeping the one that costs the least work for what it gives, or halve a strip's lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels import operations as op
from tinydiff_kernels.backend import Backend
from tinydiff_kernels.compiled.arena import Lifetime
from tinydiff_kernels.compiled.backend import fill
from tinydiff_kernels.compiled.build import Builder, Operand, Strip
from tinydiff_kernels.compiled.dry import ShapesOfWeights
from tinydiff_kernels.compiled.lower_matmul import QUANTISED
from tinydiff_kernels.compiled.program import Buffer, Launch
from tinydiff_kernels.compiled.strip_lines import DEFERRED, by_lines
from tinydiff_kernels.compiled.strips import KEEP, RECOMPUTE, SHORTEN, StripPlan, StripPolicy
from tinydiff_kernels.compiled.trace import Trace
from tinydiff_kernels.compiled.weights import KindOf
from tinydiff_kernels.matmul.geometry import forget_geometry
from tinydiff_kernels.rows import Array, Rows

Forward = Callable[[Backend], Rows]
MOST_LINES, FEWEST_LINES = 64, 8
EXACT_WORK = 0.3  # extra work beyond which 16 bits are taken instead
SMALL = 1 / 64  # of the whole image's arena: not worth a thought
FILLED = 64  # multiply-adds that take as long as packing one byte of a weight (measured: 20 to 250)
CROWDED = 0.9  # share of the largest use of memory from which on a moment's values are candidates
SHARPNESS = 16  # of the smooth maximum over moments: two equal peaks are lowered one after the other


class _Recorder(Backend):
    """Records operations."""

    name = "recorder"

    def __init__(self) -> None:
        super().__init__()
        self.trace = Trace()

    def execute(self, operation: op.Operation) -> Rows:
        return self.trace.record(operation, self)

    def make(self, rows: Rows) -> Array:
        raise RuntimeError("only shapes are known while strips are planned")


@dataclass(frozen=True, slots=True)
class _Cost:
    """Of a pass, whatever its buffers' addresses."""

    workspace: int
    work: int
    launches: int
    offsets: dict[Any, int]  # bytes of each table of rows


class _Sizing(Builder):
    """A builder that adds up what launches would need. `known`: passes that were built before."""

    def __init__(self, known: dict[Any, _Cost], *arguments: Any) -> None:
        super().__init__(*arguments)
        self.work, self.launches, self.offsets, self._passes = 0, 0, dict[Any, int](), known

    def launch(self, kernel: str, count: int, fields: Mapping[int, Operand], work: int) -> None:
        self.work, self.launches = self.work + work, self.launches + 1
        for operand in fields.values():
            if isinstance(operand, Buffer):
                self._use(operand)
            elif isinstance(operand, tuple):
                self._use(operand[0])
            elif isinstance(operand, np.ndarray) and operand.dtype == np.int64:
                self.offsets[_look_of(operand)] = operand.nbytes
        self.actions.append(_NOTHING)

    def fill(
        self, make: Callable[[NDArray[np.uint8]], None], into: Buffer, nbytes: int, sources: list[NDArray[Any]]
    ) -> None:
        self.work, self.launches = self.work + FILLED * nbytes, self.launches + 1
        self._use(into)
        self.actions.append(_NOTHING)

    def strips(self, key: Any, workspace: Buffer, outer: list[Buffer], strips: Callable[[], Sequence[Strip]]) -> None:
        start = len(self.actions)
        self.actions += [_NOTHING, _NOTHING]
        cost = self._passes.get(key)
        if cost is None:
            cost = self._passes[key] = self._measured(workspace, strips())
        workspace.life.nbytes = cost.workspace
        self.work, self.launches = self.work + cost.work, self.launches + cost.launches
        self.offsets |= cost.offsets
        self.span_launches([workspace, *outer], start)

    def _measured(self, workspace: Buffer, strips: Sequence[Strip]) -> _Cost:
        seen: dict[Any, tuple[int, int]] = {}
        before, offsets, work, launches = (self.work, self.launches), self.offsets, 0, 0
        self.offsets = {}
        for strip in strips:
            signature = strip.signature
            if signature not in seen:
                self.work, self.launches = 0, 0
                with self.within(workspace):
                    strip.run()
                seen[signature] = self.work, self.launches
            work, launches = work + seen[signature][0], launches + seen[signature][1]
        found, self.offsets, (self.work, self.launches) = self.offsets, offsets, before
        return _Cost(workspace.life.nbytes, work, launches, found)

    def lives(self) -> Iterator[tuple[Buffer, Lifetime]]:
        """Buffers of the arena, those inside of workspaces left out."""
        return ((buffer, buffer.life) for buffer in self._buffers if buffer.life.last >= 0)


def _look_of(offsets: NDArray[Any]) -> Any:
    """What tells tables of rows apart, whether or not they still exist."""
    size = offsets.size
    return size, *(int(offsets[at]) for at in (0, size // 2, size - 1) if size)


_NOTHING = Launch("", np.zeros(0, np.int64), [], [], 0, 0)


@dataclass(frozen=True, slots=True)
class _State:
    """A policy, what it costs, how crowded memory is, and which steps' values live when it is most crowded."""

    policy: StripPolicy | None
    arena: int
    nbytes: int
    work: int
    launches: int
    offsets: int
    crowded: float
    candidates: list[int]


class StripPlanner:
    """Plans of one network at one size. For `forward` see `strips.py`.

    `launch_bytes`: what a process keeps for each launch of a program. With it a plan's bytes are those of its arena,
    its launches and their offsets, without it (None) of the arena alone. `keep`: see `PackedWeights`.
    """

    def __init__(
        self, forward: Forward, kind_of: KindOf, *, threads: int, launch_bytes: int | None = None, keep: bool = True
    ) -> None:
        self.launch_bytes = launch_bytes
        recorder = _Recorder()
        self._results = forward(recorder)  # held, as a caller holds it
        self.trace, self.threads = recorder.trace, threads
        self.outputs = [value for value, _ in self.trace.alive()]
        self.trace.forget_unused(self.outputs)
        self.weights = ShapesOfWeights(kind_of, keep=keep)
        self._known: dict[Any, _Cost] = {}
        self._states: dict[StripPolicy | None, _State] = {}
        self.whole = self.state(None)
        self._ladder, self._descent = list[_State](), self._descend()

    def state(self, policy: StripPolicy | None) -> _State:
        if policy not in self._states:
            self._states[policy] = self._built(policy)
        return self._states[policy]

    def _built(self, policy: StripPolicy | None) -> _State:
        builder = _Sizing(self._known, self.trace, self.outputs, self.weights, self.threads, 0)
        places = fill(builder, self.outputs, policy)
        arena = builder.finish().arena_bytes
        lives = list(builder.lives())
        moments = np.zeros(max(life.last for _, life in lives) + 2)
        for _, life in lives:
            moments[life.first] += life.nbytes
            moments[life.last + 1] -= life.nbytes
        use = np.cumsum(moments)[:-1]
        most = use.max()
        crowded = np.flatnonzero(use >= CROWDED * most)
        found = []
        for index, step in enumerate(self.trace.steps):
            rows = places(step.output)
            if rows is not None and rows.place == "arena":
                first = np.searchsorted(crowded, rows.life.first)
                if first < len(crowded) and crowded[first] <= rows.life.last:
                    found.append(index)
        forget_geometry()  # a hundred policies have more tables of rows than any one
        smooth = float(most * np.mean((use / most) ** SHARPNESS) ** (1 / SHARPNESS))
        offsets, launches = sum(builder.offsets.values()), builder.launches
        nbytes = arena if self.launch_bytes is None else arena + offsets + launches * self.launch_bytes
        return _State(policy, arena, nbytes, builder.work, launches, offsets, smooth, found)

    def start(self) -> StripPolicy:
        modes = "".join(RECOMPUTE if isinstance(s.operation, DEFERRED) else KEEP for s in self.trace.steps)
        return StripPolicy(MOST_LINES, modes)

    def _moved(self, policy: StripPolicy, indices: Iterable[int], *, up: bool, rounding: bool) -> list[StripPolicy]:
        """Policies one step from this one: a value kept in other ways, or all values of its shape (one takes the
        other's place in memory only where both are kept alike), or strips of other heights. `rounding`: whether 16
        bits may be taken."""
        order = [RECOMPUTE, SHORTEN, KEEP] if rounding else [RECOMPUTE, KEEP]
        lines, modes = policy.lines, policy.modes
        alike: dict[Any, list[int]] = {}
        moves = []
        for i in filter(self._matters, indices):
            now, value = order.index(modes[i]), self.trace.steps[i].output
            alike.setdefault((value.grid, value.channels, now), []).append(i)
            others = order[now + 1 :] if up else order[:now]
            moves += [StripPolicy(lines, _with(modes, [i], mode)) for mode in others]
        for (_, _, now), members in alike.items():
            if len(members) > 1:
                others = order[now + 1 :] if up else order[:now]
                moves += [StripPolicy(lines, _with(modes, members, mode)) for mode in others if mode != RECOMPUTE]
        if lines > FEWEST_LINES and not up:
            moves.append(StripPolicy(lines // 2, modes))
        if lines < MOST_LINES and up:
            moves.append(StripPolicy(2 * lines, modes))
        return moves

    def _quantised(self) -> bool:
        """Whether a convolution in strips has quantised weights."""
        operations = (step.operation for step in self.trace.steps if by_lines(step))
        return any(isinstance(o, op.Conv) and self.weights.kind_of(o.weight) in QUANTISED for o in operations)

    def _matters(self, index: int) -> bool:
        """Whether there is a choice for a step's result, and it is large."""
        step = self.trace.steps[index]
        free = not isinstance(step.operation, DEFERRED) and by_lines(step)
        return free and step.output.nbytes >= SMALL * self.whole.arena

    def lower(self, state: _State, *, rounding: bool) -> _State | None:
        """The next rung: the least work for what it gives."""
        assert state.policy is not None
        moves = self._moved(state.policy, state.candidates, up=False, rounding=rounding)
        tried = [self.state(move) for move in moves]
        helpful = [s for s in tried if s.crowded < state.crowded * 0.999]
        return min(helpful, key=lambda s: (s.work - state.work) / (state.crowded - s.crowded), default=None)

    def raise_within(self, state: _State, budget: int) -> _State:
        """Keep again, or take taller strips, where the budget allows it: the least work first. With values in 16 bits
        only where there are some already."""
        rounding = state.policy is not None and not state.policy.exact
        while state.policy is not None:
            moves = self._moved(state.policy, range(len(self.trace.steps)), up=True, rounding=rounding)
            fitting = [s for s in map(self.state, moves) if s.nbytes <= budget and s.work < state.work]
            if not fitting:
                break
            state = min(fitting, key=lambda s: s.work)
        return state

    def plan(self, state: _State) -> StripPlan:
        outputs = sum(value.nbytes for value in self.outputs)
        return StripPlan(
            state.policy, state.arena, outputs, state.offsets, state.launches, state.work / self.whole.work - 1
        )

    def all_states(self) -> Iterator[_State]:
        """The whole ladder. What nobody asks for is not looked for: the lower rungs take most of the time."""
        yield from self._ladder
        for state in self._descent:
            self._ladder.append(state)
            yield state

    def _descend(self) -> Iterator[_State]:
        """From the whole image down, every state smaller than all before: first exact ones, as long as they are cheap,
        then from the start again with 16 bits allowed. Where layers are quantised all are exact: what falls on the
        other side of a rounding would be as large an error as quantising itself."""
        yield self.whole
        smallest, exact_only = self.whole.nbytes, self._quantised()
        for rounding in (False,) if exact_only else (False, True):
            dear = float("inf") if exact_only or rounding else (1 + EXACT_WORK) * self.whole.work
            state: _State | None = self.state(self.start())
            while state is not None and state.work <= dear:
                if state.nbytes < smallest:
                    smallest = state.nbytes
                    yield state
                state = self.lower(state, rounding=rounding)

    def within(self, budget: int) -> StripPlan:
        """The plan of little work that takes at most `budget` bytes; where none does the smallest. With values in 16
        bits only where no exact one fits that costs at most `EXACT_WORK` more work."""
        found = next((state for state in self.all_states() if state.nbytes <= budget), None)
        if found is None:
            found = min(self.all_states(), key=lambda s: s.nbytes)
        return self.plan(self.raise_within(found, max(budget, found.nbytes)))


def _with(modes: str, indices: list[int], mode: str) -> str:
    return "".join(mode if i in indices else old for i, old in enumerate(modes))


def ladder(forward: Forward, kind_of: KindOf, *, threads: int) -> list[StripPlan]:
    """Plans of falling arena, the whole image first, then exact ones, then with values in 16 bits."""
    planner = StripPlanner(forward, kind_of, threads=threads)
    return [planner.plan(planner.raise_within(state, state.nbytes)) for state in planner.all_states()]


def plan_strips(forward: Forward, kind_of: KindOf, *, budget: int, threads: int) -> StripPlan:
    """The plan of little work whose arena fits in `budget` bytes, or the smallest: see `StripPlanner.within`."""
    return StripPlanner(forward, kind_of, threads=threads).within(budget)


def plan_policy(forward: Forward, kind_of: KindOf, policy: StripPolicy | None, *, threads: int) -> StripPlan:
    """What a given policy (None: the whole image) costs."""
    planner = StripPlanner(forward, kind_of, threads=threads)
    return planner.plan(planner.state(policy))
