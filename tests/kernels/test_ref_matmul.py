"""Linear layers and GEGLU against sums written out in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tinydiff_kernels.handles import LowRank
from tinydiff_kernels.ref import matmul

SIZES = [(1, 1, 2), (1, 7, 4), (5, 1, 6), (3, 17, 10), (33, 8, 2)]


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def naive(x: Any, weight: Any, bias: Any, adapters: Any = ()) -> NDArray[np.float64]:
    """One multiplication at a time."""
    y = np.zeros((len(x), len(weight)))
    for row in range(len(x)):
        for out in range(len(weight)):
            y[row, out] = math.fsum(float(a) * float(b) for a, b in zip(x[row], weight[out], strict=True))
            for adapter in adapters:
                for r in range(len(adapter.down)):
                    inner = math.fsum(float(a) * float(b) for a, b in zip(x[row], adapter.down[r], strict=True))
                    y[row, out] += adapter.scale * inner * float(adapter.up[out, r])
            if bias is not None:
                y[row, out] += float(bias[out])
    return y


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_linear(size: tuple[int, int, int], biased: bool) -> None:
    rows, inputs, outputs = size
    x, weight, bias = normal(rows, inputs), normal(outputs, inputs), normal(outputs) if biased else None
    y = matmul.linear(x, weight, bias)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, naive(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_linear_works_in_the_precision_of_its_input() -> None:
    x, weight, bias = normal(5, 9).astype(np.float64), normal(4, 9), normal(4)
    y = matmul.linear(x, weight, bias)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, naive(x, weight, bias), rtol=1e-13, atol=1e-13)


def test_two_adapters_add_up() -> None:
    x, weight, bias = normal(4, 6), normal(5, 6), normal(5)
    adapters = [LowRank(normal(2, 6), normal(5, 2), 0.5), LowRank(normal(1, 6), normal(5, 1), -2.0)]
    np.testing.assert_allclose(
        matmul.linear(x, weight, bias, adapters), naive(x, weight, bias, adapters), rtol=1e-5, atol=1e-5
    )


def test_an_input_is_never_written_to() -> None:
    x, weight = normal(3, 4), normal(2, 4)
    before = x.copy(), weight.copy()
    matmul.linear(x, weight, None, [LowRank(normal(1, 4), normal(2, 1))])
    assert np.array_equal(x, before[0])
    assert np.array_equal(weight, before[1])


@pytest.mark.parametrize("size", SIZES)
def test_geglu(size: tuple[int, int, int]) -> None:
    rows, inputs, outputs = size
    x, weight, bias = normal(rows, inputs), normal(outputs, inputs), normal(outputs)
    adapters = [LowRank(normal(1, inputs), normal(outputs, 1))]
    wide = naive(x, weight, bias, adapters)
    value, gate = wide[:, : outputs // 2], wide[:, outputs // 2 :]
    gelu = np.vectorize(lambda g: 0.5 * g * (1 + math.erf(g / math.sqrt(2))))(gate)
    np.testing.assert_allclose(matmul.geglu(x, weight, bias, adapters), value * gelu, rtol=1e-5, atol=1e-5)
