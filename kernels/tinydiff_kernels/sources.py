"""Where a kernel's input rows lie: one matrix, or two side by side.

A UNet's way up concatenates its input with a skip connection. Kernels read both parts where they are, so the
concatenation is never made. Descriptors that use this begin with the six words below. No Numba here.

Per-channel arrays have a place for every channel, each part's padded to 16: `slots` in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

FIRST = 0  # address of float32 rows
FIRST_STRIDE = 8  # bytes from row to row
FIRST_CHANNELS = 16
SECOND = 24  # the same of the second part; no channels where there is none
SECOND_STRIDE = 32
SECOND_CHANNELS = 40
WORDS = 6
LANES = 16


class Source(NamedTuple):
    """One part: float32 rows (an address or what stands for one), bytes from row to row, channels."""

    rows: Any
    stride: int
    channels: int

    @classmethod
    def of(cls, x: NDArray[Any]) -> Source:
        """A float32 matrix; columns lie side by side, rows anywhere."""
        return cls(x, x.strides[0], x.shape[1])


def source_fields(sources: Sequence[Source]) -> dict[int, Any]:
    """Fields of one or two sources."""
    first, second = (*sources, Source(0, 0, 0))[:2]
    return dict(zip(range(0, 8 * WORDS, 8), (*first, *second), strict=True))


def slots(sources: Sequence[Source]) -> int:
    """Places of a per-channel array."""
    return sum(-(-source.channels // LANES) * LANES for source in sources)
