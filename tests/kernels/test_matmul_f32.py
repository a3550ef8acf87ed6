"""The indirect matmul in float32 against `ref/`: edge shapes, every layer it serves, any threads, every path here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from tinydiff_kernels import _jit, aot, checked, cpu, dispatch, pool
from tinydiff_kernels.matmul import call, descriptor, float32, packing
from tinydiff_kernels.ref import activation as ref_activation
from tinydiff_kernels.ref import conv as ref_conv
from tinydiff_kernels.ref import matmul as ref_matmul
from tinydiff_kernels.rows import Grid

PATHS = [path.name for path in dispatch.available()]
TILE, PANEL = descriptor.ROW_TILE, descriptor.PANEL
EXPORTS = {"matmul_f32": (float32.matmul_f32, "void(int64, int64, int64)")}
EDGES = [  # rows, inputs, outputs
    (1, 1, 1),
    (0, 3, 5),
    (TILE - 1, 7, PANEL - 1),
    (TILE, 8, PANEL),
    (TILE + 1, 31, PANEL + 1),
    (48, 16, 64),
    (97, 320, 77),
    (301, 5, 129),
]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels compiled here go into a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        _jit.settings.cache_clear()
        yield
    _jit.settings.cache_clear()


@lru_cache(maxsize=8)
def kernel(path: str, is_checked: bool = False) -> Any:
    """As users get it for the best path of this CPU, compiled ahead of time for the others."""
    if path == PATHS[0] and not is_checked:
        return dispatch.kernel("matmul_f32")
    machine = aot.Machine.of(dispatch.BY_NAME[path], cpu.this_cpu().arch, checked=is_checked)
    made = aot.compile_object(EXPORTS, machine)
    assert made.undefined == []
    loaded = aot.Loaded(made.object, ["matmul_f32", *([checked.SYMBOL] if is_checked else [])])
    if is_checked:
        checked.attach_address(loaded.address(checked.SYMBOL))
    return loaded.function("matmul_f32", 3)


def numbers(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def close(got: Any, expected: Any, depth: int) -> None:
    """Rounding of one chain of `depth` additions, and of the activation."""
    assert got.shape == expected.shape
    bound = 4e-7 * np.sqrt(depth + 16) * (1 + float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), EDGES)
def test_linear(rows: int, inputs: int, outputs: int) -> None:
    x, weight, bias = numbers(1, rows, inputs), numbers(2, outputs, inputs), numbers(3, outputs)
    packed, table = packing.pack_f32(weight), packing.pad_table(bias[None])
    expected = ref_matmul.linear(x.astype(np.float64), weight.astype(np.float64), bias)
    results = [call.linear(kernel(path), x, packed, outputs, table, threads=2) for path in PATHS]
    close(results[0], expected, inputs)
    assert len({result.tobytes() for result in results}) == 1
    np.testing.assert_array_equal(packing.unpack_f32(packed, outputs), weight)


@pytest.mark.parametrize("activation", list(descriptor.ACTIVATIONS))
@pytest.mark.parametrize("outputs", [16, 21])
def test_epilogue(activation: str | None, outputs: int) -> None:
    """A table row for each of two images, a residual, then the activation; whole and partial panels."""
    x, weight = numbers(1, 26, 12), numbers(2, outputs, 12)
    table, residual = numbers(3, 2, outputs), numbers(4, 26, outputs)
    arguments = (x, packing.pack_f32(weight), outputs, packing.pad_table(table))
    results = [
        call.linear(kernel(path), *arguments, residual=residual, activation=activation, threads=1) for path in PATHS
    ]
    wide = x.astype(np.float64) @ weight.T.astype(np.float64) + np.repeat(table, 13, axis=0) + residual
    close(results[0], ref_activation.activate(wide, activation), 12)
    assert len({result.tobytes() for result in results}) == 1


CONVS = [  # batch, height, width, inputs, outputs, kernel, stride, padding, border
    (1, 1, 1, 1, 1, 3, 1, (1, 1, 1, 1), "zero"),
    (2, 5, 7, 3, 18, 3, 1, (1, 1, 1, 1), "zero"),
    (1, 8, 8, 4, 16, 3, 2, (1, 1, 1, 1), "zero"),
    (1, 9, 6, 4, 16, 3, 2, (0, 1, 0, 1), "zero"),
    (2, 6, 5, 3, 17, 3, 1, (1, 1, 1, 1), "circular"),
    (1, 4, 4, 33, 40, 1, 1, (0, 0, 0, 0), "zero"),
    (1, 16, 16, 20, 4, 3, 1, (1, 1, 1, 1), "zero"),
]


@pytest.mark.parametrize("shape", CONVS)
def test_convolution(shape: tuple[Any, ...]) -> None:
    batch, height, width, inputs, outputs, size, stride, padding, border = shape
    grid = Grid(batch, height, width)
    x, weight, bias = numbers(1, grid.rows, inputs), numbers(2, outputs, inputs, size, size), numbers(3, outputs)
    packed, table = packing.pack_f32(weight), packing.pad_table(bias[None])
    options: dict[str, Any] = {"stride": stride, "padding": padding, "border": border}
    expected = ref_conv.conv2d(x.astype(np.float64), grid, weight, bias, **options)
    results = [
        call.conv(kernel(path), x, grid, packed, outputs, (size, size), table, threads=n, **options)
        for path in PATHS
        for n in (1, 3)
    ]
    close(results[0], expected, inputs * size * size)
    assert len({result.tobytes() for result in results}) == 1
    np.testing.assert_array_equal(packing.unpack_f32(packed, outputs, (size, size)), weight)


def test_the_same_bits_on_any_number_of_threads_and_with_other_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = numbers(1, 500, 64), numbers(2, 200, 64), numbers(3, 200)
    arguments = (x, packing.pack_f32(weight), 200, packing.pad_table(bias[None]))
    results = {call.linear(kernel(PATHS[0]), *arguments, threads=n).tobytes() for n in (1, 2, 3, 5)}
    monkeypatch.setattr(descriptor, "BLOCK_ROWS", 6)
    monkeypatch.setattr(descriptor, "PANEL_CACHE", 1)
    results |= {call.linear(kernel(PATHS[0]), *arguments, threads=n).tobytes() for n in (1, 4)}
    assert len(results) == 1


def test_not_a_byte_beyond_the_buffers() -> None:
    """The checked kernel on edge shapes, all epilogues on; then with a residual that is one row short."""
    for rows, inputs, outputs in EDGES:
        x, weight = numbers(1, rows, inputs), numbers(2, outputs, inputs)
        table, residual = packing.pad_table(numbers(3, 1, outputs)), numbers(4, rows, outputs)
        arguments = (x, packing.pack_f32(weight), outputs, table)
        options: dict[str, Any] = {"residual": residual, "activation": "gelu", "threads": 2}
        got = call.linear(kernel(PATHS[0], is_checked=True), *arguments, **options)
        np.testing.assert_array_equal(got, call.linear(kernel(PATHS[0]), *arguments, **options))
    with pytest.raises(checked.CheckedAccessError, match="tried to load"):
        call.linear(kernel(PATHS[0], is_checked=True), *arguments, residual=residual[1:], threads=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_their_row(bad: float) -> None:
    x, weight = numbers(1, 13, 8), numbers(2, 20, 8)
    x[7, 3] = bad
    table = packing.pad_table(np.zeros((1, 20), np.float32))
    got = call.linear(kernel(PATHS[0]), x, packing.pack_f32(weight), 20, table, threads=1)
    assert not np.isfinite(got[7]).any()
    assert np.isfinite(np.delete(got, 7, axis=0)).all()


def test_cancelled_before_it_began() -> None:
    x, out = numbers(1, 12, 8), np.zeros((12, 16), np.float32)
    offsets = np.arange(12, dtype=np.int64)
    whole = descriptor.Matmul(
        input=x,
        rows=offsets * 32,
        taps=np.zeros(1, np.int64),
        depth=8,
        weights=packing.pack_f32(numbers(2, 16, 8)),
        output=out,
        output_rows=offsets * 64,
        columns=16,
        table=np.ones((1, 16), np.float32),
        table_rows=offsets * 0,
    )
    call.run(kernel(PATHS[0]), whole, threads=2, cancel=np.ones(1, np.int32))
    assert not out.any()
    call.run(kernel(PATHS[0]), whole, threads=pool.default_threads())
    assert out.all()
