"""Row norms by a kernel against `ref/`: edge shapes, two sources, u8 with a record for each row, every path."""

from __future__ import annotations

from typing import Any

import norm_calls
import numpy as np
import pytest
from kernel_arrays import Framed
from kernel_builds import PATHS, library
from norm_calls import NAMES, numbers

from tinydiff_kernels import _jit, checked, dispatch, pool, words
from tinydiff_kernels.norm import call, row
from tinydiff_kernels.ref import norm as ref_norm
from tinydiff_kernels.ref import quantise
from tinydiff_kernels.sources import Source

UNIT = row.UNIT_ROWS
SHAPES = [(0, 8), (1, 1), (3, 3), (UNIT - 1, 15), (UNIT, 16), (UNIT + 1, 17), (33, 77), (5, 320), (7, 1283)]


def kernel(path: str = PATHS[0], is_checked: bool = False) -> Any:
    return library(NAMES, path, is_checked)["rows_norm"]


def learned(channels: int, eps: float = 1e-5) -> tuple[Any, Any, float]:
    return 1 + numbers(11, channels) / 4, numbers(12, channels), eps


def check_bytes(out: Any, records: Any, floats: Any, flip: int) -> None:
    """Records and bytes are `ref/quantise.py` of the float32 output; what follows the channels is the zero point."""
    wanted = quantise.rows_records(floats, flip)
    np.testing.assert_array_equal(records, wanted[:, 0])
    channels = floats.shape[1]
    np.testing.assert_array_equal(out[:, :channels], quantise.quantise(floats, wanted, flip))
    zero = (wanted["zero"] & 0xFF).astype(np.uint8)
    np.testing.assert_array_equal(out[:, channels:], np.broadcast_to(zero, out[:, channels:].shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(shape: tuple[int, int]) -> None:
    x = Framed(shape, np.float32, gap=8).with_values(numbers(1, *shape) * 3 + numbers(2, shape[1])).array
    gamma, beta, eps = learned(shape[1])
    exact = ref_norm.layer_norm(x.astype(np.float64), gamma, beta, eps) if x.size else x.astype(np.float64)
    results = set()
    for path in PATHS:
        out = Framed((shape[0], shape[1] + 3), np.float32, gap=4)
        call.rows_norm(kernel(path), [x], (gamma, beta, eps), out.array, threads=2)
        np.testing.assert_allclose(out.array[:, : shape[1]], exact, rtol=1e-6, atol=2e-6)
        assert not out.array[:, shape[1] :].any()
        assert out.untouched_around()
        results.add(out.array.tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("flip", [0, quantise.FLIP])
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_quantised(shape: tuple[int, int], normed: bool, flip: int) -> None:
    rows, channels = shape
    x, norm = numbers(3, rows, channels) * 2 - numbers(4, rows, 1), learned(channels) if normed else None
    for path in PATHS:
        floats, out = np.zeros(shape, np.float32), Framed((rows, -(-channels // 8) * 8), np.uint8, gap=3)
        call.rows_norm(kernel(path), [x], norm, floats)
        records = call.rows_norm(kernel(path), [x], norm, out.array, flip=flip, threads=3)
        check_bytes(out.array, records, floats, flip)
        assert out.untouched_around()
        if not normed:
            np.testing.assert_array_equal(floats, x)


@pytest.mark.parametrize("split", [1, 16, 19, 32, 63])
def test_two_sources(split: int) -> None:
    x, (gamma, beta, eps) = numbers(5, 21, 64) + 2, learned(64)
    left, right = Framed((21, split), np.float32, gap=20), Framed((21, 64 - split), np.float32)
    parts = [left.with_values(x[:, :split]).array, right.with_values(x[:, split:]).array]
    exact, results = ref_norm.layer_norm(x.astype(np.float64), gamma, beta, eps), set()
    for path in PATHS:
        floats, out = np.zeros((21, 64), np.float32), np.zeros((21, 64), np.uint8)
        call.rows_norm(kernel(path), parts, (gamma, beta, eps), floats)
        np.testing.assert_allclose(floats, exact, rtol=1e-6, atol=2e-6)
        check_bytes(out, call.rows_norm(kernel(path), parts, (gamma, beta, eps), out), floats, 0)
        call.rows_norm(kernel(path), parts, None, floats)
        np.testing.assert_array_equal(floats, x)
        results.add(out.tobytes())
    assert len(results) == 1


def test_any_number_of_threads() -> None:
    x, results = numbers(6, 203, 40), set()
    for threads in (1, 2, 3, 5):
        out = np.zeros((203, 40), np.uint8)
        records = call.rows_norm(kernel(), [x], learned(40), out, threads=threads)
        results.add((records.tobytes(), out.tobytes()))
    assert len(results) == 1


@pytest.mark.parametrize("offset", [1e3, -1e4])
def test_a_large_mean_keeps_the_variance(offset: float) -> None:
    x = numbers(7, 40, 1280) + np.float32(offset)
    out = np.zeros_like(x)
    call.rows_norm(kernel(), [x], (np.ones(1280, np.float32), np.zeros(1280, np.float32), 0.0), out)
    wanted = ref_norm.layer_norm(x.astype(np.float64), np.ones(1280), np.zeros(1280), 0.0)
    np.testing.assert_allclose(out, wanted, rtol=0, atol=2e-7 * abs(offset))


def test_constant_rows_give_the_bias_and_zeros_have_scale_one() -> None:
    gamma, beta, eps = learned(32)
    x, out = np.repeat(np.array([[0.0], [7.25], [-3e30]], np.float32), 32, axis=1), np.zeros((3, 32), np.float32)
    call.rows_norm(kernel(), [x], (gamma, beta, eps), out)
    np.testing.assert_array_equal(out, np.tile(beta, (3, 1)))
    q = np.ones((3, 32), np.uint8)
    records = call.rows_norm(kernel(), [x], (gamma, np.zeros_like(beta), eps), q)
    np.testing.assert_array_equal(records["scale"], 1)
    assert not q.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e20])
@pytest.mark.parametrize("column", [0, 13, 16, 20])
def test_what_is_not_finite_poisons_its_row(bad: float, column: int) -> None:
    """NaN in float32, scale NaN in u8; the square of 1e20 is not finite either, and nothing needs it without a norm."""
    x = numbers(8, 9, 21)
    x[4, column] = bad
    for path in PATHS:
        out, q = np.zeros((9, 21), np.float32), np.ones((9, 24), np.uint8)
        call.rows_norm(kernel(path), [x], learned(21), out)
        assert np.isnan(out[4]).all()
        assert np.isfinite(np.delete(out, 4, axis=0)).all()
        for norm in (learned(21), None):
            records = call.rows_norm(kernel(path), [x], norm, q)
            assert np.isnan(records["scale"][4]) == (norm is not None or bad != 1e20)
            assert np.isfinite(np.delete(records["scale"], 4)).all()


def test_not_a_byte_beyond_the_buffers() -> None:
    for shape in SHAPES[1:]:
        x, norm = numbers(9, *shape), learned(shape[1])
        for kind in (np.float32, np.uint8):
            outs = [np.zeros(shape, kind), np.zeros(shape, kind)]
            for is_checked, out in enumerate(outs):
                call.rows_norm(kernel(is_checked=bool(is_checked)), [x], norm, out)
            np.testing.assert_array_equal(*outs)
    with pytest.raises(checked.CheckedAccessError, match="tried to load"):
        call.rows_norm(kernel(is_checked=True), [x], (norm[0][:-1].copy(), norm[1], 0.0), outs[0], threads=1)


def test_cancelled_before_it_began() -> None:
    x, out = numbers(1, 30, 16), np.zeros((30, 16), np.float32)
    scratch = np.zeros((2, row.SCRATCH_BYTES), np.uint8)
    desc = words.filled(row.WORDS, row.rows_fields([Source.of(x)], 30, out, 64, scratch))
    pool.run(kernel(), desc, threads=2, cancel=np.ones(1, np.int32))
    assert not out.any()
    pool.run(kernel(), desc, threads=2)
    np.testing.assert_array_equal(out, x)


def test_users_get_the_same_kernels(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled in this process by policy, as `dispatch.kernel` gives them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _jit.settings.cache_clear()
    here = [r.tobytes() for r in norm_calls.results({name: dispatch.kernel(name) for name in NAMES}, 0)]
    _jit.settings.cache_clear()
    assert here == [r.tobytes() for r in norm_calls.results(library(NAMES, PATHS[0]), 0)]
