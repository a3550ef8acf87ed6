"""Attention in 8-bit integers against `ref/`, and that against float64: edge shapes, strides, threads, every path."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from attention_calls import numbers
from kernel_builds import PATHS, library

from tinydiff_kernels import checked, dispatch, pool
from tinydiff_kernels.attention import call_i8, descriptor, descriptor_i8
from tinydiff_kernels.ref import attention as exact
from tinydiff_kernels.ref import attention_i8 as ref
from tinydiff_kernels.words import filled

BLOCK, WIDEST = descriptor.KEY_BLOCK, descriptor.WIDEST
NAMES = ("keys_i8", "attention_i8")
SHAPES = [  # images, heads, queries, keys, width, value width
    (1, 1, 1, 1, 1, 1),
    (1, 2, 0, 3, 4, 4),
    (2, 1, 2, 1, 8, 8),
    (1, 3, 5, 7, 3, 5),
    (1, 2, 15, 5, 8, 6),
    (1, 2, 16, 6, 9, 7),
    (2, 2, 17, 7, 40, 40),
    (1, 1, WIDEST - 1, BLOCK - 1, 33, 33),
    (1, 1, WIDEST, BLOCK, 33, 32),
    (1, 2, WIDEST + 1, BLOCK + 1, 13, 16),
    (2, 2, 131, 211, 40, 40),
    (1, 1, 257, 2 * BLOCK, 64, 64),
    (1, 2, 64, 154, 160, 160),
    (1, 1, 67, 101, 512, 512),
]


pytestmark = pytest.mark.usefixtures("own_cache")


def kernels(path: str, is_checked: bool = False) -> tuple[Any, Any]:
    """As users get them for the best path of this CPU, compiled ahead of time for the others."""
    if path == PATHS[0] and not is_checked:
        return dispatch.kernel(NAMES[0]), dispatch.kernel(NAMES[1])
    made = library(NAMES, path, is_checked)
    return made[NAMES[0]], made[NAMES[1]]


def inputs(shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    images, heads, queries, keys, width, value_width = shape
    return (
        numbers(1, images * queries, heads * width),
        numbers(2, images * keys, heads * width),
        numbers(3, images * keys, heads * value_width),
    )


def same_on_all_paths(*arguments: Any, threads: int = 2, **options: Any) -> Any:
    results = [call_i8.attention(*kernels(path), *arguments, threads=threads, **options) for path in PATHS]
    assert len({result.tobytes() for result in results}) == 1
    return results[0]


def close(got: Any, expected: Any, v: Any) -> None:
    """All integers are the same; what is left is exp2 between blocks, of the specification by NumPy."""
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * max(1e-30, np.abs(v).max()))


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: tuple[int, ...]) -> None:
    q, k, v = inputs(shape)
    close(same_on_all_paths(q, k, v, *shape[:2]), ref.attention(q, k, v, *shape[:2]), v)


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 3.0])
def test_the_specification_is_attention(sharpness: float) -> None:
    """Flat, as usual and peaked: the error is a small part of the values'."""
    q, k, v = inputs((1, 2, 100, 1000, 40, 40))
    q, k = q * np.float32(sharpness / 2), k + np.float32(7)
    wide = exact.attention(q.astype(np.float64), k.astype(np.float64), v.astype(np.float64), 1, 2)
    error = np.sqrt(np.mean((ref.attention(q, k, v, 1, 2) - wide) ** 2)) / v.std()
    assert error < {0.1: 6e-4, 1.0: 9e-3, 3.0: 4.5e-2}[sharpness]


def test_an_offset_of_a_channel_of_keys_costs_nothing() -> None:
    """Eighths, so that adding 1024 is exact: not a bit changes, though the offset is a hundred times the range."""
    q, k, v = inputs((1, 1, 40, 200, 16, 16))
    k = np.round(8 * k) / np.float32(8)
    np.testing.assert_array_equal(same_on_all_paths(q, k, v, 1, 1), same_on_all_paths(q, k + np.float32(1024), v, 1, 1))


def test_a_long_tail_counts() -> None:
    """One key of weight 1 and 3999 of 1/1000: against its weight each of them is nothing in seven bits, and together
    they are four fifths of the result."""
    q, k, v = np.ones((1, 4), np.float32), np.zeros((4000, 4), np.float32), np.ones((4000, 4), np.float32)
    k[0], v[0] = 2 * np.log(1000) / 4, -1
    got = same_on_all_paths(q, k, v, 1, 1)
    wide = exact.attention(q.astype(np.float64), k.astype(np.float64), v.astype(np.float64), 1, 1)
    assert np.abs(wide - 0.6).max() < 0.01
    np.testing.assert_allclose(got, wide, atol=0.02)


