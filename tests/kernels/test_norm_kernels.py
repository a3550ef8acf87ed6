"""Group norm by kernels against `ref/`: edge shapes, two sources, borders, strips, u8 in both signs, every path."""

from __future__ import annotations

from typing import Any

import norm_calls
import numpy as np
import pytest
from kernel_arrays import Framed
from kernel_builds import PATHS, library
from norm_calls import NAMES, numbers

from tinydiff_kernels import checked, pool, words
from tinydiff_kernels.call import run
from tinydiff_kernels.norm import call, group
from tinydiff_kernels.ref import activation as ref_activation
from tinydiff_kernels.ref import norm as ref_norm
from tinydiff_kernels.ref import quantise
from tinydiff_kernels.rows import Grid
from tinydiff_kernels.sources import Source, slots

TILE, CHUNK = group.TILE_ROWS, group.CHUNK
GRIDS = [Grid(0, 1, 1), Grid(1, 1, 1), Grid(3, 1, TILE - 1), Grid(2, 1, TILE), Grid(1, 3, 43), Grid(1, 7, 61)]
CHANNELS = [(1, 1), (3, 3), (15, 1), (16, 4), (17, 17), (40, 1), (320, 32), (CHUNK + 8, 13)]  # channels, groups


def kernels(path: str = PATHS[0], is_checked: bool = False) -> call.GroupKernels:
    return norm_calls.group_kernels(library(NAMES, path, is_checked))


def learned(channels: int, groups: int, eps: float = 1e-5) -> group.Norm:
    return group.Norm(groups, 1 + numbers(11, channels) / 4, numbers(12, channels), eps)


def exact(x: Any, grid: Grid, norm: group.Norm) -> Any:
    """In float64, before the activation, `[B, H, W, C]`."""
    y = x.astype(np.float64)
    if norm.groups:
        y = ref_norm.group_norm(y, grid, norm.gamma, norm.beta, norm.groups, norm.eps)
        if isinstance(norm.scale_shift, np.ndarray):
            scale, shift = np.split(norm.scale_shift.astype(np.float64)[:, None], 2, axis=2)
            y = y.reshape(grid.batch, grid.pixels, -1) * (1 + scale) + shift
    return y.reshape(*grid, x.shape[1])


def bound(x: Any, grid: Grid, norm: group.Norm, y: Any) -> float:
    """Rounding of x * multiply + add, whose terms may be larger than their sum."""
    if not norm.groups or not x.size:
        return 0.0
    spread = np.sqrt(x.reshape(grid.batch, grid.pixels, norm.groups, -1).var((1, 3)) + norm.eps).min()
    return 5e-7 * (1 + float(np.abs(y).max()) + float(np.abs(x).max() * np.abs(norm.gamma).max() / spread))


def wrapped(y: Any, border: tuple[int, int, int, int], wrap: bool) -> Any:
    top, bottom, left, right = border
    edges = ((0, 0), (top, bottom), (left, right), (0, 0))
    return np.pad(y, edges, mode="wrap" if wrap else "constant")


def check_bytes(out: Any, records: Any, floats: Any, flip: int) -> None:
    """u8 output is `ref/quantise.py` of the float32 output, padding included, which is the zero point."""
    channels = floats.shape[3]
    expected = quantise.quantise(floats, records[:, None, None, None], flip)
    np.testing.assert_array_equal(out[..., :channels], expected)
    padding = (records["zero"] & 0xFF).astype(np.uint8)[:, None, None, None]
    np.testing.assert_array_equal(out[..., channels:], np.broadcast_to(padding, out[..., channels:].shape))


