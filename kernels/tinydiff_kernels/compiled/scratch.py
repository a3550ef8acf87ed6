"""Weights of unpacked files under a memory limit: packed some panels at a time, as they are used, and not kept.

A layer becomes pairs of actions, one `Fill` and one launch for each group of panels. All use the same scratch of the
arena. Columns of a product do not depend on one another, so the numbers are those of the weight packed whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.handles import MatmulWeight, SlicedTensor
from tinydiff_kernels.matmul.descriptor import PANEL
from tinydiff_kernels.matmul.geometry import upsample_weights
from tinydiff_kernels.matmul.packing import GATE_WIDTH

SCRATCH = 8 * 2**20  # bytes of packed panels in one group, at least two panels
PIECE = 2**20  # bytes of panels that are packed at once
ITEM = {"f32": 4, "f16": 2}


@dataclass(frozen=True, eq=False)
class Unpacked:
    """A weight that is packed when it is used. It has the sizes of a `packing.Packed`, and no data."""

    weight: MatmulWeight
    kind: str  # "f32" or "f16"
    gated: bool = False
    parity: tuple[int, int] | None = None

    @property
    def taps(self) -> int:
        return 4 if self.parity is not None else int(np.prod(self.weight.weight.shape[2:], dtype=np.int64))

    @property
    def steps(self) -> int:
        return self.weight.inputs

    @property
    def outputs(self) -> int:
        return self.weight.outputs // (2 if self.gated else 1)

    @property
    def panels(self) -> int:
        return -(-self.outputs // self.panel_outputs)

    @property
    def panel_outputs(self) -> int:
        """Columns of the result that come from one panel."""
        return GATE_WIDTH if self.gated else PANEL

    @property
    def panel_bytes(self) -> int:
        return PANEL * self.taps * self.steps * ITEM[self.kind]

    def groups(self) -> list[tuple[int, int]]:
        """(first, last + 1) panels of each group."""
        count = max(2, SCRATCH // max(self.panel_bytes, 1))
        return [(at, min(at + count, self.panels)) for at in range(0, self.panels, count)]

    def source(self) -> list[NDArray[Any]]:
        """What packing reads, where that is known."""
        stored = self.weight.weight
        return [stored.raw] if isinstance(stored, SlicedTensor) else []

    def pack(self, first: int, last: int, into: NDArray[np.uint8]) -> None:
        """Panels `first` to `last` - 1 as `packing.pack_float` writes them, into so many bytes.

        A few at a time: converted rows and summed taps are arrays of their own, outside the arena.
        """
        size, count = self.panel_bytes, max(1, PIECE // max(self.panel_bytes, 1))
        for start in range(first, last, count):
            stop = min(start + count, last)
            self._pack(start, stop, into[(start - first) * size : (stop - first) * size])

    def _pack(self, first: int, last: int, into: NDArray[np.uint8]) -> None:
        panels = into.view(np.float16 if self.kind == "f16" else np.float32)
        panels = panels.reshape(last - first, self.taps, self.steps, PANEL)
        width = self.panel_outputs
        if self.gated:
            self._columns(panels[..., :width], first * width, last * width, 0)
            self._columns(panels[..., width:], first * width, last * width, self.outputs)
        else:
            self._columns(panels, first * width, last * width, 0)

    def _columns(self, panels: NDArray[Any], first: int, last: int, skip: int) -> None:
        """Rows `skip` + first ... of the weight as columns of `panels` `[panels, taps, inputs, columns]`."""
        stop = min(last, self.outputs)
        width, whole = panels.shape[3], (stop - first) // panels.shape[3]
        rows = self._rows(skip + first, skip + stop)
        rows = rows.reshape(len(rows), self.steps, self.taps)
        full = rows[: whole * width].reshape(whole, width, self.steps, self.taps)
        panels[:whole] = full.transpose(0, 3, 2, 1)
        if whole < len(panels):
            left = rows[whole * width :]
            panels[whole:] = 0
            panels[whole, :, :, : len(left)] = left.transpose(2, 1, 0)

    def _rows(self, start: int, stop: int) -> NDArray[Any]:
        stored = self.weight.weight
        rows = stored.rows(start, stop) if isinstance(stored, SlicedTensor) else stored.float32()[start:stop]
        return rows if self.parity is None else upsample_weights(rows.astype(np.float32, copy=False), self.parity)
