"""Attention in float32 against `ref/`: edge shapes, lengths, causal, strides, any threads, every path here."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from kernel_builds import PATHS, library

from tinydiff_kernels import checked, dispatch
from tinydiff_kernels.attention import call, descriptor
from tinydiff_kernels.ref import attention as ref
from tinydiff_kernels.words import filled

BLOCK, WIDEST = descriptor.KEY_BLOCK, descriptor.WIDEST
SHAPES = [  # images, heads, queries, keys, width, value width
    (1, 1, 1, 1, 1, 1),
    (1, 2, 0, 3, 4, 4),
    (2, 1, 2, 1, 8, 8),
    (1, 3, 5, 7, 3, 5),
    (1, 2, 15, 5, 8, 6),
    (1, 2, 16, 6, 8, 7),
    (2, 2, 17, 7, 40, 40),
    (1, 1, WIDEST - 1, BLOCK - 1, 33, 33),
    (1, 1, WIDEST, BLOCK, 33, 32),
    (1, 2, WIDEST + 1, BLOCK + 1, 13, 16),
    (2, 2, 131, 211, 40, 40),
    (1, 1, 257, 2 * BLOCK, 64, 64),
    (2, 2, 64, 77, 80, 80),
    (1, 2, 64, 154, 160, 160),
    (1, 1, 67, 101, 512, 512),
]


pytestmark = pytest.mark.usefixtures("own_cache")


def kernel(path: str, is_checked: bool = False) -> Any:
    """As users get it for the best path of this CPU, compiled ahead of time for the others."""
    if path == PATHS[0] and not is_checked:
        return dispatch.kernel("attention_f32")
    return library(("attention_f32",), path, is_checked)["attention_f32"]


def numbers(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def inputs(shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    images, heads, queries, keys, width, value_width = shape
    return (
        numbers(1, images * queries, heads * width),
        numbers(2, images * keys, heads * width),
        numbers(3, images * keys, heads * value_width),
    )


def wide(q: Any, k: Any, v: Any, *arguments: Any, **options: Any) -> Any:
    """The specification in float64."""
    return ref.attention(q.astype(np.float64), k.astype(np.float64), v.astype(np.float64), *arguments, **options)


def same_on_all_paths(*arguments: Any, threads: int = 2, **options: Any) -> Any:
    results = [call.attention(kernel(path), *arguments, threads=threads, **options) for path in PATHS]
    assert len({result.tobytes() for result in results}) == 1
    return results[0]


def close(got: Any, expected: Any) -> None:
    """Rounding of scores (chains as long as a head is wide), of 2**x and of sums."""
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: tuple[int, ...]) -> None:
    close(same_on_all_paths(*inputs(shape), *shape[:2]), wide(*inputs(shape), *shape[:2]))


@pytest.mark.parametrize("lengths", [(1, 1), (77, 154), (BLOCK, BLOCK + 1), (154, 3)])
def test_lengths(lengths: tuple[int, int]) -> None:
    """What lies behind an image's length is never looked at."""
    q, k, v = inputs((2, 2, 40, 154, 20, 20))
    for image, length in enumerate(lengths):
        k[154 * image + length : 154 * (image + 1)] = np.nan
        v[154 * image + length : 154 * (image + 1)] = np.nan
    seen = np.array(lengths)
    close(same_on_all_paths(q, k, v, 2, 2, lengths=seen), wide(q, k, v, 2, 2, lengths=seen))


