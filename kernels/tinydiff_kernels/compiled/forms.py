"""The forms of an activation, made when a consumer asks for them.

dense            float32 rows
quantised_rows   bytes with a record for each row: inputs of quantised linear layers
image            pixels with a border, float32 or bytes with a record for each image: inputs of convolutions
"""

from __future__ import annotations

from typing import Any

from tinydiff_kernels import operations as op
from tinydiff_kernels.compiled.build import Builder, Image, Quantised
from tinydiff_kernels.compiled.program import MOVED, Buffer
from tinydiff_kernels.compiled.trace import Value
from tinydiff_kernels.matmul.packing import CHANNEL_MULTIPLE
from tinydiff_kernels.norm import group, row
from tinydiff_kernels.rows import Array, Grid
from tinydiff_kernels.sources import Source, slots

RECORD_BYTES = 8
NO_BORDER = (0, 0, 0, 0)
Part = tuple[Buffer, int]  # float32 rows and their channels


def dense(b: Builder, value: Value) -> Buffer:
    """Float32 rows."""
    known = b.known(value)
    if known.dense is None:
        buffer = b.place(value)
        if isinstance(known.deferred, op.LayerNorm):
            _rows(b, value, buffer, value.row_bytes, None)
        else:  # without a norm norm_apply copies: a concatenation from its two sources
            _apply(b, value, buffer, NO_BORDER, "zero", None)
        known.dense = buffer
    return known.dense


def quantised_rows(b: Builder, value: Value) -> Quantised:
    """Bytes of each row, channels padded to a multiple of 8, and their records."""

    def make() -> Quantised:
        stride = _padded(value.channels)
        buffer, records = b.room(value.grid.rows * stride), b.room(value.grid.rows * RECORD_BYTES)
        _rows(b, value, buffer, stride, records)
        return Quantised(buffer, stride, records)

    made: Quantised = b.form(value, "quantised rows", make)
    return made


def image(b: Builder, value: Value, padding: op.Padding, border: op.Border, *, quantised: bool) -> Image:
    """Pixels with `padding` (top, bottom, left, right) around each image: zero, the zero point, or wrapped."""
    top, bottom, left, right = padding
    grid = Grid(value.grid.batch, value.grid.height + top + bottom, value.grid.width + left + right)

    def make() -> Image:
        if not quantised and padding == NO_BORDER:
            return Image(dense(b, value), grid, value.row_bytes, None)
        pixel = _padded(value.channels) if quantised else value.row_bytes
        buffer, records = b.room(grid.rows * pixel), None
        if quantised:
            records = tables(b, value)[2]
        _apply(b, value, buffer, padding, border, records)
        return Image(buffer, grid, pixel, records)

    made: Image = b.form(value, (padding, border, quantised), make)
    return made


def enlarged(b: Builder, value: Value, size: tuple[int, int]) -> Value:
    """Nearest neighbour to any size, where the four classes of nearest-2x do not apply."""
    larger = b.temporary(Grid(value.grid.batch, *size), value.channels)
    dense(b, value)
    b.host(_enlarge, [value], larger, dense(b, larger))
    return larger


