"""What outlives a run, what is forgotten, and what an interrupted forward leaves behind."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from compiled_tools import Floats, Values, compiled, relative

from tinydiff_kernels import operations as op
from tinydiff_kernels.compiled.backend import Compiled
from tinydiff_kernels.handles import LinearWeight
from tinydiff_kernels.rows import Grid, Rows, ShapeError


def linear(seed: int = 0, inputs: int = 20, outputs: int = 24) -> LinearWeight:
    values = np.random.default_rng(seed).standard_normal((outputs, inputs), np.float32)
    return LinearWeight(f"layer {seed}", Values(f"layer {seed}.weight", values))


def rows(count: int = 3, channels: int = 20, seed: int = 9) -> Rows:
    values = np.random.default_rng(seed).standard_normal((count, channels), np.float32)
    return Rows(Grid(1, 1, count), channels, values)


def product(x: Rows, weight: LinearWeight) -> Floats:
    return np.asarray(x.array @ weight.weight.float32().T, np.float32)


class Stop:
    """Raises before the operation with this number."""

    def __init__(self, at: int) -> None:
        self.left = at

    def before(self, operation: op.Operation) -> None:
        self.left -= 1
        if self.left == 0:
            raise InterruptedError

    def after(self, operation: op.Operation, result: Rows) -> None: ...


def test_nothing_is_computed_before_somebody_looks() -> None:
    backend, x, weight = compiled(), rows(), linear()
    result = backend.linear(x, weight)
    assert result.data is None
    assert relative(result.array, product(x, weight)) < 1e-6
    assert result.array is result.array


def test_every_result_that_is_held_has_its_values_after_one_run() -> None:
    backend, x = compiled(), rows()
    first, second, third = (backend.linear(x, linear(i)) for i in range(3))
    assert relative(second.array, product(x, linear(1))) < 1e-6
    assert first.data is not None
    assert third.data is not None
    assert relative(third.array, product(x, linear(2))) < 1e-6


def test_a_result_of_one_run_is_an_input_of_the_next() -> None:
    backend, x, down, up = compiled(), rows(), linear(1, 20, 24), linear(2, 24, 20)
    kept = backend.linear(x, down)
    once = backend.linear(kept, up).array
    twice = backend.linear(kept, up).array
    assert np.array_equal(once, twice)
    assert relative(once, product(Rows(kept.grid, 24, product(x, down)), up)) < 1e-6
    assert len(backend.programs) == 2


def test_results_that_nobody_holds_are_not_kept() -> None:
    backend, x = compiled(), rows()
    middle = backend.linear(x, linear(1, 20, 24))
    last = backend.linear(middle, linear(2, 24, 20))
    del middle
    assert last.array.shape == (3, 20)
    (program,) = backend.programs.values()
    assert len(program.outputs) == 1


def test_a_backend_that_is_recorded_by_another_is_run_first() -> None:
    one, two, x = compiled(), compiled(), rows()
    between = one.linear(x, linear(1, 20, 24))
    assert relative(two.linear(between, linear(2, 24, 20)).array, product(between, linear(2, 24, 20))) < 1e-6


def forward(backend: Compiled, x: Rows, weights: list[LinearWeight]) -> Rows:
    for weight in weights:
        x = backend.linear(x, weight)
    return x


def test_an_interrupted_forward_leaves_nothing_to_do() -> None:
    weights = [linear(i, 20, 20) for i in range(5)]
    backend, x = compiled(), rows()
    wanted = forward(backend, x, weights).array
    backend.observers.append(Stop(4))
    with pytest.raises(InterruptedError):
        forward(backend, x, weights)
    backend.observers.clear()
    gc.collect()  # the exception's frames held results of the first three
    again = forward(backend, x, weights)
    assert np.array_equal(again.array, wanted)
    newest = next(reversed(backend.programs.values()))
    assert [action.step for action in newest.actions] == list(range(5))


def test_what_is_held_survives_a_run_that_was_cancelled() -> None:
    """Keys and values that a context keeps, when the step that should have computed them was cancelled half way."""
    weights = [linear(i, 20, 20) for i in range(4)]
    backend, x = compiled(), rows()

    class Cancelled:
        def before(self, operation: op.Operation) -> None:
            if backend.cancel[0]:
                raise InterruptedError

        def after(self, operation: op.Operation, result: Rows) -> None: ...

    backend.observers.append(Cancelled())
    kept = backend.linear(x, weights[0])
    result = forward(backend, kept, weights[1:3])
    backend.cancel[0] = 1
    with pytest.raises(InterruptedError):
        _ = result.array
    backend.cancel[0] = 0
    del result
    gc.collect()
    again = backend.linear(kept, weights[3])
    expected = product(Rows(kept.grid, 20, product(x, weights[0])), weights[3])
    assert relative(again.array, expected) < 1e-6
    assert kept.data is not None
    assert relative(kept.data, product(x, weights[0])) < 1e-6
    newest = next(reversed(backend.programs.values()))
    assert len(newest.actions) == 2  # what nobody holds is not computed again


def test_a_shape_that_does_not_fit_leaves_nothing_to_do() -> None:
    backend, x = compiled(), rows()
    with pytest.raises(ShapeError, match="layer 2"):
        forward(backend, x, [linear(1, 20, 20), linear(2, 24, 20)])
    gc.collect()
    result = forward(backend, x, [linear(3)])
    assert relative(result.array, product(x, linear(3))) < 1e-6
    (program,) = backend.programs.values()
    assert len(program.actions) == 1


def test_a_weight_that_is_gone_cannot_be_mistaken_for_a_new_one() -> None:
    """Programs are found by the identity of weights; Python gives identities again."""
    backend, x = compiled(), rows()
    for seed in range(20):
        weight = linear(seed)
        assert relative(backend.linear(x, weight).array, product(x, weight)) < 1e-6
        del weight
        gc.collect()