@pytest.mark.parametrize("tokens", [1, 6, 16, 77, BLOCK, BLOCK + 1, 263])
def test_causal(tokens: int) -> None:
    q, k, v = inputs((2, 3, tokens, tokens, 16, 16))
    close(same_on_all_paths(q, k, v, 2, 3, causal=True), wide(q, k, v, 2, 3, True))
    seen = np.array([max(1, tokens // 2), tokens])
    options: dict[str, Any] = {"causal": True, "lengths": seen}
    close(same_on_all_paths(q, k, v, 2, 3, **options), wide(q, k, v, 2, 3, **options))


def test_causal_hides_a_future_of_any_size() -> None:
    """Keys after a query change nothing, though their scores are the largest, infinite or no numbers."""
    q, k, v = inputs((1, 1, 150, 150, 8, 8))
    expected = same_on_all_paths(q, k, v, 1, 1, causal=True)
    for big in (1e6, np.inf, np.nan):
        k[100:] = big
        np.testing.assert_array_equal(same_on_all_paths(q, k, v, 1, 1, causal=True)[:100], expected[:100])


def test_the_same_bits_on_any_number_of_threads_and_with_other_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (*inputs((2, 3, 700, 200, 24, 24)), 2, 3)
    results = {call.attention(kernel(PATHS[0]), *arguments, threads=n).tobytes() for n in (1, 2, 3, 5)}
    assert descriptor.Shape(2, 3, 700, 200, 24, 24).block_queries > WIDEST
    monkeypatch.setattr(descriptor, "QUERY_CACHE", 1)
    assert descriptor.Shape(2, 3, 700, 200, 24, 24).block_queries == WIDEST
    results |= {call.attention(kernel(path), *arguments, threads=3).tobytes() for path in PATHS}
    assert len(results) == 1


@pytest.mark.parametrize("shape", SHAPES)
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

    expected = call.attention(kernel(PATHS[0]), q, k, v, images, heads, threads=1)
    views = [inside(array, extra)[0] for array, extra in ((q, 5), (k, 3), (v, 9))]
    for path in PATHS:
        out, room = inside(np.zeros_like(expected), 7)
        before = room.copy()
        call.attention(kernel(path), *views, images, heads, output=out, threads=2)
        np.testing.assert_array_equal(out, expected)
        out[:] = 0
        np.testing.assert_array_equal(room, before)


def test_the_workspace_is_as_large_as_it_says_and_needs_no_preparation() -> None:
    for shape in SHAPES:
        q, k, v = inputs(shape)
        sizes = descriptor.Shape(*shape)
        expected = call.attention(kernel(PATHS[0]), q, k, v, *shape[:2], threads=1)
        for path in PATHS:
            space = np.full(descriptor.workspace_bytes(sizes, 1) + 256, 0xFF, np.uint8)  # floats: NaN
            out = np.zeros_like(expected)
            fields = descriptor.attention_fields(
                sizes,
                q=q.ctypes.data,
                k=k.ctypes.data,
                v=v.ctypes.data,
                output=out.ctypes.data,
                strides=descriptor.Strides(*(array.strides[0] for array in (q, k, v, out))),
                workspace=space.ctypes.data + 128,
            )
            with checked.buffers(q, k, v, writable=(out, space)):
                call.pool.run(kernel(path), filled(descriptor.WORDS, fields), threads=1)
            np.testing.assert_array_equal(out, expected)
            assert (space[:128] == 0xFF).all()
            assert (space[-128:] == 0xFF).all()


def test_the_workspace_does_not_grow_with_tokens() -> None:
    def space(tokens: int) -> int:
        return descriptor.workspace_bytes(descriptor.Shape(1, 8, tokens, tokens, 40, 40), 2)

    assert space(16384) == space(4096) < 400_000


def test_another_scale() -> None:
    q, k, v = inputs((1, 1, 20, 30, 16, 16))
    out = np.empty_like(q)
    sizes = descriptor.Shape(1, 1, 20, 30, 16, 16)
    space = np.empty(descriptor.workspace_bytes(sizes, 1), np.uint8)
    fields = descriptor.attention_fields(
        sizes,
        q=q.ctypes.data,
        k=k.ctypes.data,
        v=v.ctypes.data,
        output=out.ctypes.data,
        strides=descriptor.Strides(64, 64, 64, 64),
        workspace=space.ctypes.data,
        scale=0.5,
    )
    with checked.buffers(q, k, v, writable=(out, space)):
        call.pool.run(kernel(PATHS[0]), filled(descriptor.WORDS, fields), threads=1)
    close(out, wide(q * 2, k, v, 1, 1))


@pytest.mark.parametrize("size", [1e4, -1e4, 1e30])
def test_extreme_scores(size: float) -> None:
    """Far apart, softmax is the value of the best key; a later block may bring it."""
    q, k, v = np.ones((1, 4), np.float32), np.zeros((3 * BLOCK, 4), np.float32), numbers(3, 3 * BLOCK, 4)
    for best in (0, BLOCK - 1, BLOCK, 3 * BLOCK - 1):
        k[:] = -abs(size)
        k[best] = size
        got = same_on_all_paths(q, k, v, 1, 1)
        close(got, v[best : best + 1] if size > 0 else v.mean(axis=0, keepdims=True, dtype=np.float64))


def test_scores_of_minus_infinity_weigh_nothing() -> None:
    """The first block is all -infinity: no NaN comes of it. All scores -infinity: NaN, as in the specification."""
    q, k, v = np.ones((1, 2), np.float32), np.zeros((BLOCK + 2, 2), np.float32), numbers(3, BLOCK + 2, 2)
    k[:BLOCK] = -np.inf
    close(same_on_all_paths(q, k, v, 1, 1), v[BLOCK:].mean(axis=0, keepdims=True))
    k[:] = -np.inf
    got = [call.attention(kernel(path), q, k, v, 1, 1, threads=1) for path in PATHS]
    assert np.isnan(got).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["q", "k", "v"])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_nan_and_infinity_as_in_the_specification(bad: float, where: str) -> None:
    q, k, v = inputs((1, 2, 70, 130, 12, 12))
    {"q": q, "k": k, "v": v}[where][66, 5] = bad
    expected = wide(q, k, v, 1, 2)
    for path in PATHS:
        got = call.attention(kernel(path), q, k, v, 1, 2, threads=1)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(expected))
        finite = np.isfinite(expected)
        np.testing.assert_allclose(got[finite], expected[finite], rtol=0, atol=3e-6)
        assert finite.sum() < finite.size


def test_not_a_byte_beyond_the_buffers() -> None:
    """The checked kernel on edge shapes, causal too; then with values that are one row short."""
    for path in PATHS:
        for shape in SHAPES:
            arguments = (*inputs(shape), *shape[:2])
            options: dict[str, Any] = {"causal": shape[2] == shape[3], "threads": 2}
            got = call.attention(kernel(path, is_checked=True), *arguments, **options)
            np.testing.assert_array_equal(got, call.attention(kernel(path), *arguments, **options))
        q, k, v = inputs((1, 1, 20, 30, 8, 8))
        with pytest.raises(checked.CheckedAccessError, match="tried to load"):
            call.attention(kernel(path, is_checked=True), q, k, v[1:], 1, 1, threads=1)


def test_cancelled_before_it_began() -> None:
    q, k, v = inputs((1, 2, 64, 64, 8, 8))
    out = np.zeros_like(q)
    call.attention(kernel(PATHS[0]), q, k, v, 1, 2, output=out, threads=2, cancel=np.ones(1, np.int32))
    assert not out.any()
    call.attention(kernel(PATHS[0]), q, k, v, 1, 2, output=out)
    assert out.all()


def test_cancelled_inside_a_unit_of_work() -> None:
    """One unit of many keys: cancelled during it, its rows stay as they were."""
    q, k = numbers(1, 1, 8), numbers(2, 400_000, 8)
    assert descriptor.Shape(1, 1, 1, len(k), 8, 8).block_queries >= len(q)
    out, cancel = np.zeros_like(q), np.zeros(1, np.int32)
    compiled = kernel(PATHS[0])
    compiled_before = call.attention(compiled, q, k[:8], k[:8], 1, 1, threads=1)
    assert compiled_before.all()

    def stop() -> None:
        time.sleep(0.001)
        cancel[0] = 1

    for _ in range(50):  # the thread may be late once, not always
        cancel[0] = 0
        out[:] = 0
        stopper = threading.Thread(target=stop)
        stopper.start()
        call.attention(compiled, q, k, k, 1, 1, output=out, threads=1, cancel=cancel)
        stopper.join()
        if not out.any():
            return
    raise AssertionError("a cancelled unit was finished each time")
