"""Every kernel at its edges (`edge_calls.py`): the same bits on every path, and what the docstrings promise."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import edge_calls
import numpy as np
import pytest
from kernel_builds import PATHS, library
from matmul_calls import KINDS, QUANTISED, numbers
from norm_calls import NAMES

from tinydiff_kernels.ref.activation import activate
from tinydiff_kernels.ref.sixteen import shorten

INTEGERS = [name for name, kind in KINDS.items() if kind in QUANTISED]
GROUPS = (
    tuple(KINDS),
    ("attention_f32",),
    ("keys_i8", "attention_i8"),
    NAMES,
)  # compiled together, as the tests of each have them


def kernels(path: str) -> dict[str, Any]:
    return {name: kernel for names in GROUPS for name, kernel in library(names, path).items()}


@lru_cache(maxsize=1)
def here() -> list[bytes]:
    return [result.tobytes() for result in edge_calls.results(kernels(PATHS[0]), 0)]


@pytest.mark.parametrize("path", PATHS[1:])
def test_the_same_bits(path: str) -> None:
    made = [result.tobytes() for result in edge_calls.results(kernels(path), 0)]
    assert [i for i, (got, wanted) in enumerate(zip(made, here(), strict=True)) if got != wanted] == []


@pytest.mark.parametrize("name", INTEGERS)
def test_the_largest_sums_are_exact_and_scales_of_zero_leave_the_bias(name: str) -> None:
    low, high, unscaled, zeros = edge_calls.matmul_extremes(name, kernels(PATHS[0])[name], 0)
    weight = edge_calls.extreme_integers(KINDS[name]).astype(np.int64) * (63 if KINDS[name] == "i4" else 1)
    q = np.full((9, edge_calls.DEPTH), 255)
    q[0], q[1, ::2], q[2, 1::2] = 0, 0, 0
    np.testing.assert_array_equal(low, (q @ weight.T).astype(np.float32))
    np.testing.assert_array_equal(high, ((q - 255) @ weight.T).astype(np.float32))
    assert np.abs(low).max() == 255 * np.abs(weight).sum(1).max()
    assert not unscaled.any()
    np.testing.assert_array_equal(zeros, np.tile(numbers(7, 5), (4, 1)))


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_finite_stays_in_its_row_or_column(name: str) -> None:
    """As IEEE arithmetic has it for floats; NaN all over for integers."""
    results = list(edge_calls.matmul_bad(name, kernels(PATHS[0])[name], 0))
    for row_bad, column_bad in zip(results[::2], results[1::2], strict=True):
        for bad, good in ((row_bad[7], np.delete(row_bad, 7, 0)), (column_bad[:, 20], column_bad[:, :20])):
            assert np.isfinite(good).all()
            assert (np.isnan(bad) if KINDS[name] in QUANTISED else ~np.isfinite(bad)).all()


def test_elementwise_as_the_reference() -> None:
    """Activations of infinities and the largest numbers too. Where the reference gives NaN, so does the kernel."""
    kernel, made = kernels(PATHS[0])["elementwise"], []
    with np.errstate(all="ignore"):
        made = list(edge_calls.elementwise_bad(kernel))
        x = np.stack([np.roll(edge_calls.SPECIAL, -i)[:16] for i in range(len(edge_calls.SPECIAL))])
        whole = made[2 * 10 : 3 * 10]  # 16 columns
        for activation, got in zip(edge_calls.ACTIVATIONS, whole[:6], strict=True):
            wide = (x + np.float32(0.5) * x[::-1]).astype(np.float64)
            wanted = activate(wide, activation).astype(np.float32)
            np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=1e-6, err_msg=str(activation))
        np.testing.assert_array_equal(whole[7], shorten(x)[0])
