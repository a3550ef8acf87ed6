"""The elementwise kernel against NumPy and `ref/`: every mode, edge shapes, strides, in place, every path."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from kernel_arrays import Framed
from kernel_builds import PATHS, library
from norm_calls import NAMES, numbers

from tinydiff_kernels import checked, pool, words
from tinydiff_kernels.call import run
from tinydiff_kernels.elementwise import descriptor as d
from tinydiff_kernels.matmul.descriptor import ACTIVATIONS
from tinydiff_kernels.ref import activation as ref_activation
from tinydiff_kernels.ref import embedding
from tinydiff_kernels.ref import sixteen as ref_sixteen

SHAPES = [(0, 4), (1, 1), (3, 15), (2, 16), (5, 17), (64, 320), (3, d.UNIT + 1), (d.UNIT + 3, 1)]


def kernel(path: str = PATHS[0], is_checked: bool = False) -> Any:
    return library(NAMES, path, is_checked)["elementwise"]


def framed(values: Any, gap: int = 8) -> Framed:
    return Framed(values.shape, values.dtype, gap).with_values(values)


def same_everywhere(told: Any, out: Framed) -> Any:
    """Run on every path, on one and three threads; the result."""
    results = set()
    for path, threads in itertools.product(PATHS, (1, 3)):
        run(kernel(path), d.WORDS, told, [out.array], threads=threads)
        assert out.untouched_around()
        results.add(out.array.tobytes())
    assert len(results) == 1
    return out.array


@pytest.mark.parametrize("shape", SHAPES)
def test_add(shape: tuple[int, int]) -> None:
    x, y, out = framed(numbers(1, *shape)).array, framed(numbers(2, *shape), 0).array, Framed(shape, np.float32, 4)
    told = d.add_fields(
        shape, x, x.strides[0], y, y.strides[0], out.array, out.array.strides[0], scale=0.3, activation="silu"
    )
    wide = x.astype(np.float64) + np.float64(np.float32(0.3)) * y
    np.testing.assert_allclose(same_everywhere(told, out), ref_activation.silu(wide), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("shape", SHAPES)
def test_affine_and_activation(shape: tuple[int, int], activation: str | None) -> None:
    x, out = framed(numbers(3, *shape) * 3).array, Framed(shape, np.float32, 4)
    told = d.linear_fields(
        shape, x, x.strides[0], out.array, out.array.strides[0], scale=0.5, shift=-0.25, activation=activation
    )
    wide = ref_activation.activate(x.astype(np.float64) * 0.5 - 0.25, activation)
    np.testing.assert_allclose(same_everywhere(told, out), wide, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_nan_stays(activation: str | None) -> None:
    x, out = np.linspace(-5, 5, 37, dtype=np.float32)[None], Framed((1, 37), np.float32)
    x[0, [3, 36]] = np.nan
    got = same_everywhere(d.linear_fields((1, 37), x, 148, out.array, 148, activation=activation), out)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))


def test_copies_keep_every_bit_and_make_a_concatenation() -> None:
    x, y = numbers(4, 9, 21), numbers(5, 9, 40)
    x[2, 3], x[4, 5], y[1, 1], y[0, 0] = -0.0, 1e-42, np.inf, -3e38
    out = Framed((9, 61), np.float32, 12)
    for part, start in ((x, 0), (y, 21)):
        place = out.array[:, start : start + part.shape[1]]
        told = d.linear_fields(part.shape, part, part.strides[0], place, place.strides[0])
        for path in PATHS:
            run(kernel(path), d.WORDS, told, [place], threads=2)
    assert out.array.tobytes() == np.concatenate([x, y], 1).tobytes()
    assert out.untouched_around()


def test_in_place() -> None:
    x, y = numbers(6, 30, 50), numbers(7, 30, 50)
    wanted = ref_activation.silu(x + y)
    run(kernel(), d.WORDS, d.add_fields(x.shape, x, 200, y, 200, x, 200, activation="silu"), [x], threads=2)
    np.testing.assert_allclose(x, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cosines_first", [True, False])
@pytest.mark.parametrize(("dim", "shift"), [(1, 0.0), (2, 0.0), (9, 1.0), (32, 1.0), (33, 0.0), (320, 0.0), (256, 1.0)])
def test_sinusoids(dim: int, shift: float, cosines_first: bool) -> None:
    """Every timestep from 0 to 1000 and some between, to 2e-6 of the same angles in float64."""
    steps = np.append(np.arange(1001), [0.5, 999.999, 3.25e-3]).astype(np.float32)
    out = Framed((len(steps), dim), np.float32, 8)
    table = d.frequencies(dim, shift)
    told = d.sinusoids_fields(
        len(steps), dim, steps, table, out.array, out.array.strides[0], cosines_first=cosines_first
    )
    got = same_everywhere(told, out)
    angles = (steps[:, None] * table).astype(np.float64)
    sides = (np.cos(angles), np.sin(angles)) if cosines_first else (np.sin(angles), np.cos(angles))
    np.testing.assert_allclose(got[:, : 2 * len(table)], np.concatenate(sides, 1), rtol=0, atol=2e-7)
    wanted = embedding.timestep_embedding(steps[:, None], dim, cosines_first, shift)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("dim", "shift"), [(320, 0.0), (256, 1.0), (32, 1.0), (1280, 0.0)])
def test_frequencies_are_the_references(dim: int, shift: float) -> None:
    wanted = np.exp(embedding.exponents(dim, shift).astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(d.frequencies(dim, shift), wanted)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (7, 51), (16, 48)])
def test_pixels(shape: tuple[int, int]) -> None:
    """To the byte what the decoder's numbers become in NumPy; NaN is 0."""
    x = numbers(8, *shape)
    levels = ((np.arange(x.size, dtype=np.float32) % 256) / 255 * 2 - 1).reshape(shape)
    for values in (x, levels, x * 1e30):
        out = Framed(shape, np.uint8, 5)
        told = d.pixels_fields(shape, values, values.strides[0], out.array, out.array.strides[0])
        clipped = np.clip(values * np.float32(0.5) + np.float32(0.5), 0, 1)
        wanted = (clipped * np.float32(255)).round().astype(np.uint8)
        np.testing.assert_array_equal(same_everywhere(told, out), wanted)
    bad, out = np.array([[np.nan, np.inf, -np.inf]], np.float32), Framed((1, 3), np.uint8)
    np.testing.assert_array_equal(same_everywhere(d.pixels_fields((1, 3), bad, 12, out.array, 3), out), [[0, 255, 0]])


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_sixteen_bits_and_back(shape: tuple[int, int]) -> None:
    """To the bit as `ref/sixteen.py`, special rows too; the error is within half a step of each row's largest."""
    x = numbers(12, *shape) * np.exp(numbers(13, shape[0], 1) * 8)
    specials = [0.0, 1e-42, np.nan, np.inf, 3.4e38, -np.inf]
    x[: len(specials), -1] = specials[: len(x)]
    q, scales, back = Framed(shape, np.int16, 3), Framed((shape[0], 1), np.float32, 0), Framed(shape, np.float32, 4)
    told = d.shorten_fields(shape, x, x.strides[0], q.array, q.array.strides[0], scales.array)
    run(kernel(), d.WORDS, told, [q.array, scales.array], threads=2)
    wanted, wanted_scales = ref_sixteen.shorten(x)
    np.testing.assert_array_equal(same_everywhere(told, q), wanted)
    np.testing.assert_array_equal(same_everywhere(told, scales)[:, 0], wanted_scales)
    told = d.widen_fields(shape, q.array, q.array.strides[0], scales.array, back.array, back.array.strides[0])
    widened = same_everywhere(told, back)
    np.testing.assert_array_equal(widened, ref_sixteen.widen(wanted, wanted_scales))
    rows = np.isfinite(x).all(1)
    assert np.isnan(widened[~rows]).all()
    most = np.abs(x[rows]).max(1, keepdims=True).astype(np.float64)
    assert (np.abs(widened[rows] - x[rows].astype(np.float64)) <= most * (1 / 65534 + 2**-22) + 1e-38).all()


