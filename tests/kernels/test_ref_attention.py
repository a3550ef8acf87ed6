"""Attention against loops over images, heads, queries and keys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tinydiff_kernels.ref import attention as ref


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def naive(q: Any, k: Any, v: Any, batch: int, heads: int, causal: bool, lengths: Any) -> NDArray[np.float64]:
    queries, keys = len(q) // batch, len(k) // batch
    width, value = q.shape[1] // heads, v.shape[1] // heads
    out = np.zeros((len(q), v.shape[1]))
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                row = q[b * queries + i, h * width : (h + 1) * width].astype(np.float64)
                weights = []
                for j in range(keys):
                    hidden = (causal and j > i) or (lengths is not None and j >= lengths[b])
                    score = float(row @ k[b * keys + j, h * width : (h + 1) * width]) / math.sqrt(width)
                    weights.append(0.0 if hidden else math.exp(score))
                values = v[b * keys : (b + 1) * keys, h * value : (h + 1) * value]
                out[b * queries + i, h * value : (h + 1) * value] = np.array(weights) @ values / sum(weights)
    return out


# batch, queries, keys, heads, head width, value width
SIZES = {
    "1 key": (1, 1, 1, 1, 1, 1),
    "odd widths": (2, 5, 7, 3, 5, 5),
    "one head": (1, 6, 4, 1, 13, 13),
    "wide values": (2, 3, 4, 2, 4, 7),
    "heads of one": (1, 4, 9, 6, 1, 1),
}


@pytest.mark.parametrize("size", SIZES)
def test_attention(size: str) -> None:
    batch, queries, keys, heads, width, value = SIZES[size]
    q, k = normal(batch * queries, heads * width), normal(batch * keys, heads * width)
    v = normal(batch * keys, heads * value)
    y = ref.attention(q, k, v, batch, heads)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, naive(q, k, v, batch, heads, False, None), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lengths", [(1, 1), (7, 3), (2, 7), (7, 7)])
@pytest.mark.parametrize("causal", [False, True])
def test_lengths_and_causal(causal: bool, lengths: tuple[int, int]) -> None:
    q, k, v = normal(14, 6), normal(14, 6) * 2, normal(14, 6) * 3
    wanted = naive(q, k, v, 2, 2, causal, lengths)
    y = ref.attention(q, k, v, 2, 2, causal, np.array(lengths))
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


def test_what_lies_behind_the_length_is_never_read() -> None:
    q, k, v = normal(4, 6), normal(10, 6), normal(10, 6) + 1
    wanted = ref.attention(q, k, v, 2, 2, lengths=np.array([3, 5]))
    k[3:5], v[3:5] = np.nan, np.nan
    assert np.array_equal(ref.attention(q, k, v, 2, 2, lengths=np.array([3, 5])), wanted)


def test_slices_of_queries_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on the score matrix changes no result, also for causal attention."""
    q, k, v = normal(10, 4), normal(10, 4), normal(10, 4) + 1
    for causal in (False, True):
        whole = ref.attention(q, k, v, 1, 2, causal)
        with monkeypatch.context() as patch:
            patch.setattr(ref, "QUERIES_AT_ONCE", 3)
            np.testing.assert_allclose(ref.attention(q, k, v, 1, 2, causal), whole, rtol=1e-6, atol=1e-7)


def test_large_scores_do_not_overflow() -> None:
    """exp(1e4) is infinite; softmax of scores so far apart picks one key."""
    q, v = np.full((1, 4), 100, np.float32), normal(3, 4)
    k = np.array([[-100] * 4, [100] * 4, [0] * 4], np.float32)
    assert np.array_equal(ref.attention(q, k, v, 1, 1), v[1:2])


def test_softmax_sums_to_one() -> None:
    s = ref.softmax(normal(5, 9) * 50)
    np.testing.assert_allclose(s.sum(1), 1, rtol=1e-6)
    assert (s >= 0).all()
