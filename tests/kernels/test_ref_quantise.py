"""The 8-bit scheme: error bounds, exact zero, both representations, and what is not a number."""

from __future__ import annotations

import numpy as np
import pytest

from tinydiff_kernels.ref import activation, quantise

RANGES = [(-1.0, 1.0), (-0.278, 5.0), (0.5, 2.0), (-3.0, -1.0), (-1e30, 1e30), (-1e-20, 3e-20), (0.0, 255.0)]


@pytest.mark.parametrize("flip", [0, quantise.FLIP])
@pytest.mark.parametrize(("lo", "hi"), RANGES)
def test_error_is_below_half_a_step_and_zero_is_exact(lo: float, hi: float, flip: int) -> None:
    x = np.append(np.linspace(lo, hi, 1001), [0.0, lo, hi]).astype(np.float32)
    record = quantise.record(x.min(), x.max(), flip)
    q = quantise.quantise(x, record, flip)
    back = quantise.dequantise(q, record, flip)
    step = float(record["scale"])
    assert np.abs(back.astype(np.float64) - x).max() <= 0.501 * step + 0.5 * step * ((x.min() > 0) | (x.max() < 0))
    assert back[-3] == 0
    assert (q.view(np.int8)[-3] == record["zero"]) if flip else (q[-3] == record["zero"])
    assert step == pytest.approx((max(hi, 0) - min(lo, 0)) / 255, rel=1e-6)


def test_small_integers_are_exact() -> None:
    x = np.arange(-100, 156, dtype=np.float32)
    record = quantise.record(x.min(), x.max())
    assert (float(record["scale"]), int(record["zero"])) == (1.0, 100)
    np.testing.assert_array_equal(quantise.quantise(x, record), np.arange(256))


def test_halves_go_to_the_even_neighbour() -> None:
    record = np.zeros((), quantise.RECORD)
    record["scale"], record["zero"] = 1, 3
    q = quantise.quantise(np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5], np.float32), record)
    np.testing.assert_array_equal(q, [3, 5, 5, 3, 1, 1])


def test_beyond_the_range_is_clamped() -> None:
    record = quantise.record(np.float32(-1), np.float32(1))
    q = quantise.quantise(np.array([-1e30, 1e30, -np.inf, np.inf], np.float32), record)
    np.testing.assert_array_equal(q, [0, 255, 0, 255])


@pytest.mark.parametrize("flip", [0, quantise.FLIP])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_not_finite_poisons_the_scale(bad: float, flip: int) -> None:
    """Also a range wider than float32: 3e38 beside -3e38."""
    x = np.array([[1.0, -3e38, bad], [1.0, -2.0, 0.5]], np.float32)
    records = quantise.rows_records(x, flip)
    assert np.isnan(records["scale"][0, 0])
    assert records["zero"][0, 0] == -flip
    np.testing.assert_array_equal(quantise.quantise(x, records, flip)[0] ^ flip, 0)
    assert np.isnan(quantise.dequantise(quantise.quantise(x, records, flip), records, flip)[0]).all()
    assert np.isfinite(records["scale"][1, 0])


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-36])
def test_ranges_too_small_for_a_scale_are_zero(size: float) -> None:
    x = np.array([[-size, 0.0, size]], np.float32)
    records = quantise.rows_records(x)
    assert records["scale"][0, 0] == 1
    assert records["zero"][0, 0] == 0
    np.testing.assert_array_equal(quantise.quantise(x, records), 0)


@pytest.mark.parametrize("name", [None, *activation.ACTIVATIONS])
@pytest.mark.parametrize(("lo", "hi"), [(-4, 3), (-1.0, 2.0), (-9, -3), (-0.75, -0.7), (0.5, 4)])
def test_ranges_after_an_activation(lo: float, hi: float, name: str | None) -> None:
    x = np.linspace(lo, hi, 20001)
    y = activation.activate(x, name)
    bottom, top = quantise.activated_range(x[:1], x[-1:], name)
    assert bottom[0] <= y.min() + 1e-12
    assert top[0] >= y.max() - 1e-12
    np.testing.assert_allclose([bottom[0], top[0]], [y.min(), y.max()], rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", list(quantise.DIPS))
def test_dips_are_minima(name: str) -> None:
    where, depth = quantise.DIPS[name]
    x = np.linspace(where - 1e-4, where + 1e-4, 2001)
    y = activation.ACTIVATIONS[name](x)
    assert abs(float(y.min()) - depth) < 1e-11
    assert abs(float(x[y.argmin()]) - where) < 1e-6