def test_the_same_bits_on_any_number_of_threads_and_with_other_units(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (*inputs((2, 3, 700, 200, 24, 24)), 2, 3)
    results = {call_i8.attention(*kernels(PATHS[0]), *arguments, threads=n).tobytes() for n in (1, 2, 3, 5)}
    assert descriptor_i8.Shape(2, 3, 700, 200, 24, 24).block_queries > WIDEST
    monkeypatch.setattr(descriptor, "QUERY_CACHE", 1)
    assert descriptor_i8.Shape(2, 3, 700, 200, 24, 24).block_queries == WIDEST
    results |= {call_i8.attention(*kernels(path), *arguments, threads=3).tobytes() for path in PATHS}
    assert len(results) == 1


@pytest.mark.parametrize("shape", SHAPES[:12])
def test_rows_apart_at_any_address_and_nothing_else_written(shape: tuple[int, ...]) -> None:
    """Views of q, k and v in one matrix, one byte off alignment; the result in the columns of another."""
    images, heads = shape[:2]
    q, k, v = inputs(shape)

    def inside(array: Any, extra: int) -> tuple[Any, Any]:
        rows, columns = array.shape
        room = np.full(4 * rows * (columns + extra) + 256, 0xA5, np.uint8)
        view = room[129:-127].view(np.float32).reshape(rows, columns + extra)[:, 2 : 2 + columns]
        view[:] = array
        return view, room

    expected = call_i8.attention(*kernels(PATHS[0]), q, k, v, images, heads, threads=1)
    views = [inside(array, extra)[0] for array, extra in ((q, 5), (k, 3), (v, 9))]
    for path in PATHS:
        out, room = inside(np.zeros_like(expected), 7)
        before = room.copy()
        call_i8.attention(*kernels(path), *views, images, heads, output=out, threads=2)
        np.testing.assert_array_equal(out, expected)
        out[:] = 0
        np.testing.assert_array_equal(room, before)


def test_the_workspace_is_as_large_as_it_says_and_needs_no_preparation() -> None:
    """Filled with 0xFF, which as floats is NaN, at an odd address; nothing around it changes."""
    for shape in SHAPES:
        q, k, v = inputs(shape)
        sizes = descriptor_i8.Shape(*shape)
        expected = call_i8.attention(*kernels(PATHS[0]), q, k, v, *shape[:2], threads=1)
        whole = shape[0] * shape[1] * sizes.prepared[descriptor_i8.PREPARED_BYTES]
        for path in PATHS:
            space = np.full(descriptor_i8.workspace_bytes(sizes, 1) + 256, 0xFF, np.uint8)
            out = np.zeros_like(expected)
            fields = descriptor_i8.attention_fields(
                sizes,
                q=q,
                k=k,
                v=v,
                output=out,
                strides=descriptor.Strides(*(array.strides[0] for array in (q, k, v, out))),
                prepared=space.ctypes.data + 127,
                scratch=space.ctypes.data + 127 + whole,
            )
            for kernel in kernels(path):
                pool.run(kernel, filled(descriptor_i8.WORDS, fields), threads=1)
            np.testing.assert_array_equal(out, expected)
            assert (space[:127] == 0xFF).all()
            assert (space[-129:] == 0xFF).all()


def test_the_workspace_grows_with_tokens_and_not_with_their_square() -> None:
    def space(tokens: int) -> int:
        return descriptor_i8.workspace_bytes(descriptor_i8.Shape(1, 8, tokens, tokens, 48, 48), 2)

    assert space(12288) - space(3072) == 8 * 2 * 48 * (12288 - 3072)  # a byte a channel, of keys and of values
    assert space(3072) < 2 * 8 * 3072 * 48 + 500_000


@pytest.mark.parametrize("size", [1e-4, 1e4, -1e4, 1e30])
def test_extreme_scores(size: float) -> None:
    """Far apart, softmax is the value of the best key; a later block may bring it. All alike, it is the mean."""
    q, k, v = np.ones((1, 4), np.float32), np.zeros((3 * BLOCK, 4), np.float32), numbers(3, 3 * BLOCK, 4)
    for best in (0, BLOCK - 1, BLOCK, 3 * BLOCK - 1):
        k[:] = -abs(size)
        k[best] = size
        got = same_on_all_paths(q, k, v, 1, 1)
        wanted = v[best : best + 1] if size > 1 else v.mean(axis=0, keepdims=True, dtype=np.float64)
        np.testing.assert_allclose(got, wanted, atol=0.01 * np.abs(v).max())


def test_integers_at_their_bounds() -> None:
    """Keys of 0 and 127, queries and values of -63 and 63, weights of 127: the largest sums of four products."""
    q, k, v = (np.sign(x) for x in inputs((1, 1, 35, 2 * BLOCK + 10, 80, 80)))
    q[0], q[1], k[3], k[4], v[:8] = 1, -1, 1, -1, 1
    close(same_on_all_paths(q, k, v, 1, 1), ref.attention(q, k, v, 1, 1), v)
    flat = same_on_all_paths(np.zeros_like(q), k, v, 1, 1)  # all weights are 127
    np.testing.assert_allclose(flat, np.repeat(v.mean(0, keepdims=True), 35, 0), atol=1e-6)


def test_what_does_not_vary() -> None:
    """Keys all alike: the mean of the values. Values all alike: themselves, to the bit. No queries: no scores."""
    q, k, v = inputs((1, 1, 5, 50, 8, 8))
    alike = same_on_all_paths(q, np.full_like(k, 3), v, 1, 1)
    np.testing.assert_allclose(alike, np.repeat(v.mean(0, keepdims=True), 5, 0), atol=0.01)
    np.testing.assert_array_equal(same_on_all_paths(np.zeros_like(q), k, v, 1, 1), alike)
    assert (same_on_all_paths(q, k, np.full_like(v, -7.3), 1, 1) == np.float32(-7.3)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["q", "k", "v"])
def test_nan_and_infinity_as_in_the_specification(bad: float, where: str) -> None:
    """A query's row, all of a key's head, a value's channel; nothing else."""
    q, k, v = inputs((1, 2, 70, 130, 12, 12))
    clean = same_on_all_paths(q, k, v, 1, 2)
    {"q": q, "k": k, "v": v}[where][66, 5] = bad
    reached = np.zeros_like(clean, bool)
    reached[{"q": (66, slice(12)), "k": (slice(None), slice(12)), "v": (slice(None), 5)}[where]] = True
    np.testing.assert_array_equal(np.isnan(ref.attention(q, k, v, 1, 2)), reached)
    for path in PATHS:
        got = call_i8.attention(*kernels(path), q, k, v, 1, 2, threads=1)
        np.testing.assert_array_equal(np.isnan(got), reached)
        np.testing.assert_array_equal(got[~reached], clean[~reached])


def test_not_a_byte_beyond_the_buffers() -> None:
    """The checked kernels on edge shapes; then with values that are one row short. Every second path: compiling takes
    eight seconds each, and neighbours share a source."""
    for path in PATHS[::2]:
        for shape in SHAPES[:12]:
            arguments = (*inputs(shape), *shape[:2])
            got = call_i8.attention(*kernels(path, is_checked=True), *arguments, threads=2)
            np.testing.assert_array_equal(got, call_i8.attention(*kernels(path), *arguments, threads=2))
        q, k, v = inputs((1, 1, 20, 30, 8, 8))
        with pytest.raises(checked.CheckedAccessError, match="tried to load"):
            call_i8.attention(*kernels(path, is_checked=True), q, k, v[1:].copy(), 1, 1, threads=1)


def test_cancelled_before_it_began() -> None:
    q, k, v = inputs((1, 2, 64, 64, 8, 8))
    out = np.zeros_like(q)
    call_i8.attention(*kernels(PATHS[0]), q, k, v, 1, 2, output=out, threads=2, cancel=np.ones(1, np.int32))
    assert not out.any()
    call_i8.attention(*kernels(PATHS[0]), q, k, v, 1, 2, output=out)
    assert out.all()


def test_cancelled_inside_a_unit_of_work() -> None:
    """One unit of many keys: cancelled during it, its rows stay as they were."""
    q, k = numbers(1, 64, 8), numbers(2, 400_000, 8)
    assert descriptor_i8.Shape(1, 1, 64, len(k), 8, 8).block_queries >= len(q)
    out, cancel = np.zeros_like(q), np.zeros(1, np.int32)
    prepare, kernel = kernels(PATHS[0])
    seen = threading.Event()

    def attention(*given: int) -> None:
        seen.set()
        kernel(*given)

    def stop() -> None:
        seen.wait()
        time.sleep(0.001)
        cancel[0] = 1

    for _ in range(50):  # the thread may be late once, not always
        cancel[0] = 0
        out[:] = 0
        seen.clear()
        stopper = threading.Thread(target=stop)
        stopper.start()
        call_i8.attention(prepare, attention, q, k, k, 1, 1, output=out, threads=1, cancel=cancel)
        stopper.join()
        if not out.any():
            return
    raise AssertionError("a cancelled unit was finished each time")
