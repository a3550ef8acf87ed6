"""One block of memory for all activations of a pipeline, and the plan of who lies where.

Offsets follow from lifetimes alone: a buffer lives from the launch that first writes it to the last one that reads it,
and two that live at the same time do not overlap. Larger buffers are placed first, each at the lowest gap that fits
(the greedy by size of Pisarchyk and Lee 2020, arXiv:2001.03288).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
SLACK = 128  # bytes after every buffer that a kernel may read and does not use


@dataclass(eq=False, slots=True)
class Lifetime:
    """A buffer to be placed: its bytes, and the launches (first and last, inclusive) between which it lives. The first
    `lead` of its bytes lie before what `offset` points to."""

    nbytes: int
    first: int
    last: int
    offset: int = -1
    lead: int = 0


def place(buffers: Sequence[Lifetime]) -> int:
    """Give every buffer an offset; the bytes of the whole."""
    total = 0
    placed: list[Lifetime] = []  # by offset
    for buffer in sorted(buffers, key=lambda b: (-b.nbytes, b.first)):
        need = -(-(buffer.nbytes + SLACK) // ALIGNMENT) * ALIGNMENT
        at = 0
        for other in placed:
            if other.last < buffer.first or buffer.last < other.first:
                continue
            if other.offset - at >= need:
                break
            at = max(at, other.offset + -(-(other.nbytes + SLACK) // ALIGNMENT) * ALIGNMENT)
        buffer.offset = at
        total = max(total, at + need)
        index = next((i for i, other in enumerate(placed) if other.offset > at), len(placed))
        placed.insert(index, buffer)
    return total


class Arena:
    """The memory. It grows when a program needs more; programs that run in it one after the other share it."""

    def __init__(self) -> None:
        self._memory: NDArray[np.uint8] = np.empty(0, np.uint8)
        self.nbytes = 0
        self.largest = 0  # that it has been
        self.address = 0

    def reserve(self, nbytes: int) -> None:
        """Make room. Contents do not survive growth: no program is half way when another one starts."""
        if nbytes > self.nbytes:
            self._memory = np.empty(0, np.uint8)  # give the old one back first
            self._memory = np.empty(nbytes + ALIGNMENT, np.uint8)
            self.nbytes = nbytes
            self.largest = max(self.largest, nbytes)
            self.address = -(-self._memory.ctypes.data // ALIGNMENT) * ALIGNMENT

    def release(self) -> None:
        """Give the memory back, between programs."""
        self._memory, self.nbytes, self.address = np.empty(0, np.uint8), 0, 0

    @property
    def memory(self) -> NDArray[np.uint8]:
        """All of it; the buffers begin at `start`."""
        return self._memory

    @property
    def start(self) -> int:
        return self.address - int(self._memory.ctypes.data)

    def floats(self, offset: int, rows: int, columns: int) -> NDArray[np.float32]:
        """A matrix in it."""
        start = self.start + offset
        return self._memory[start : start + 4 * rows * columns].view(np.float32).reshape(rows, columns)
