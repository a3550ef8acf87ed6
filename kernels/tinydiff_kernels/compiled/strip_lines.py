"""Which lines of its inputs an operation needs for some lines of its output.

A span (first, end) counts lines of an image. Operations that have no such rule, or whose images are single lines
(tokens), are computed whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tinydiff_kernels import operations as op
from tinydiff_kernels.compiled.trace import Step, Value, field_names

Span = tuple[int, int]
DEFERRED = (op.GroupNorm, op.LayerNorm, op.Concat)  # made in the forms that consumers ask for
_LINE_BY_LINE = (*DEFERRED, op.Linear, op.Geglu, op.Add, op.Activate, op.Affine)


def by_lines(step: Step) -> bool:
    """Whether an operation can be computed some lines at a time."""
    if step.output.grid.height == 1:
        return False
    o = step.operation
    if isinstance(o, _LINE_BY_LINE):
        return True
    if not isinstance(o, op.Conv) or o.border != "zero":  # a circular border needs the other end of the image
        return False
    if o.upsample_to is not None and not o.doubles:
        return False
    return max(o.padding[:2]) < o.weight.kernel[0]  # so every window touches the image


def operands(step: Step) -> Iterator[tuple[str, Value]]:
    """Fields that are activations."""
    kind: Any = type(step.operation)
    for name in field_names(kind):
        given = getattr(step.operation, name)
        if isinstance(given, Value):
            yield name, given


def aligned(step: Step, span: Span) -> Span:
    """The span that is computed: upsampling makes lines in pairs."""
    o = step.operation
    if isinstance(o, op.Conv) and o.upsample_to is not None:
        return span[0] // 2 * 2, -(-span[1] // 2) * 2
    return span


def needed(step: Step, span: Span) -> list[tuple[str, Value, Span]]:
    """(field, activation, its lines) for lines `span` of the output, `aligned` before."""
    found = []
    for name, value in operands(step):
        if value.grid.pixels == 1:  # one row for each image
            found.append((name, value, (0, 1)))
        elif name == "x" and isinstance(step.operation, op.Conv):
            found.append((name, value, window(step.operation, span)[0]))
        else:
            found.append((name, value, span))
    return found


def window(o: Any, span: Span) -> tuple[Span, op.Padding]:
    """Lines that a convolution reads, and the border that is left around them."""
    top, _, left, right = o.padding
    if o.upsample_to is not None:  # as four classes of 2x2 taps on the small image
        first, end = span[0] // 2 - 1, span[1] // 2 + 1
    else:
        first = o.stride * span[0] - top
        end = o.stride * (span[1] - 1) - top + o.weight.kernel[0]
    inside = max(first, 0), min(end, o.x.grid.height)
    return inside, (inside[0] - first, end - inside[1], left, right)


def strips(height: int, lines: int) -> list[Span]:
    return [(first, min(first + lines, height)) for first in range(0, height, lines)]
