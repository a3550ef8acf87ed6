"""What a network did: its operations in order, with numbers in place of activations.

A network calls a backend's methods as always. Nothing is computed; every call becomes a `Step`, and the `Rows` returned
are only promises. When somebody asks for the matrix of one of them, the whole trace is compiled, or found among the
programs compiled before by its `key`, and run.

Which results must outlive the run? Those that somebody outside still holds (the network's output; the keys and values
that a context keeps for later steps). Steps hold numbers, not `Rows`, so a result that nobody holds is gone, and its
weak reference tells.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

from tinydiff_kernels.handles import EmbeddingWeight, MatmulWeight, NormWeight
from tinydiff_kernels.operations import Operation
from tinydiff_kernels.rows import Array, Grid, Maker, Rows

WEIGHTS = (MatmulWeight, NormWeight, EmbeddingWeight)
PLAIN = frozenset((type(None), bool, int, float, str, tuple, Grid))  # settings, which are their own key


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """An activation of a trace."""

    number: int
    grid: Grid
    channels: int

    @property
    def row_bytes(self) -> int:
        return 4 * self.channels

    @property
    def nbytes(self) -> int:
        return self.grid.rows * self.row_bytes


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """One operation. Fields of `operation` that were `Rows` are `Value`s; its arrays belong to this run only."""

    operation: Any  # a copy of the Operation
    output: Value
    key: tuple[Any, ...]  # equal for equal operations on the same weights and equally numbered activations

    def inputs(self) -> list[Value]:
        kind: Any = type(self.operation)
        given = (getattr(self.operation, name) for name in field_names(kind))
        return [value for value in given if isinstance(value, Value)]


@lru_cache(maxsize=64)
def field_names(kind: Any) -> tuple[str, ...]:
    """Fields of a kind of operation."""
    return tuple(f.name for f in fields(kind))


class Trace:
    """Steps recorded so far, the activations that came from outside, and the key under which its program is kept."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.inputs: list[tuple[Value, Array]] = []
        self.results: list[tuple[Value, weakref.ref[Rows]]] = []
        self._values: weakref.WeakKeyDictionary[Rows, Value] = weakref.WeakKeyDictionary()
        self._used: set[int] = set()  # results that later steps read
        self._count = 0

    def record(self, operation: Operation, maker: Maker) -> Rows:
        """Add an operation; the promise of its result."""
        kind: Any = type(operation)
        copy: Any = object.__new__(kind)
        key: list[Any] = [kind]
        for name in field_names(kind):
            given = getattr(operation, name)
            if type(given) in PLAIN:  # most fields; asked first, since every step of every run comes through here
                object.__setattr__(copy, name, given)
                key.append(given)
                continue
            if isinstance(given, Rows):
                value = self._value(given)
                object.__setattr__(copy, name, value)
                self._used.add(value.number)
                key.append(value.number)
                continue
            object.__setattr__(copy, name, given)
            key.append(_static(given))
        output = self._new(operation.grid, operation.channels)
        result = Rows(output.grid, output.channels, None, maker)
        self._values[result] = output
        self.results.append((output, weakref.ref(result)))
        self.steps.append(Step(copy, output, tuple(key)))
        return result

    def _new(self, grid: Grid, channels: int) -> Value:
        self._count += 1
        return Value(self._count - 1, grid, channels)

    def _value(self, rows: Rows) -> Value:
        known = self._values.get(rows)
        if known is not None:
            return known
        value = self._values[rows] = self._new(rows.grid, rows.channels)
        self.inputs.append((value, np.ascontiguousarray(rows.array, np.float32)))
        return value

    def alive(self) -> list[tuple[Value, Rows]]:
        """Results that somebody outside the trace holds."""
        found = ((value, reference()) for value, reference in self.results)
        return [(value, rows) for value, rows in found if rows is not None]

    def forget_unused(self, outputs: list[Value]) -> None:
        """Drop steps that no output needs: recorded before an error ended a forward, or never looked at."""
        held = {value.number for value in outputs}
        if all(value.number in held or value.number in self._used for value, _ in self.results):
            return
        steps = []
        for step in reversed(self.steps):
            if step.output.number in held:
                steps.append(step)
                held.update(value.number for value in step.inputs())
        self.steps = steps[::-1]
        self.inputs = [(value, array) for value, array in self.inputs if value.number in held]

    def key(self, outputs: list[Value]) -> tuple[Any, ...]:
        """Equal for traces that one program serves: same operations, weights and shapes; other arrays."""
        inputs = tuple((value.number, value.grid, value.channels) for value, _ in self.inputs)
        return (inputs, *(step.key for step in self.steps), tuple(value.number for value in outputs))

    def owners(self) -> list[Any]:
        """Weights and adapters: keys name them by identity, so whoever keeps a key keeps them."""
        weights = [weight for step in self.steps for weight in step.operation.weights()]
        return weights + [a for weight in weights if isinstance(weight, MatmulWeight) for a in weight.adapters]


def _static(given: Any) -> Any:
    """What of a field makes another program: values of settings, shapes of arrays, identities of weights."""
    if isinstance(given, np.ndarray):
        return given.shape
    if isinstance(given, MatmulWeight):
        return id(given), tuple(map(id, given.adapters))
    if isinstance(given, WEIGHTS):
        return id(given)
    return given
