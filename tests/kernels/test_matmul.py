"""The indirect matmul against `ref/`: weights in float32, half and int8, edge shapes, every layer, every path here."""

from __future__ import annotations

from typing import Any

import matmul_calls as calls
import numpy as np
import pytest
from kernel_builds import PATHS, library
from matmul_calls import KINDS, numbers

from tinydiff_kernels import checked, dispatch
from tinydiff_kernels.matmul import call, descriptor, geometry, packing
from tinydiff_kernels.ref import activation as ref_activation
from tinydiff_kernels.ref import conv as ref_conv
from tinydiff_kernels.ref import matmul as ref_matmul
from tinydiff_kernels.ref import quantised_weights
from tinydiff_kernels.rows import Grid

EDGES = [  # rows, inputs, outputs: tiles of 6 and 8 rows, panels of 16, steps of 1 and 4 channels
    (0, 3, 5),
    (1, 1, 1),
    (5, 7, 15),
    (6, 8, 16),
    (7, 9, 17),
    (8, 31, 32),
    (9, 33, 33),
    (48, 16, 64),
    (97, 320, 77),
    (301, 5, 129),
]
NAMES = list(KINDS)


pytestmark = pytest.mark.usefixtures("own_cache")


def kernel(name: str, path: str = PATHS[0], is_checked: bool = False) -> Any:
    """All matmul kernels of a path are compiled together."""
    return library(tuple(NAMES), path, is_checked)[name]


def signed(path: str) -> bool:
    return dispatch.BY_NAME[path].signed_bytes


def close(got: Any, expected: Any, depth: int) -> None:
    """Rounding of one chain of `depth` additions, and of the activation."""
    assert got.shape == expected.shape
    bound = 4e-7 * np.sqrt(depth + 16) * (1 + float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


def meant(name: str, weight: Any) -> Any:
    """The weight as its stored form means it, in float64."""
    if name == "matmul_i4":
        return quantised_weights.dequantise_i4(quantised_weights.quantise_i4(weight), weight.shape).astype(np.float64)
    if KINDS[name] in calls.QUANTISED:
        limited = KINDS[name] == "i8_limited"
        return quantised_weights.dequantise_i8(*quantised_weights.quantise_i8(weight, limited=limited)).astype(
            np.float64
        )
    return weight.astype(np.float16 if name == "matmul_f16" else np.float32).astype(np.float64)


def operand(name: str, x: Any, units: Any, path: str) -> tuple[Any, Any, Any]:
    """(what the kernel gets, its records, what it means in float64)."""
    if KINDS[name] not in calls.QUANTISED:
        return x, None, x.astype(np.float64)
    q, records = calls.quantise(x, units, signed=signed(path))
    return q, records, calls.real(q, records, units, x.shape[1], signed=signed(path))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), EDGES)