@pytest.mark.parametrize("channels_groups", CHANNELS)
@pytest.mark.parametrize("grid", GRIDS)
def test_group_norm(grid: Grid, channels_groups: tuple[int, int]) -> None:
    channels, groups = channels_groups
    x, norm = numbers(1, grid.rows, channels) * 2 + numbers(2, channels), learned(channels, groups)
    y = exact(x, grid, norm)
    results = set()
    for path in PATHS:
        out = Framed((grid.batch, grid.height, grid.width, channels), np.float32, gap=12)
        call.group_norm(kernels(path), [x], grid, norm, out.array, threads=2)
        np.testing.assert_allclose(out.array, y, rtol=0, atol=bound(x, grid, norm, y))
        assert out.untouched_around()
        results.add(out.array.tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("flip", [0, quantise.FLIP])
@pytest.mark.parametrize("activation", [None, "silu", "gelu", "relu"])
@pytest.mark.parametrize("channels_groups", [(3, 1), (40, 4), (17, 17)])
def test_quantised_with_a_border(channels_groups: tuple[int, int], activation: str | None, flip: int) -> None:
    channels, groups = channels_groups
    grid, border = Grid(3, 5, 66), (1, 2, 3, 1)
    x, norm = numbers(3, grid.rows, channels) * 3 + numbers(4, channels), learned(channels, groups)
    y = exact(x, grid, norm)
    height, width, padded = 5 + 3, 66 + 4, -(-channels // 8) * 8
    results = set()
    for path in PATHS:
        floats = Framed((3, height, width, channels), np.float32)
        call.group_norm(kernels(path), [x], grid, norm, floats.array, activation=activation, border=border)
        wanted = wrapped(ref_activation.activate(y, activation), border, False)
        np.testing.assert_allclose(floats.array, wanted, rtol=0, atol=bound(x, grid, norm, y))
        out = Framed((3, height, width, padded), np.uint8, gap=5)
        records = call.group_norm(
            kernels(path), [x], grid, norm, out.array, activation=activation, border=border, flip=flip
        )
        check_bytes(out.array, records, floats.array, flip)
        assert floats.untouched_around()
        assert out.untouched_around()
        low = floats.array.min((1, 2, 3))
        if activation in quantise.DIPS:
            where, depth = quantise.DIPS[activation]
            over = ((y.min((1, 2)) < where - 1e-4) & (y.max((1, 2)) > where + 1e-4)).any(1)
            low = np.where(over, np.float32(depth), low)
        np.testing.assert_array_equal(records, quantise.record(low, floats.array.max((1, 2, 3)), flip))
        results.add((records["scale"].tobytes(), out.array.tobytes(), floats.array.tobytes()))
    assert len(results) == 1


@pytest.mark.parametrize("split", [1, 16, 21, 32, 47])
def test_two_sources_are_their_concatenation(split: int) -> None:
    """The bits too: every channel has its own chain, and groups may span both."""
    grid, channels = Grid(2, 9, 17), 48
    x = numbers(5, grid.rows, channels)
    left, right = Framed((grid.rows, split), np.float32, gap=20), Framed((grid.rows, channels - split), np.float32)
    parts = [left.with_values(x[:, :split]).array, right.with_values(x[:, split:]).array]
    for path in PATHS:
        outs, kept = [], []
        for sources in ([x], parts):
            for kind in (np.float32, np.uint8):
                out = np.zeros((2, 9, 17, channels), kind)
                kept.append(call.group_norm(kernels(path), sources, grid, learned(48, 4), out, activation="silu"))
                outs.append(out)
        np.testing.assert_array_equal(outs[0], outs[2])
        np.testing.assert_array_equal(outs[1], outs[3])
        np.testing.assert_array_equal(kept[1], kept[3])
    assert left.untouched_around()
    assert right.untouched_around()


@pytest.mark.parametrize("border", [(1, 1, 1, 1), (0, 1, 0, 1), (7, 9, 11, 6)])
def test_circular_border_and_strips(border: tuple[int, int, int, int]) -> None:
    """A border that continues on the other side; lines written a strip at a time are the lines of the whole."""
    grid, x = Grid(2, 5, 4), numbers(6, 40, 12)
    top, bottom, left, right = border
    lines, width = 5 + top + bottom, 4 + left + right
    for kind in (np.float32, np.uint8):
        inside = np.zeros((2, 5, 4, 12), kind)
        call.group_norm(kernels(), [x], grid, learned(12, 3), inside)
        for wrap in (True, False):
            whole = np.zeros((2, lines, width, 12), kind)
            records = call.group_norm(kernels(), [x], grid, learned(12, 3), whole, border=border, wrap=wrap)
            zero = np.where(kind is np.uint8, records["zero"], 0)[:, None, None, None]
            bordered = inside if wrap else inside - zero.astype(kind)  # np.pad fills with 0
            wanted = wrapped(bordered, border, wrap)
            np.testing.assert_array_equal(whole, wanted if wrap else wanted + zero.astype(kind))
            for first in range(0, lines, 3):
                count = min(3, lines - first)
                strip = Framed((2, count, width, 12), kind)
                call.group_norm(
                    kernels(), [x], grid, learned(12, 3), strip.array, border=border, wrap=wrap, lines=(first, count)
                )
                np.testing.assert_array_equal(strip.array, whole[:, first : first + count])
                assert strip.untouched_around()


def test_scale_and_shift() -> None:
    grid, channels = Grid(3, 4, 5), 24
    x, modulation = numbers(7, grid.rows, channels), numbers(8, 3, 2 * channels + 3)[:, : 2 * channels]
    plain = learned(channels, 6)
    norm = group.Norm(6, plain.gamma, plain.beta, plain.eps, modulation, modulation.strides[0])
    y = exact(x, grid, norm)
    for path in PATHS:
        out = np.zeros((3, 4, 5, channels), np.float32)
        call.group_norm(kernels(path), [x], grid, norm, out)
        np.testing.assert_allclose(out, y, rtol=0, atol=4 * bound(x, grid, norm, y))


@pytest.mark.parametrize("flip", [0, quantise.FLIP])
@pytest.mark.parametrize("channels", [1, 4, 16, 33])
def test_a_raw_image_is_copied_and_quantised(channels: int, flip: int) -> None:
    """Without a norm; float32 keeps every bit, -0 among them."""
    grid, x = Grid(2, 6, 7), numbers(9, 84, channels) * 100
    x[3] = -0.0
    out, copy = np.zeros((2, 6, 7, -(-channels // 8) * 8), np.uint8), np.ones((2, 6, 7, channels), np.float32)
    for path in PATHS:
        call.group_norm(kernels(path), [x], grid, group.Norm(), copy)
        assert copy.tobytes() == x.tobytes()
        records = call.group_norm(kernels(path), [x], grid, group.Norm(), out, flip=flip)
        np.testing.assert_array_equal(records, quantise.record(copy.min((1, 2, 3)), copy.max((1, 2, 3)), flip))
        check_bytes(out, records, copy, flip)


def test_border_alone_needs_no_statistics() -> None:
    x, out = numbers(10, 35, 20), np.ones((1, 7, 9, 20), np.float32)
    told = group.apply_fields(
        [Source.of(x)], (1, 5, 7), 0, 0, out, 80, np.zeros(group.scratch_bytes([Source.of(x)]), np.uint8),
        border=(1, 1, 1, 1),
    )  # fmt: skip
    run(kernels().apply, group.APPLY_WORDS, told, [out], threads=1)
    np.testing.assert_array_equal(out, wrapped(x.reshape(1, 5, 7, 20), (1, 1, 1, 1), False))


def test_the_same_bits_on_every_path_and_sign_and_any_number_of_threads() -> None:
    wanted = [r.tobytes() for r in norm_calls.results(library(NAMES, PATHS[0]), 0)]
    for path in PATHS:
        for flip in (0, quantise.FLIP):
            assert [r.tobytes() for r in norm_calls.results(library(NAMES, path), flip)] == wanted
    grid, x = Grid(2, 20, 20), numbers(11, 800, 48)
    results = set()
    for threads in (1, 2, 3, 5):
        out = np.zeros((2, 22, 22, 48), np.uint8)
        call.group_norm(kernels(), [x], grid, learned(48, 4), out, border=(1, 1, 1, 1), threads=threads)
        results.add(out.tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("offset", [1e3, -1e4])
def test_a_large_mean_keeps_the_variance(offset: float) -> None:
    grid = Grid(1, 64, 64)
    x, norm = numbers(12, 4096, 8) + np.float32(offset), group.Norm(1, np.ones(8, np.float32), np.zeros(8, np.float32))
    out = np.zeros((1, 64, 64, 8), np.float32)
    call.group_norm(kernels(), [x], grid, norm, out)
    wanted = exact(x, grid, norm)
    np.testing.assert_allclose(out, wanted, rtol=0, atol=2e-7 * abs(offset))
    assert abs(float(out.std(dtype=np.float64)) - 1) < 1e-5


@pytest.mark.parametrize("value", [0.0, 7.25, -3e30])
def test_constant_input_gives_the_bias(value: float) -> None:
    x, norm = np.full((130, 16), value, np.float32), learned(16, 4, 1e-5)
    out = np.zeros((1, 10, 13, 16), np.float32)
    call.group_norm(kernels(), [x], Grid(1, 10, 13), norm, out)
    np.testing.assert_allclose(out, np.broadcast_to(norm.beta, out.shape), rtol=0, atol=abs(value) * 1e-4 + 1e-6)


def test_zeros_have_scale_one() -> None:
    zeros = np.zeros(16, np.float32)
    out = np.ones((1, 2, 3, 16), np.uint8)
    records = call.group_norm(kernels(), [numbers(1, 6, 16)], Grid(1, 2, 3), group.Norm(4, zeros, zeros, 1e-5), out)
    assert (records["scale"][0], records["zero"][0]) == (1, 0)
    assert not out.any()


def test_numbers_of_any_size_are_quantised() -> None:
    grid, x = Grid(1, 3, 50), numbers(13, 150, 24) * np.float32(1e30)
    out = np.zeros((1, 3, 50, 24), np.uint8)
    records = call.group_norm(kernels(), [x], grid, group.Norm(), out)
    np.testing.assert_array_equal(records, quantise.record(x.min(), x.max())[None])
    check_bytes(out, records, x.reshape(out.shape), 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e20])
@pytest.mark.parametrize("row", [0, 7, 130])
def test_what_is_not_finite_poisons_its_group_and_image(bad: float, row: int) -> None:
    """NaN for the group in float32, scale NaN for the image in u8; 1e20 squared is not finite either."""
    grid, x = Grid(2, 1, 131), numbers(14, 262, 24)
    x[row, 10] = bad
    for path in PATHS:
        out, q = np.zeros((2, 1, 131, 24), np.float32), np.ones((2, 1, 131, 24), np.uint8)
        call.group_norm(kernels(path), [x], grid, learned(24, 3), out, activation="silu")
        assert np.isnan(out[0, ..., 8:16]).all()
        assert np.isfinite(np.delete(out[0], np.s_[8:16], axis=2)).all()
        assert np.isfinite(out[1]).all()
        records = call.group_norm(kernels(path), [x], grid, learned(24, 3), q, activation="silu")
        assert np.isnan(records["scale"][0])
        assert np.isfinite(records["scale"][1])
        if bad != 1e20:
            records = call.group_norm(kernels(path), [x], grid, group.Norm(), q)
            assert np.isnan(records["scale"][0])
            assert not q[0].any()
            assert np.isfinite(records["scale"][1])


def test_not_a_byte_beyond_the_buffers() -> None:
    """Checked kernels on odd shapes give the same bits; a source that is a row short is noticed."""
    wanted = [r.tobytes() for r in norm_calls.results(library(NAMES, PATHS[0]), 0)]
    assert [r.tobytes() for r in norm_calls.results(library(NAMES, PATHS[0], True), 0)] == wanted
    x, out = numbers(1, 29, 20), np.zeros((1, 5, 6, 20), np.float32)
    with pytest.raises(checked.CheckedAccessError, match="tried to load"):
        call.group_norm(kernels(is_checked=True), [x], Grid(1, 5, 6), learned(20, 2), out, threads=1)


def test_cancelled_before_it_began() -> None:
    x = numbers(1, 300, 16)
    sources = [Source.of(x)]
    stats, multiply = np.zeros(group.stats_bytes(1, 300, slots(sources)), np.uint8), np.zeros((1, 16), np.float32)
    add, out, scratch = multiply.copy(), np.zeros((300, 16), np.float32), np.zeros(64, np.uint8)
    told = (
        words.filled(group.STATS_WORDS, group.stats_fields(sources, 1, 300, stats)),
        words.filled(group.FOLD_WORDS, group.fold_fields(sources, 1, 300, stats, group.Norm(), multiply, add)),
        words.filled(group.APPLY_WORDS, group.apply_fields(sources, (1, 3, 100), 0, 0, out, 64, scratch)),
    )
    found = kernels()
    for kernel, desc, written in zip((found.stats, found.fold, found.apply), told, (stats, multiply, out), strict=True):
        cancelled = np.ones(1, np.int32)
        pool.run(kernel, desc, threads=1, cancel=cancelled)
        assert not written.any()
        pool.run(kernel, desc, threads=1)
        assert written.any()
