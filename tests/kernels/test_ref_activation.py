"""Activations against the standard library's functions in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from tinydiff_kernels.ref import activation as ref

POINTS = np.concatenate([np.linspace(-12, 12, 4001), [0.46875, -0.46875, 4, -4, 1e-30, -1e-30, 0, 88, -88, 1e4, -1e4]])
EDGES = np.array([0.46875, np.nextafter(0.46875, 1), 0.52, 6.0, np.nextafter(6.0, 7), np.nextafter(6.0, 0)])


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


FORMULAS: dict[str, Callable[[float], float]] = {
    "silu": lambda x: x * logistic(x),
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "quick_gelu": lambda x: x * logistic(1.702 * x),
    "relu": lambda x: max(x, 0.0),
    "soft_clip": lambda x: 3 * math.tanh(x / 3),
}


@pytest.mark.parametrize("name", ref.ACTIVATIONS)
def test_activation(name: str) -> None:
    x = POINTS.astype(np.float32)
    y = ref.activate(x, name)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, [FORMULAS[name](float(v)) for v in x], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ref.ACTIVATIONS)
def test_activation_in_float64(name: str) -> None:
    y = ref.activate(POINTS, name)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, [FORMULAS[name](float(v)) for v in POINTS], rtol=1e-14, atol=1e-14)


def test_every_activation_has_a_formula_here() -> None:
    assert set(FORMULAS) == set(ref.ACTIVATIONS)


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 2e-7), (np.float64, 4e-16)])
def test_erf(dtype: type, bound: float) -> None:
    """Within the error that its docstring states, also where its two formulas meet and where it ends."""
    x = np.concatenate([POINTS, EDGES, -EDGES]).astype(dtype)
    wanted = np.array([math.erf(float(v)) for v in x])
    assert float(np.abs(ref.erf(x).astype(np.float64) - wanted).max()) < bound
    assert np.array_equal(ref.erf(-x), -ref.erf(x))


def test_nothing_is_done_without_an_activation() -> None:
    x = POINTS.copy()
    assert ref.activate(x, None) is x


@pytest.mark.parametrize("name", ref.ACTIVATIONS)
def test_nan_stays_visible(name: str) -> None:
    """The watchdog finds NaN only if no activation hides it."""
    assert np.isnan(ref.activate(np.array([np.nan], np.float32), name)).all()


@pytest.mark.parametrize("name", ref.ACTIVATIONS)
def test_infinity_does_not_warn(name: str) -> None:
    with np.errstate(all="raise", under="ignore", invalid="ignore"):
        y = ref.activate(np.array([np.inf], np.float32), name)
    assert not (y < 3).any()