def test_linear(name: str, rows: int, inputs: int, outputs: int) -> None:
    x, weight, bias = numbers(1, rows, inputs), numbers(2, outputs, inputs), numbers(3, outputs)
    packed, results = calls.pack(KINDS[name], weight), set()
    for path in PATHS:
        given, records, real = operand(name, x, np.arange(rows), path)
        got = calls.linear(kernel(name, path), given, packed, bias, records=records)
        close(got, ref_matmul.linear(real, meant(name, weight), bias), inputs)
        results.add(got.tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", list(descriptor.ACTIVATIONS))
@pytest.mark.parametrize("outputs", [16, 21])
def test_epilogue(name: str, activation: str | None, outputs: int) -> None:
    """A table row for each of two images, a residual, then the activation; whole and partial panels."""
    x, weight, bias = numbers(1, 26, 12), numbers(2, outputs, 12), numbers(3, outputs)
    table, residual, results = numbers(4, 2, outputs), numbers(5, 26, outputs), set()
    for path in PATHS:
        given, records, real = operand(name, x, np.arange(26), path)
        got = calls.linear(
            kernel(name, path), given, calls.pack(KINDS[name], weight), bias, records=records, images=2, table=table,
            residual=residual, activation=activation,
        )  # fmt: skip
        wide = real @ meant(name, weight).T + bias + np.repeat(table, 13, axis=0) + residual
        close(got, ref_activation.activate(wide, activation), 12)
        results.add(got.tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("half", [1, 7, 8, 9, 40])
def test_gated(name: str, half: int) -> None:
    """value * gelu(gate), never written in its wide form."""
    x, weight, bias, results = numbers(1, 19, 12), numbers(2, 2 * half, 12), numbers(3, 2 * half), set()
    for path in PATHS:
        given, records, real = operand(name, x, np.arange(19), path)
        packed = calls.pack(KINDS[name], weight, gated=True)
        got = calls.linear(kernel(name, path), given, packed, bias, records=records)
        close(got, ref_matmul.geglu(real, meant(name, weight), bias), 12)
        results.add(got.tobytes())
    assert len(results) == 1


CONVS = [  # batch, height, width with the border, inputs, outputs, kernel, stride
    (1, 3, 3, 1, 1, 3, 1),
    (2, 7, 9, 3, 18, 3, 1),
    (1, 10, 10, 4, 16, 3, 2),
    (2, 9, 6, 13, 16, 3, 2),
    (1, 4, 4, 33, 40, 1, 1),
    (1, 18, 18, 20, 4, 3, 1),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", CONVS)
def test_convolution(name: str, shape: tuple[int, ...]) -> None:
    batch, height, width, inputs, outputs, size, stride = shape
    grid = Grid(batch, height, width)
    x, weight, bias = numbers(1, grid.rows, inputs), numbers(2, outputs, inputs, size, size), numbers(3, outputs)
    packed, results, images = calls.pack(KINDS[name], weight), set(), np.repeat(np.arange(batch), height * width)
    for path in PATHS:
        given, records, real = operand(name, x, images, path)
        image = given.reshape(*grid, -1)
        expected = ref_conv.conv2d(real, grid, meant(name, weight), bias, stride, (0, 0, 0, 0))
        for threads in (1, 3):
            got = calls.conv(
                kernel(name, path), image, packed, bias, (size, size), stride=stride, records=records, threads=threads
            )
            close(got, expected, inputs * size * size)
            results.add(got.tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (8, 8)])
def test_upsampled_convolution(name: str, height: int, width: int) -> None:
    """Four classes of 2x2 taps with summed weights are nearest-2x and a 3x3 convolution."""
    grid = Grid(2, height, width)
    x, weight, bias, results = numbers(1, grid.rows, 5), numbers(2, 18, 5, 3, 3), numbers(3, 18), set()
    classes = [geometry.upsample_weights(weight, (a, b)) for a in (0, 1) for b in (0, 1)]
    for path in PATHS:
        given, records, real = operand(name, x, np.repeat(np.arange(2), height * width), path)
        image = given.reshape(*grid, -1)
        bordered = np.zeros((2, height + 2, width + 2, image.shape[3]), image.dtype)
        if records is not None:
            bordered[:] = records["zero"].astype(image.dtype)[:, None, None, None]
        bordered[:, 1:-1, 1:-1] = image
        packed = [calls.pack(KINDS[name], c) for c in classes]
        got = calls.upsample(kernel(name, path), bordered, packed, bias, records=records)
        larger, twice = ref_conv.upsample_nearest(real, grid, (2 * height, 2 * width))
        if name == "matmul_f32":
            close(got, ref_conv.conv2d(larger, twice, weight.astype(np.float64), bias), 45)
        else:  # each class is rounded or quantised on its own
            error = got - ref_conv.conv2d(larger, twice, weight.astype(np.float64), bias)
            assert np.sqrt((error**2).mean()) < (0.2 if name == "matmul_i4" else 0.02) * np.sqrt((real**2).mean() * 45)
        results.add(got.tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_on_any_number_of_threads_and_with_other_blocks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, bias = numbers(2, 200, 64), numbers(3, 200)
    given, records, _ = operand(name, numbers(1, 500, 64), np.arange(500), PATHS[0])
    packed, results = calls.pack(KINDS[name], weight), set()
    for height in (96, 24):
        monkeypatch.setattr(call, "BLOCK_ROWS", height)
        monkeypatch.setattr(call, "PANEL_CACHE", 1 if height == 24 else 2**18)
        for threads in (1, 2, 3, 5):
            out = calls.linear(kernel(name), given, packed, bias, records=records, threads=threads)
            results.add(out.tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("name", NAMES)
def test_not_a_byte_beyond_the_buffers(name: str) -> None:
    """The checked kernel on edge shapes, all epilogues on; then with a residual that is one row short."""
    for rows, inputs, outputs in EDGES:
        given, records, _ = operand(name, numbers(1, rows, inputs), np.arange(rows), PATHS[0])
        arguments = (given, calls.pack(KINDS[name], numbers(2, outputs, inputs)), numbers(3, outputs))
        residual = numbers(4, rows, outputs)
        options: dict[str, Any] = {"records": records, "residual": residual, "activation": "gelu"}
        got = calls.linear(kernel(name, is_checked=True), *arguments, **options)
        np.testing.assert_array_equal(got, calls.linear(kernel(name), *arguments, **options))
    with pytest.raises(checked.CheckedAccessError, match="tried to load"):
        calls.linear(
            kernel(name, is_checked=True), *arguments, records=records, residual=residual[1:].copy(), threads=1
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_their_row(bad: float) -> None:
    x, weight = numbers(1, 13, 8), numbers(2, 20, 8)
    x[7, 3] = bad
    got = calls.linear(kernel("matmul_f32"), x, calls.pack("f32", weight), np.zeros(20, np.float32))
    assert not np.isfinite(got[7]).any()
    assert np.isfinite(np.delete(got, 7, axis=0)).all()


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("limited", [False, True])
def test_extreme_integers_are_exact(value: int, limited: bool) -> None:
    """Activations at both ends against the largest weights that packing allows, 2,880 deep."""
    depth, beside = 2880, 1 if limited else 127
    q = np.full((17, depth), value, np.uint8)
    weight = np.tile(np.array([127, 1, -127, -1, 64, 64, -64, -64], np.int8), (33, depth // 8))
    weight[1], weight[2] = np.tile([127, beside], depth // 2), np.tile([-127, -beside], depth // 2)
    scales, records = np.ones(33, np.float32), np.zeros(17, np.dtype([("scale", "<f4"), ("zero", "<i4")]))
    records["scale"], packed = 1, packing.pack_integers(weight, scales, 33, limited=limited)
    exact = (value * weight.astype(np.int64).sum(1)).astype(np.float32)
    for path in PATHS:
        stored, records["zero"] = (q ^ 0x80, -128) if signed(path) else (q, 0)
        name = "matmul_i8_limited" if limited else "matmul_i8"
        got = calls.linear(kernel(name, path), stored, packed, np.zeros(33, np.float32), records=records)
        np.testing.assert_array_equal(got, np.tile(exact, (17, 1)))


def test_cancelled_before_it_began() -> None:
    out = calls.linear(
        kernel("matmul_f32"), numbers(1, 12, 8), calls.pack("f32", numbers(2, 16, 8)), numbers(3, 16),
        cancel=np.ones(1, np.int32),
    )  # fmt: skip
    assert np.isnan(out).all()


def test_users_get_the_same_kernels() -> None:
    """Compiled in this process by policy, as `dispatch.kernel` gives them."""
    for name in NAMES:
        here = [r.tobytes() for r in calls.results(name, dispatch.kernel(name), signed=signed(PATHS[0]))]
        ahead = [r.tobytes() for r in calls.results(name, kernel(name), signed=signed(PATHS[0]))]
        assert here == ahead
