"""The forms of an activation, made when a consumer asks for them.

    dense            float32 rows
    quantised_rows   bytes with a record for each row: inputs of quantised linear layers
    image            pixels with a border, float32 or bytes with a record for each image: inputs of convolutions
"""

from __future__ import annotations

from typing import Any

from tinydiff_kernels import operations as op
from tinydiff_kernels.compiled.build import Builder, Image, Quantised
from tinydiff_kernels.compiled.program import Buffer
from tinydiff_kernels.compiled.trace import Value
from tinydiff_kernels.matmul.packing import CHANNEL_MULTIPLE
from tinydiff_kernels.norm import group, row
from tinydiff_kernels.rows import Array, Grid
from tinydiff_kernels.sources import FIRST, SECOND, Source, slots

RECORD_BYTES = 8
NO_BORDER = (0, 0, 0, 0)
Part = tuple[Buffer, int]  # float32 rows and their channels


def dense(b: Builder, value: Value) -> Buffer:
    """Float32 rows."""
    known = b.known(value)
    if known.dense is None:
        known.dense = b.place(value)
        if isinstance(known.deferred, op.GroupNorm):
            _apply(b, value, known.dense, NO_BORDER, "zero", records=None)
        elif isinstance(known.deferred, op.LayerNorm):
            _rows(b, value, known.dense, value.row_bytes, None)
        else:
            _join(b, value, known.dense)
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
            records = _tables(b, value)[2]
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
    return [Source(0, 4 * channels, channels) for _, channels in parts]


def _links(parts: list[Part]) -> dict[int, Any]:
    return dict(zip((FIRST, SECOND), (buffer for buffer, _ in parts), strict=False))


def _group_norm(b: Builder, value: Value) -> Any:
    deferred = b.known(value).deferred
    return deferred if isinstance(deferred, op.GroupNorm) else None


def _tables(b: Builder, value: Value) -> tuple[Buffer, Buffer, Buffer]:
    """(multipliers, offsets) of each image's channels by group norm, or of the range alone; records of the images."""

    def make() -> tuple[Buffer, Buffer, Buffer]:
        norm = _group_norm(b, value)
        parts = _parts(b, value if norm is None else norm.x)
        batch, pixels, count = value.grid.batch, value.grid.pixels, slots(_sources(parts))
        stats = b.room(group.stats_bytes(batch, pixels, count))
        words = group.stats_words(_sources(parts), batch, pixels, 0)
        numbers = value.grid.rows * value.channels
        b.launch("norm_stats", words, {**_links(parts), group.STATS: stats}, numbers)
        multiply, add = b.room(4 * batch * count), b.room(4 * batch * count)
        records = b.room(RECORD_BYTES * batch)
        links: dict[int, Any] = {
            group.STATS: stats, group.MULTIPLY: multiply, group.ADD: add, group.RECORDS: records,
        }  # fmt: skip
        learned, activation = group.Norm(), None
        if norm is not None:
            activation = norm.activation
            links[group.GAMMA] = b.weights.vector(norm.weight.weight)
            links[group.BETA] = b.weights.vector(norm.weight.bias)
            stride = 0
            if norm.scale_shift is not None:
                links[group.SCALE_SHIFT], stride = dense(b, norm.scale_shift), norm.scale_shift.row_bytes
            learned = group.Norm(norm.groups, eps=norm.eps, scale_shift_stride=stride)
        fold = group.fold_words(
            _sources(parts), batch, pixels, 0, learned, 0, 0, activation=activation, flip=b.flip
        )
        b.launch("norm_fold", fold, links, numbers // 64)
        return multiply, add, records

    made: tuple[Buffer, Buffer, Buffer] = b.form(value, "tables", make)
    return made


def _apply(
    b: Builder, value: Value, output: Buffer, padding: op.Padding, border: op.Border, records: Buffer | None
) -> None:
    """Write an activation, normed where a norm is deferred, into rows or an image with a border."""
    norm = _group_norm(b, value)
    parts = _parts(b, value if norm is None else norm.x)
    quantised = records is not None
    channels = _padded(value.channels) if quantised else value.channels
    links: dict[int, Any] = {**_links(parts), group.OUTPUT: output}
    if norm is not None:
        links[group.APPLY_MULTIPLY], links[group.APPLY_ADD], _ = _tables(b, value)
    if quantised:
        links[group.APPLY_RECORDS] = records
    words = group.apply_words(
        _sources(parts), tuple(value.grid), 0, 0, 0, channels if quantised else 4 * channels,
        output_channels=channels, border=padding, wrap=border == "circular",
        activation=None if norm is None else norm.activation, flip=b.flip,
    )  # fmt: skip
    b.launch("norm_apply", words, links, value.grid.rows * value.channels)


def _rows(b: Builder, value: Value, output: Buffer, stride: int, records: Buffer | None) -> None:
    """Write rows, normed where a layer norm is deferred, as float32 or as bytes with records."""
    deferred = b.known(value).deferred
    norm: Any = deferred if isinstance(deferred, op.LayerNorm) else None
    parts = _parts(b, value if norm is None else norm.x)
    links: dict[int, Any] = {**_links(parts), row.OUTPUT: output}
    if norm is not None:
        links[row.GAMMA] = b.weights.vector(norm.weight.weight)
        links[row.BETA] = b.weights.vector(norm.weight.bias)
    if records is not None:
        links[row.RECORDS] = records
    words = row.rows_words(
        _sources(parts), value.grid.rows, 0, stride,
        output_channels=value.channels if records is None else _padded(value.channels),
        eps=0.0 if norm is None else norm.eps, flip=b.flip,
    )  # fmt: skip
    b.launch("rows_norm", words, links, value.grid.rows * value.channels)


def _join(b: Builder, value: Value, output: Buffer) -> None:
    """A concatenation, written: norm_apply without a norm copies two sources side by side."""
    _apply(b, value, output, NO_BORDER, "zero", records=None)