def _enlarge(operation: Any, inputs: list[Array], output: Array) -> None:
    (batch, height, width), (tall, wide) = operation.x.grid, operation.upsample_to
    pixels = inputs[0].reshape(batch, height, width, -1)
    ys, xs = ([i * old // new for i in range(new)] for old, new in ((height, tall), (width, wide)))
    output.reshape(batch, tall, wide, -1)[:] = pixels[:, ys][:, :, xs]


def _padded(channels: int) -> int:
    return -(-channels // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


def _parts(b: Builder, value: Value) -> list[Part]:
    """The one or two matrices whose columns side by side are this activation."""
    known = b.known(value)
    if known.dense is None and isinstance(known.deferred, op.Concat):
        halves: list[Any] = [known.deferred.x, known.deferred.y]
        return [(dense(b, half), half.channels) for half in halves]
    return [(dense(b, value), value.channels)]


def _sources(parts: list[Part]) -> list[Source]:
    return [Source(buffer, 4 * channels, channels) for buffer, channels in parts]


def _group_norm(b: Builder, value: Value) -> Any:
    known = b.find(value)
    return known.deferred if known is not None and isinstance(known.deferred, op.GroupNorm) else None


def slots_of(channels: list[int]) -> int:
    """Places for each channel of one or two matrices side by side."""
    return slots([Source(0, 0, count) for count in channels])


def tables(b: Builder, value: Value) -> tuple[Buffer, Buffer, Buffer]:
    """(multipliers, offsets) of each image's channels by group norm, or of the range alone; records of the images."""

    def make() -> tuple[Buffer, Buffer, Buffer]:
        norm = _group_norm(b, value)
        source = value if norm is None else norm.x
        channels = [count for _, count in _parts(b, source)]
        taken = b.room(group.stats_bytes(value.grid.batch, value.grid.pixels, slots_of(channels)))
        stats(b, source, taken, 0, value.grid.pixels)
        return fold(b, value, channels, taken)

    made: tuple[Buffer, Buffer, Buffer] = b.form(value, "tables", make)
    return made


def stats(b: Builder, source: Value, taken: Buffer, first: int, pixels: int) -> None:
    """Statistics of each image's pixels from `first` on."""
    parts = [(buffer.part(first * 4 * channels), channels) for buffer, channels in _parts(b, source)]
    fields = group.stats_fields(_sources(parts), source.grid.batch, pixels, taken)
    b.launch("norm_stats", group.STATS_WORDS, fields, MOVED * source.grid.batch * pixels * source.channels)


def fold(b: Builder, value: Value, channels: list[int], taken: Buffer) -> tuple[Buffer, Buffer, Buffer]:
    """The tables from statistics."""
    norm, (batch, pixels) = _group_norm(b, value), (value.grid.batch, value.grid.pixels)
    count = slots_of(channels)
    records, multiply, add = b.room(RECORD_BYTES * batch), b.room(4 * batch * count), b.room(4 * batch * count)
    fields = group.fold_fields(
        [Source(0, 0, c) for c in channels], batch, pixels, taken, _learned(b, norm), multiply, add, records=records,
        activation=None if norm is None else norm.activation, flip=b.flip,
    )  # fmt: skip
    b.launch("norm_fold", group.FOLD_WORDS, fields, MOVED * value.grid.rows * value.channels // 64)
    return multiply, add, records


def _learned(b: Builder, norm: Any) -> group.Norm:
    if norm is None:
        return group.Norm()
    gamma, beta = b.weights.vector(norm.weight.weight), b.weights.vector(norm.weight.bias)
    if norm.scale_shift is None:
        return group.Norm(norm.groups, gamma, beta, norm.eps)
    table: Value = norm.scale_shift
    return group.Norm(norm.groups, gamma, beta, norm.eps, dense(b, table), table.row_bytes)


def _apply(
    b: Builder, value: Value, output: Buffer, padding: op.Padding, border: op.Border, records: Buffer | None
) -> None:
    """Write an activation, normed where a norm is deferred, into rows or an image with a border."""
    norm = _group_norm(b, value)
    sources = _sources(_parts(b, value if norm is None else norm.x))
    multiply, add, _ = (0, 0, 0) if norm is None else tables(b, value)
    channels = value.channels if records is None else _padded(value.channels)
    fields = group.apply_fields(
        sources, value.grid, multiply, add, output, channels * (4 if records is None else 1),
        b.room(b.threads * group.scratch_bytes(sources)),
        output_channels=channels, border=padding, wrap=border == "circular",
        records=0 if records is None else records, activation=None if norm is None else norm.activation, flip=b.flip,
    )  # fmt: skip
    b.launch("norm_apply", group.APPLY_WORDS, fields, MOVED * value.grid.rows * value.channels)


def _rows(b: Builder, value: Value, output: Buffer, stride: int, records: Buffer | None) -> None:
    """Write rows, normed where a layer norm is deferred, as float32 or as bytes with records."""
    deferred = b.known(value).deferred
    norm: Any = deferred if isinstance(deferred, op.LayerNorm) else None
    sources = _sources(_parts(b, value if norm is None else norm.x))
    fields = row.rows_fields(
        sources, value.grid.rows, output, stride, b.room(b.threads * row.SCRATCH_BYTES),
        output_channels=value.channels if records is None else _padded(value.channels),
        gamma=0 if norm is None else b.weights.vector(norm.weight.weight),
        beta=0 if norm is None else b.weights.vector(norm.weight.bias),
        eps=0.0 if norm is None else norm.eps, records=0 if records is None else records, flip=b.flip,
    )  # fmt: skip
    b.launch("rows_norm", row.WORDS, fields, MOVED * value.grid.rows * value.channels)
