"""From a policy to passes: what each pass over the image's strips computes, and in which order.

A goal is a value to be kept, or the statistics of a value that is not. Its *cone* are the recomputed operations between
it and kept values. A pass reaches one goal, and with it others whose cones share work with its own: a resnet's
convolution and its shortcut read the same input, which is then recomputed once for both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from tinydiff_kernels import operations as op
from tinydiff_kernels.compiled.strip_lines import DEFERRED, by_lines, operands
from tinydiff_kernels.compiled.strips import KEEP, SHORTEN, StripPolicy
from tinydiff_kernels.compiled.trace import Step, Trace, Value


@dataclass(frozen=True, slots=True)
class Goal:
    """`target` is to be kept; or, where `owner` is a value, statistics of `target` are for the norm (or the
    quantised form) `owner`."""

    target: Value
    owner: Value | None = None


@dataclass(frozen=True, slots=True)
class Pass:
    """Goals reached together; indices of the recomputed steps, the goals' own among them, in order."""

    goals: tuple[Goal, ...]
    cone: tuple[int, ...]


class Schedule:
    """`items`: indices of steps computed whole, and passes. `kept`: numbers of values in memory, `short` those in 16
    bits. `owners`: values of which a table of statistics is needed: results of group norms, and inputs of quantised
    convolutions that no norm precedes."""

    def __init__(
        self, trace: Trace, outputs: list[Value], policy: StripPolicy, quantised: Callable[[Any], bool]
    ) -> None:
        self.steps = trace.steps
        self.maker = {step.output.number: index for index, step in enumerate(trace.steps)}
        self.local = [by_lines(step) for step in trace.steps]
        wide = self._wide(outputs)
        self.short = self._marked(policy.modes, SHORTEN) - wide
        self.kept = wide | self._marked(policy.modes, KEEP) | self.short
        self.owners = self._owners(quantised)
        self.items: list[int | Pass] = []
        self.replaceable = {n for n in self.kept if n in self.maker} - {value.number for value in outputs}
        self._done = {value.number for value, _ in trace.inputs}
        self._order()
        self.last_read = self._last_reads()

    def deferred(self, value: Value) -> bool:
        """Made by its readers."""
        index = self.maker.get(value.number)
        return index is not None and isinstance(self.steps[index].operation, DEFERRED) and value.number not in self.kept

    def recomputed(self, value: Value) -> bool:
        """Neither kept nor an input of the program."""
        return value.number in self.maker and value.number not in self.kept

    def sources(self, value: Value) -> list[Value]:
        """What lies in memory when a value is read: itself, or what deferred operations read, down to such values."""
        if not self.deferred(value):
            return [value]
        return [s for _, v in operands(self.steps[self.maker[value.number]]) for s in self.sources(v)]

    def measured(self, owner: Value) -> Value:
        """The value whose statistics make an owner's table: a norm's input, or the owner itself."""
        made = self.maker.get(owner.number)
        norm: Any = None if made is None else self.steps[made].operation
        return cast("Value", norm.x) if isinstance(norm, op.GroupNorm) else owner

    def _wide(self, outputs: list[Value]) -> set[int]:
        """What must lie in memory as float32: results, and whatever is computed or read whole."""
        wide = self.kept = {value.number for value in outputs}
        for step, local in zip(self.steps, self.local, strict=True):
            if not local and not isinstance(step.operation, DEFERRED):
                wide.add(step.output.number)
            for _, value in operands(step):
                made = self.maker.get(value.number)
                if not local:
                    wide.update(source.number for source in self.sources(value))
                elif made is not None and not self.local[made]:
                    wide.add(value.number)
        return wide

    def _marked(self, modes: str, letter: str) -> set[int]:
        return {
            step.output.number
            for step, mode in zip(self.steps, modes, strict=True)
            if mode == letter and not isinstance(step.operation, DEFERRED)
        }

    def _owners(self, quantised: Callable[[Any], bool]) -> dict[int, Value]:
        found = {}
        for step, local in zip(self.steps, self.local, strict=True):
            o: Any = step.operation
            if not local:
                continue
            if isinstance(o, op.GroupNorm):
                found[step.output.number] = step.output
            elif isinstance(o, op.Conv) and quantised(o.weight):
                read: Any = o.x
                found[read.number] = read
        return found

    def _goals(self) -> list[Goal | int]:
        """In the order of what they are of, so that those before are all that one needs."""
        by_source: dict[int, list[Goal]] = {}
        for owner in self.owners.values():
            target = self.measured(owner)
            if any(self.recomputed(source) or source.number in self.short for source in self.sources(target)):
                by_source.setdefault(self.maker[target.number], []).append(Goal(target, owner))
        goals: list[Goal | int] = []
        for index, step in enumerate(self.steps):
            if step.output.number in self.kept:
                goals.append(Goal(step.output) if self.local[index] else index)
            goals += by_source.get(index, [])
        return goals

    def _cone(self, goal: Goal) -> tuple[set[int], set[int]]:
        """(its recomputed steps, what must be done before: numbers of kept values, and ~numbers of owners)."""
        cone: set[int] = set()
        before: set[int] = set()
        waiting = [self.maker[goal.target.number]]
        if goal.owner is not None and goal.target.number in self.kept:  # in 16 bits: only to be widened
            return cone, {goal.target.number}
        while waiting:
            index = waiting.pop()
            if index in cone:
                continue
            cone.add(index)
            step = self.steps[index]
            if step.output.number in self.owners and isinstance(step.operation, op.GroupNorm):
                before.add(~step.output.number)
            for name, value in operands(step):
                if name == "x" and isinstance(step.operation, op.Conv) and value.number in self.owners:
                    before.add(~value.number)
                if self.recomputed(value):
                    waiting.append(self.maker[value.number])
                else:
                    before.add(value.number)
        return cone, before

    def _order(self) -> None:
        goals = self._goals()
        told = {id(goal): self._cone(goal) for goal in goals if isinstance(goal, Goal)}
        pending = {~goal.owner.number for goal in goals if isinstance(goal, Goal) and goal.owner is not None}
        done = self._done
        while goals:
            goal = goals.pop(0)
            if isinstance(goal, int):
                self.items.append(goal)
                done.add(self.steps[goal].output.number)
                continue
            reached, cone = [goal], set(told[id(goal)][0])
            for other in list(goals):
                if isinstance(other, int) or other.target.grid.height != goal.target.grid.height:
                    continue
                theirs, before = told[id(other)]
                ready = all(n in done or (n < 0 and n not in pending) for n in before)
                if ready and self._share_work(cone & theirs):
                    reached.append(other)
                    cone |= theirs
                    goals.remove(other)
            self.items.append(Pass(tuple(reached), tuple(sorted(cone))))
            for g in reached:
                if g.owner is None:
                    done.add(g.target.number)
                else:
                    pending.discard(~g.owner.number)

    def read_by(self, item: int | Pass) -> set[int]:
        """Numbers of the values in memory that an item reads."""
        cone = (item,) if isinstance(item, int) else item.cone
        read = [source for index in cone for _, value in operands(self.steps[index]) for source in self.sources(value)]
        if isinstance(item, Pass):
            read += [goal.target for goal in item.goals if goal.owner is not None]
        return {value.number for value in read}

    def _last_reads(self) -> dict[int, int]:
        """Value -> index of the last item that reads it."""
        return {number: index for index, item in enumerate(self.items) for number in self.read_by(item)}

    def _share_work(self, steps: set[int]) -> bool:
        return any(not isinstance(self.steps[index].operation, DEFERRED) for index in steps)

    def step_of(self, value: Value) -> Step:
        return self.steps[self.maker[value.number]]
