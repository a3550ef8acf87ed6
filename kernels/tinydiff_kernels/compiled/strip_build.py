"""Building a program of strips: the same lowerings, on operations whose activations are lines of others (`strip.py`).

What a strip makes lives in its pass's workspace, whose bytes all strips share. A value that is kept takes, line by
line, the place of one of the same shape that its pass reads for the last time: so many lines further up that what the
next strips still read is never written over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from tinydiff_kernels import operations as op
from tinydiff_kernels.compiled import forms
from tinydiff_kernels.compiled.build import Builder
from tinydiff_kernels.compiled.program import Buffer
from tinydiff_kernels.compiled.strip import Strip
from tinydiff_kernels.compiled.strip_lines import DEFERRED, operands, strips
from tinydiff_kernels.compiled.strip_schedule import Goal, Pass, Schedule
from tinydiff_kernels.compiled.trace import Step, Value
from tinydiff_kernels.norm import group
from tinydiff_kernels.ref.sixteen import scale_bytes

Lower = Callable[[Builder, Step], None]
Tables = tuple[Buffer, Buffer, Buffer]


class StripBuild:
    """Fills `builder` by a schedule. `plainly`: every operation writes its float32 rows, strip by strip, and shows
    them."""

    def __init__(
        self, builder: Builder, schedule: Schedule, lines: int, table: Mapping[type, Lower], *, plainly: bool = False
    ) -> None:
        self.b, self.schedule, self.lines, self.table, self.plainly = builder, schedule, lines, table, plainly
        self._tables: dict[int, Tables] = {}  # of owners whose statistics a pass took
        self._stats: dict[int, Buffer] = {}
        self._short: dict[int, tuple[Buffer, Buffer]] = {}  # values in 16 bits: integers, scales of pixels
        self._replaced: set[int] = set()  # values whose memory has another one now
        self.staged: set[int] = set()  # targets of this pass that are copied to their place at the end of a strip

    def run(self) -> None:
        b, schedule = self.b, self.schedule
        for step in schedule.steps:
            if isinstance(step.operation, DEFERRED):
                b.defer(step.operation, step.output)
        for number, item in enumerate(schedule.items):
            if isinstance(item, Pass):
                self._pass(item, number)
                continue
            step, b.step = schedule.steps[item], item
            self.table[type(step.operation)](b, step)
            forms.dense(b, step.output)
            if self.plainly:
                b.show(step.output)

    def _pass(self, p: Pass, number: int) -> None:
        b = self.b
        for index in p.cone:
            for owner in self._owners_of(index):
                b.step = index
                self._table(owner)
        grid, workspace = p.goals[0].target.grid, b.room(0)

        @cache  # a planner that knows the pass asks for none
        def made() -> list[Strip]:
            spans = strips(grid.height, self.lines)
            return [Strip(self, p, image, span) for image in range(grid.batch) for span in spans]

        self.staged = set()
        for goal in p.goals:
            if goal.owner is None:
                self._keep(goal.target, p, number, made)
            else:
                self._stats[goal.owner.number] = b.room(self._stats_bytes(goal))
        short = self.schedule.short & (self.schedule.read_by(p) | {goal.target.number for goal in p.goals})
        key = p, self.lines, frozenset(self.staged), frozenset(short)
        b.strips(key, workspace, self._outer(p), made)
        for goal in p.goals:
            if goal.owner is not None:
                b.step = self.schedule.maker[goal.target.number]
                stats = self._stats.pop(goal.owner.number)
                self._tables[goal.owner.number] = forms.fold(b, goal.owner, self._channels(goal.target), stats)

    def _keep(self, value: Value, p: Pass, number: int, made: Callable[[], list[Strip]]) -> None:
        """A place for a kept value: where the pass reads a value of the same shape for the last time, that one's."""
        b, schedule = self.b, self.schedule
        ending = [
            n for n in schedule.read_by(p) & schedule.replaceable - self._replaced if schedule.last_read[n] == number
        ]
        short = value.number in schedule.short
        same = [
            n
            for n in ending
            if _same_shape(schedule.steps[schedule.maker[n]].output, value) and (n in schedule.short) == short
        ]
        if value.number in schedule.replaceable and same:
            leads = {n: max(strip.span[0] - strip.spans[n][0] for strip in made() if n in strip.spans) for n in same}
            best = min(same, key=lambda n: (leads[n], n))
            self._replaced.add(best)
            lead = leads[best] * value.grid.width
            if short:
                integers, scales = self._short[best]
                moved = b.overlay(scales, lead * scale_bytes(value.channels))
                self._short[value.number] = b.overlay(integers, lead * 2 * value.channels), moved
            else:
                old = b.known(schedule.steps[schedule.maker[best]].output).dense
                assert old is not None
                b.assign(value, b.overlay(old, lead * value.row_bytes))
                if lead or not self._only_added(best, value, p):
                    self.staged.add(value.number)
        elif short:
            self._short[value.number] = b.room(value.nbytes // 2), b.room(value.grid.rows * scale_bytes(value.channels))
        if short:
            return
        if isinstance(schedule.step_of(value).operation, DEFERRED):
            b.known(value).dense = b.place(value)
        else:
            b.result(value)

    def _only_added(self, number: int, target: Value, p: Pass) -> bool:
        """Whether a pass reads a value only to add it, pixel by pixel, to its target."""
        for index in p.cone:
            step = self.schedule.steps[index]
            names = [name for name, v in operands(step) for s in self.schedule.sources(v) if s.number == number]
            if names and (names != ["residual"] or step.output is not target):
                return False
        return True

    def _outer(self, p: Pass) -> list[Buffer]:
        """What a pass reads and writes beyond its workspace."""
        b, schedule = self.b, self.schedule
        found = [self._stats[goal.owner.number] for goal in p.goals if goal.owner is not None]
        found += [buffer for index in p.cone for owner in self._owners_of(index) for buffer in self._table(owner)]
        values = [goal.target for goal in p.goals if not schedule.recomputed(goal.target)]
        values += [v for index in p.cone for _, v in operands(schedule.steps[index]) if not schedule.recomputed(v)]
        found += [buffer for value in values for buffer in self._short.get(value.number, ())]
        wide = [b.outside(value).dense for value in values if value.number not in self._short]
        return found + [rows for rows in wide if rows is not None]

    def place_of(self, value: Value) -> Buffer | None:
        """Where a value was kept."""
        if value.number in self._short:
            return self._short[value.number][0]
        known = self.b.find(value)
        return None if known is None else known.dense

    def short_of(self, value: Value, image: int, line: int) -> tuple[Buffer, Buffer] | None:
        """Integers and scales of a value in 16 bits, from a line of an image on."""
        if value.number not in self._short:
            return None
        integers, scales = self._short[value.number]
        pixel = (image * value.grid.height + line) * value.grid.width
        return integers.part(pixel * 2 * value.channels), scales.part(pixel * scale_bytes(value.channels))

    def _owners_of(self, index: int) -> list[Value]:
        """Values whose tables a step of a cone needs."""
        step = self.schedule.steps[index]
        o = step.operation
        if isinstance(o, op.GroupNorm):
            return [step.output]
        read: Any = o.x if isinstance(o, op.Conv) else None
        return [read] if read is not None and read.number in self.schedule.owners else []

    def _table(self, owner: Value) -> Tables:
        if owner.number not in self._tables:  # what it is of is kept: statistics of the whole
            self._tables[owner.number] = forms.tables(self.b, owner)
        return self._tables[owner.number]

    def tables_of(self, owner: Value, image: int) -> Tables | None:
        """Multipliers, offsets and record of one image."""
        if owner.number not in self._tables:
            return None
        multiply, add, records = self._tables[owner.number]
        row = 4 * forms.slots_of(self._channels(self.schedule.measured(owner)))
        return multiply.part(row * image), add.part(row * image), records.part(forms.RECORD_BYTES * image)

    def _channels(self, value: Value) -> list[int]:
        """Of the one or two matrices that a kernel reads as this value."""
        made = self.schedule.maker.get(value.number)
        o = None if made is None or not self.schedule.deferred(value) else self.schedule.steps[made].operation
        return [o.x.channels, o.y.channels] if isinstance(o, op.Concat) else [value.channels]

    def _stats_bytes(self, goal: Goal) -> int:
        grid = goal.target.grid
        return group.stats_bytes(grid.batch, grid.pixels, forms.slots_of(self._channels(goal.target)))

    def stats_of(self, goal: Goal, image: int, tile: int) -> Buffer:
        """Where the statistics of a tile go."""
        assert goal.owner is not None
        pixels, slots = goal.target.grid.pixels, forms.slots_of(self._channels(goal.target))
        skipped = image * group.stats_bytes(1, pixels, slots) + group.stats_bytes(1, tile * group.TILE_ROWS, slots)
        return self._stats[goal.owner.number].part(skipped)


def _same_shape(a: Value, b: Value) -> bool:
    return (a.grid, a.channels) == (b.grid, b.channels)
