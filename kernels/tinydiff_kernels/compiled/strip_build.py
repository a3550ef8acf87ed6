"""Building a program of strips: the same lowerings, on operations whose activations are lines of others.

For every strip of a pass each operation of its cone is written anew: its operands are lines of kept values, or what the
strip has made before, its padding only what is left of it at the image's edges. All else (forms, kernels, epilogues) is
as for a whole image. What a strip makes lives in the pass's workspace, whose bytes all its strips share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tinydiff_kernels import operations as op
from tinydiff_kernels.compiled import forms
from tinydiff_kernels.compiled.build import Builder
from tinydiff_kernels.compiled.lower_matmul import upsampled
from tinydiff_kernels.compiled.program import Buffer
from tinydiff_kernels.compiled.strip_lines import DEFERRED, Span, aligned, needed, strips, window
from tinydiff_kernels.compiled.strip_schedule import Goal, Pass, Schedule
from tinydiff_kernels.compiled.trace import Step, Value, field_names
from tinydiff_kernels.norm import group
from tinydiff_kernels.rows import Grid

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

    def run(self) -> None:
        b, schedule = self.b, self.schedule
        for step in schedule.steps:
            if isinstance(step.operation, DEFERRED):
                b.defer(step.operation, step.output)
        for item in schedule.items:
            if isinstance(item, Pass):
                self._pass(item)
                continue
            step, b.step = schedule.steps[item], item
            self.table[type(step.operation)](b, step)
            forms.dense(b, step.output)
            if self.plainly:
                b.show(step.output)

    def _pass(self, p: Pass) -> None:
        b = self.b
        for index in p.cone:
            for owner in self._owners_of(index):
                b.step = index
                self._table(owner)
        for goal in p.goals:
            if goal.owner is None:
                self._keep(goal.target)
            else:
                self._stats[goal.owner.number] = b.room(self._stats_bytes(goal))
        grid, workspace = p.goals[0].target.grid, b.room(0)
        for image in range(grid.batch):
            for span in strips(grid.height, self.lines):
                with b.within(workspace):
                    _Strip(self, p, image, span).run()
        for goal in p.goals:
            if goal.owner is not None:
                b.step = self.schedule.maker[goal.target.number]
                stats = self._stats.pop(goal.owner.number)
                self._tables[goal.owner.number] = forms.fold(b, goal.owner, self._channels(goal.target), stats)

    def _keep(self, value: Value) -> None:
        if isinstance(self.schedule.step_of(value).operation, DEFERRED):
            self.b.known(value).dense = self.b.place(value)
        else:
            self.b.result(value)

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


class _Strip:
    """One strip of a pass: lines `span` of the goals that are kept, and the tiles of statistics that end in them."""

    def __init__(self, build: StripBuild, p: Pass, image: int, span: Span) -> None:
        self.build, self.b, self.schedule, self.image, self.cone = build, build.b, build.schedule, image, p.cone
        self.kept = {goal.target.number: span for goal in p.goals if goal.owner is None}
        self.tiles = [(goal, self._tiles(goal, span)) for goal in p.goals if goal.owner is not None]
        self.spans = self._spans()
        self._made: dict[int, Value] = {}  # all lines that the strip has of a value
        self._parts: dict[tuple[int, Span], Value] = {}

    def run(self) -> None:
        b, plainly = self.b, self.build.plainly
        for index in self.cone:
            step = self.schedule.steps[index]
            value = step.output
            if value.number not in self.spans:
                continue
            b.step = index
            if self.schedule.deferred(value):
                if plainly:
                    self._show(self.lines(value, self.spans[value.number]))
                continue
            made = self._lower(step, self.spans[value.number])
            self._made[value.number] = made
            if plainly:
                self._show(made)
        for goal, tiles in self.tiles:
            if tiles[0] < tiles[1]:
                b.step = self.schedule.maker[goal.target.number]
                self._statistics(goal, tiles)

    def _show(self, value: Value) -> None:
        forms.dense(self.b, value)
        self.b.show(value)

    def _tiles(self, goal: Goal, span: Span) -> Span:
        """Tiles of 128 pixels that end within the strip's lines; at the end of the image the last one too."""
        grid = goal.target.grid
        first, end = (line * grid.width // group.TILE_ROWS for line in span)
        return first, end if span[1] < grid.height else -(-grid.pixels // group.TILE_ROWS)

    def _spans(self) -> dict[int, Span]:
        """Lines of every value that the strip needs: from the goals backwards, all that consumers ask for."""
        spans = dict(self.kept)
        for goal, (first, end) in self.tiles:
            grid, tile = goal.target.grid, group.TILE_ROWS
            if first < end:
                lines = first * tile // grid.width, min(-(-end * tile // grid.width), grid.height)
                _widen(spans, goal.target, lines)
        for index in reversed(self.cone):
            step = self.schedule.steps[index]
            number = step.output.number
            if number in spans:
                spans[number] = aligned(step, spans[number])
                for _, value, lines in needed(step, spans[number]):
                    _widen(spans, value, lines)
        return spans

    def _lower(self, step: Step, span: Span) -> Value:
        """An operation on lines; its result."""
        b, value, o = self.b, step.output, step.operation
        out = b.unnamed(Grid(1, span[1] - span[0], value.grid.width), value.channels)
        if value.number in self.kept:
            place = b.outside(value).dense
            assert place is not None
            b.assign(out, place.part(self._offset(value, span[0])))
        if isinstance(o, DEFERRED):  # a norm whose result is wanted itself
            b.defer(self._rewritten(step, span), out)
            self._give_table(value, out)
            forms.dense(b, out)
            return out
        small = Step(self._rewritten(step, span), out, step.key)
        lower = upsampled if isinstance(o, op.Conv) and o.upsample_to is not None else self.build.table[type(o)]
        lower(b, small)
        return out

    def _rewritten(self, step: Step, span: Span) -> Any:
        """The operation with lines in place of whole activations."""
        o: Any = step.operation
        kind: Any = type(o)
        copy: Any = object.__new__(kind)
        for name in field_names(kind):
            object.__setattr__(copy, name, getattr(o, name))
        for name, value, lines in needed(step, span):
            object.__setattr__(copy, name, self.lines(value, lines))
        if kind is op.Conv:
            object.__setattr__(copy, "padding", window(o, span)[1])
        return copy

    def lines(self, value: Value, span: Span) -> Value:
        """Some lines of a value, as a value of the strip."""
        key = value.number, span
        if key not in self._parts:
            self._parts[key] = self._lines(value, span)
        return self._parts[key]

    def _lines(self, value: Value, span: Span) -> Value:
        b, grid, schedule = self.b, value.grid, self.schedule
        made = self._made.get(value.number)
        if made is not None and span == self.spans[value.number]:
            self._give_table(value, made)
            return made
        out = b.unnamed(Grid(1, span[1] - span[0], grid.width), value.channels)
        if schedule.deferred(value):
            b.defer(self._rewritten(schedule.step_of(value), span), out)
        elif made is not None:
            skipped = (span[0] - self.spans[value.number][0]) * grid.width * value.row_bytes
            b.point(out, forms.dense(b, made).part(skipped))
        else:
            whole = b.outside(value).dense
            assert whole is not None
            b.point(out, whole.part(self._offset(value, span[0])))
        self._give_table(value, out)
        return out

    def _offset(self, value: Value, line: int) -> int:
        """Bytes before a line of this strip's image."""
        return (self.image * value.grid.height + line) * value.grid.width * value.row_bytes

    def _give_table(self, value: Value, out: Value) -> None:
        """Norms use the statistics of the whole image, and so do the ranges of quantised images."""
        tables = self.build.tables_of(value, self.image)
        if tables is not None:
            self.b.form(out, "tables", lambda: tables)

    def _statistics(self, goal: Goal, tiles: Span) -> None:
        """Of whole tiles of the goal, wherever in its lines they begin."""
        target, tile = goal.target, group.TILE_ROWS
        span = self.spans[target.number]
        first, end = tiles[0] * tile, min(tiles[1] * tile, target.grid.pixels)
        skipped = first - span[0] * target.grid.width
        source = self.lines(target, span)
        forms.stats(self.b, source, self.build.stats_of(goal, self.image, tiles[0]), skipped, end - first)


def _widen(spans: dict[int, Span], value: Value, lines: Span) -> None:
    known = spans.get(value.number, lines)
    spans[value.number] = min(known[0], lines[0]), max(known[1], lines[1])
