"""The backend that computes nothing: a forward pass on shapes yields the list of operations.

Arena, prefetch, strip decoding, prediction and the cost model read that list. Lifetimes follow from it: an
activation lives from the operation that makes it to the last one that reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinydiff_kernels.backend import Backend
from tinydiff_kernels.handles import Weight
from tinydiff_kernels.operations import Operation
from tinydiff_kernels.rows import Rows


@dataclass(frozen=True)
class Step:
    """One planned operation. Activations are numbered in the order in which they first appear."""

    kind: str
    inputs: tuple[int, ...]
    output: int
    shape: tuple[int, int]  # rows, channels of the output
    weights: tuple[Weight, ...]
    macs: int
    operation: Operation


class Plan(Backend):
    """Records every operation in `steps`; results are `Rows` without data."""

    name = "plan"

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._number: dict[int, int] = {}
        self._alive: list[Rows] = []  # keeps id() of a numbered Rows from being reused

    def execute(self, operation: Operation) -> Rows:
        result = Rows(operation.grid, operation.channels)
        self.steps.append(
            Step(
                operation.kind,
                tuple(self._numbered(x) for x in operation.inputs()),
                self._numbered(result),
                (result.grid.rows, result.channels),
                tuple(operation.weights()),
                operation.macs,
                operation,
            )
        )
        return result

    def _numbered(self, x: Rows) -> int:
        if id(x) not in self._number:
            self._number[id(x)] = len(self._alive)
            self._alive.append(x)
        return self._number[id(x)]

    def last_uses(self) -> dict[int, int]:
        """Activation -> index of the last step that touches it."""
        uses: dict[int, int] = {}
        for index, step in enumerate(self.steps):
            for activation in (*step.inputs, step.output):
                uses[activation] = index
        return uses

    def peak_bytes(self, itemsize: int = 4) -> int:
        """Largest sum of living activations over all steps, in bytes of `itemsize` per number."""
        last, size, living, peak = self.last_uses(), {}, 0, 0
        for number, rows in enumerate(self._alive):
            size[number] = rows.grid.rows * rows.channels * itemsize
        made = {step.output for step in self.steps}
        born: set[int] = set()
        for index, step in enumerate(self.steps):
            for activation in (*step.inputs, step.output):
                if activation not in born and (activation == step.output or activation not in made):
                    born.add(activation)
                    living += size[activation]
            peak = max(peak, living)
            for activation in {*step.inputs, step.output}:
                if last[activation] == index:
                    living -= size[activation]
        return peak
