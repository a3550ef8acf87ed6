"""One strip of a pass: every operation of the pass's cone on some lines.

Each is written anew: its operands are lines of kept values, or what the strip has made before, its padding only what is
left of it at the image's edges. All else (forms, kernels, epilogues) is as for a whole image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinydiff_kernels import operations as op
from tinydiff_kernels.compiled import forms
from tinydiff_kernels.compiled.lower_matmul import upsampled
from tinydiff_kernels.compiled.program import MOVED, Buffer
from tinydiff_kernels.compiled.strip_lines import DEFERRED, Span, aligned, needed, window
from tinydiff_kernels.compiled.strip_schedule import Goal, Pass
from tinydiff_kernels.compiled.trace import Step, Value, field_names
from tinydiff_kernels.elementwise import descriptor as e
from tinydiff_kernels.norm import group
from tinydiff_kernels.ref.sixteen import block_of
from tinydiff_kernels.rows import Grid

if TYPE_CHECKING:
    from tinydiff_kernels.compiled.strip_build import StripBuild


class Strip:
    """One strip of a pass: lines `span` of the goals that are kept, and the tiles of statistics that end in them."""

    def __init__(self, build: StripBuild, p: Pass, image: int, span: Span) -> None:
        self.build, self.b, self.schedule, self.image, self.cone = build, build.b, build.schedule, image, p.cone
        self.span, self.heights = span, dict[int, int]()
        self.last_image = image + 1 == p.goals[0].target.grid.batch
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
        for number, (first, _) in self.kept.items():
            value = self.schedule.steps[self.schedule.maker[number]].output
            b.step = self.schedule.maker[number]
            short = self.build.short_of(value, self.image, first)
            if short is not None:
                self._shorten(self._made[number], short)
            elif number in self.build.staged:
                self._copy_out(self._made[number], value)

    @property
    def signature(self) -> Any:
        """Equal for strips that differ in addresses only."""
        ends = self.image == 0, self.last_image
        spans = [(n, end - first, first == 0, end == self.heights[n]) for n, (first, end) in sorted(self.spans.items())]
        tiles = [(first * group.TILE_ROWS % goal.target.grid.width, end - first) for goal, (first, end) in self.tiles]
        return ends, tuple(spans), tuple(tiles)

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
        spans = dict[int, Span]()
        for number, span in self.kept.items():
            self._widen(spans, self.schedule.steps[self.schedule.maker[number]].output, span)
        for goal, (first, end) in self.tiles:
            grid, tile = goal.target.grid, group.TILE_ROWS
            if first < end:
                lines = first * tile // grid.width, min(-(-end * tile // grid.width), grid.height)
                self._widen(spans, goal.target, lines)
        for index in reversed(self.cone):
            step = self.schedule.steps[index]
            number = step.output.number
            if number in spans:
                spans[number] = aligned(step, spans[number])
                for _, value, lines in needed(step, spans[number]):
                    self._widen(spans, value, lines)
        return spans

    def _lower(self, step: Step, span: Span) -> Value:
        """An operation on lines; its result."""
        b, value, o = self.b, step.output, step.operation
        out = b.unnamed(Grid(1, span[1] - span[0], value.grid.width), value.channels)
        if value.number in self.kept and value.number not in self.build.staged | self.schedule.short:
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
        if value.number in self.schedule.short and value.number not in self._made:
            self._made[value.number] = self._widened(value, self.spans[value.number])
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

    def _copy_out(self, made: Value, value: Value) -> None:
        """Lines that take the place of others, once nothing reads those."""
        place = self.b.outside(value).dense
        assert place is not None
        self._elementwise(
            made,
            e.linear_fields(
                (made.grid.rows, made.channels), forms.dense(self.b, made), made.row_bytes,
                place.part(self._offset(value, self.span[0])), made.row_bytes,
            ),
        )  # fmt: skip

    def _shorten(self, made: Value, short: tuple[Buffer, Buffer]) -> None:
        shape, block = self._blocks(made)
        fields = e.shorten_fields(shape, forms.dense(self.b, made), 4 * block, short[0], 2 * block, short[1])
        self._elementwise(made, fields)

    def _widened(self, value: Value, span: Span) -> Value:
        """Lines of a value that lies in 16 bits, as float32."""
        short = self.build.short_of(value, self.image, span[0])
        assert short is not None
        made = self.b.temporary(Grid(1, span[1] - span[0], value.grid.width), value.channels)
        shape, block = self._blocks(made)
        rows = forms.dense(self.b, made)
        self._elementwise(made, e.widen_fields(shape, short[0], 2 * block, short[1], rows, 4 * block))
        return made

    def _blocks(self, value: Value) -> tuple[tuple[int, int], int]:
        """Its channels in blocks of one scale, as rows of a matrix: (shape, channels of a block)."""
        block = block_of(value.channels)
        return (value.grid.rows * value.channels // block, block), block

    def _elementwise(self, made: Value, fields: dict[int, Any]) -> None:
        self.b.launch("elementwise", e.WORDS, fields, MOVED * made.grid.rows * made.channels)

    def _widen(self, spans: dict[int, Span], value: Value, lines: Span) -> None:
        known, self.heights[value.number] = spans.get(value.number, lines), value.grid.height
        spans[value.number] = min(known[0], lines[0]), max(known[1], lines[1])