@pytest.mark.parametrize("shape", [(3, 1), (4, 35), (40, 7)])
def test_channels_first_to_rows_and_back(shape: tuple[int, int]) -> None:
    channels, pixels = shape
    image, rows = numbers(9, channels, pixels), Framed((pixels, channels), np.float32, 12)
    told = d.strided_fields((pixels, channels), image, image.strides[::-1], rows.array, rows.array.strides)
    np.testing.assert_array_equal(same_everywhere(told, rows), image.T)
    back = Framed((channels, pixels), np.float32, 4)
    told = d.strided_fields((channels, pixels), rows.array, rows.array.strides[::-1], back.array, back.array.strides)
    np.testing.assert_array_equal(same_everywhere(told, back), image)


def test_not_a_byte_beyond_the_buffers() -> None:
    for shape in SHAPES[1:]:
        x, out = numbers(10, *shape), np.zeros(shape, np.float32)
        told = d.add_fields(shape, x, x.strides[0], x, x.strides[0], out, out.strides[0])
        run(kernel(is_checked=True), d.WORDS, told, [out], threads=2)
        np.testing.assert_array_equal(out, x + x)
    with pytest.raises(checked.CheckedAccessError, match="tried to store"):
        run(kernel(is_checked=True), d.WORDS, told, [np.zeros_like(out)], threads=1)


def test_cancelled_before_it_began() -> None:
    x, out = np.ones((30, 16), np.float32), np.zeros((30, 16), np.float32)
    desc = words.filled(d.WORDS, d.linear_fields((30, 16), x, 64, out, 64))
    pool.run(kernel(), desc, threads=2, cancel=np.ones(1, np.int32))
    assert not out.any()
    pool.run(kernel(), desc, threads=2)
    assert out.all()
