"""Weights in the kernels' order and back; the bounds of quantised ones."""

from __future__ import annotations

import numpy as np
import pytest
from matmul_calls import numbers
from numpy.typing import NDArray

from tinydiff_kernels.matmul import packing
from tinydiff_kernels.matmul.geometry import PARITIES, upsample_weights
from tinydiff_kernels.matmul.unpacking import merge_classes
from tinydiff_kernels.ref import quantised_weights as q8

SHAPES = [(1, 1), (15, 3), (16, 4), (17, 9), (33, 40), (5, 3, 3, 3), (20, 12, 3, 3), (16, 8, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_floats_come_back(shape: tuple[int, ...], kind: packing.Kind) -> None:
    weight = numbers(1, *shape).astype(np.float16).astype(np.float32)
    packed = packing.pack_float(weight, "f16" if kind == "f16" else "f32")
    assert packed.data.shape[3] == 16
    np.testing.assert_array_equal(packing.unpack_float(packed, shape), weight)


@pytest.mark.parametrize("shape", SHAPES)
def test_integers_come_back(shape: tuple[int, ...]) -> None:
    q, scales = q8.quantise_i8(numbers(1, *shape))
    packed = packing.pack_i8(numbers(1, *shape))
    assert packed.data.shape[3:] == (16, 4)
    assert packed.steps % 2 == 0
    np.testing.assert_array_equal(packing.unpack_integers(packed, shape), q)
    assert packed.scales is not None
    assert packed.sums is not None
    np.testing.assert_array_equal(packed.scales[: shape[0]], scales)
    np.testing.assert_array_equal(packed.sums[: shape[0]], q.reshape(shape[0], -1).sum(1, dtype=np.int32))
    assert not packed.sums[shape[0] :].any()


@pytest.mark.parametrize("half", [1, 8, 11])
def test_gates_lie_beside_their_values(half: int) -> None:
    weight = numbers(1, 2 * half, 12)
    for packed in (packing.pack_float(weight, gated=True), packing.pack_i8(weight, gated=True)):
        assert packed.outputs == half
        assert packed.panels == -(-half // 8)
    unpacked = packing.unpack_float(packing.pack_float(weight, gated=True), weight.shape)
    np.testing.assert_array_equal(unpacked, weight)
    q, _ = q8.quantise_i8(weight)
    np.testing.assert_array_equal(packing.unpack_integers(packing.pack_i8(weight, gated=True), weight.shape), q)


def test_the_layout_is_what_the_document_says() -> None:
    """int8: [panels of 16][taps][channels / 4][16][4]."""
    q = np.arange(17 * 5 * 2 * 2, dtype=np.int64).reshape(17, 5, 2, 2) % 100 - 50
    data = packing.pack_integers(q.astype(np.int8), np.ones(17, np.float32), 17).data
    assert data.shape == (2, 4, 2, 16, 4)
    assert data[1, 3, 1, 0, 0] == q[16, 4, 1, 1]
    assert data[0, 2, 0, 7, 3] == q[7, 3, 1, 0]
    assert data[1, 0, 0, 1, 0] == 0
    assert data[0, 0, 1, 0, 1] == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [1.0, 8.0])
@pytest.mark.parametrize("limited", [False, True])
def test_quantised_weights_keep_their_bounds(shape: tuple[int, ...], spread: float, limited: bool) -> None:
    weight = numbers(1, *shape) ** 3 * spread
    q, scales = q8.quantise_i8(weight, limited=limited)
    assert np.abs(q.astype(int)).max() <= q8.LARGEST
    assert not limited or q8.pair_sums(q.astype(np.float32)).max() <= q8.PAIR_LIMIT
    error = np.abs(q8.dequantise_i8(q, scales) - weight)
    assert (error <= 0.5001 * scales.reshape(-1, *[1] * (len(shape) - 1))).all()


def test_quantising_odd_weights() -> None:
    """Zeros have scale 1; channels that are not finite say so in their scale and disturb no other."""
    weight = numbers(1, 4, 6)
    weight[0], weight[1, 2], weight[2, 0] = 0, np.nan, np.inf
    q, scales = q8.quantise_i8(weight)
    assert scales[0] == 1
    assert np.isnan(scales[1:3]).all()
    assert not q[:3].any()
    assert q[3].any()
    assert np.isfinite(scales[3])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [1.0, 8.0])
def test_four_bits_keep_their_bounds(shape: tuple[int, ...], spread: float) -> None:
    weight = numbers(1, *shape) ** 3 * spread
    made = q8.quantise_i4(weight)
    assert np.abs(made.q.astype(int)).max() <= q8.LARGEST_4
    assert made.group_scales.min() >= 1
    assert made.group_scales.max() <= q8.LARGEST_GROUP_SCALE
    error = by_group(q8.dequantise_i4(made, shape) - weight)
    # half a step, and what clipping costs where a group's scale was rounded down: 7 * half a unit of the scale
    unit, plain = made.scales[:, None, None], scales_that_clip_nothing(weight, made)
    assert (np.sqrt(np.square(error).mean(3)) <= unit * np.maximum(0.5001 * plain, 3.5001)).all()


def by_group(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """`[out, in, ...]` -> `[out, taps, groups, 32]`."""
    by_tap = weight.reshape(*weight.shape[:2], -1).swapaxes(1, 2)
    padded = np.pad(by_tap, ((0, 0), (0, 0), (0, -weight.shape[1] % q8.GROUP)))
    return padded.reshape(*padded.shape[:2], -1, q8.GROUP)


def scales_that_clip_nothing(weight: NDArray[np.float32], made: q8.Int4) -> NDArray[np.float32]:
    """In units of the channel's scale, rounded to integers."""
    largest = np.abs(by_group(weight)).max(3)
    return np.maximum(np.rint(largest / 7 / made.scales[:, None, None]), 1)


@pytest.mark.parametrize("shape", [(33, 40), (20, 96), (20, 64, 3, 3)])
def test_a_group_is_clipped_where_that_leaves_less_error(shape: tuple[int, ...]) -> None:
    """Never worse than a scale that clips nothing, and of normal weights half a decibel better. Exact weights stay."""
    weight = np.random.default_rng(1).standard_normal(shape, np.float32)
    made = q8.quantise_i4(weight)
    steps = scales_that_clip_nothing(weight, made)
    plain = q8.Int4(
        np.clip(np.rint(by_group(weight) / (steps * made.scales[:, None, None])[..., None]), -7, 7)
        .astype(np.int8)
        .reshape(made.q.shape),
        steps.astype(np.uint8),
        made.scales,
    )
    found, before = (np.square(by_group(q8.dequantise_i4(m, shape) - weight)).sum(3) for m in (made, plain))
    assert (found <= before * np.float32(1.0001)).all()
    assert found.sum() < 0.93 * before.sum()
    whole = np.broadcast_to(np.arange(-7, 8, dtype=np.float32), (3, 15))
    np.testing.assert_array_equal(q8.quantise_i4(whole).q[:, 0, :15], whole)


def test_four_bits_cannot_overflow_however_deep() -> None:
    made = q8.quantise_i4(numbers(1, 2, 2560, 3, 3))
    depth = made.q.shape[1] * made.q.shape[2]
    assert 255 * q8.LARGEST_4 * int(made.group_scales.max()) * depth <= q8.SUM_LIMIT


def test_the_layout_of_four_bits() -> None:
    """[panels of 16][taps][channels / 8][16][4]: two groups of four channels in a byte; scales [..][channels /
    32][16]."""
    weight = numbers(1, 17, 40, 2, 2)
    made, packed = q8.quantise_i4(weight), packing.pack_i4(weight)
    assert packed.data.shape == (2, 4, 8, 16, 4)
    assert packed.group_scales is not None
    assert packed.group_scales.shape == (2, 4, 2, 16)
    byte = int(packed.data[1, 3, 4, 0, 2])
    assert ((byte & 15) ^ 8) - 8 == made.q[16, 3, 8 * 4 + 2]
    assert ((byte >> 4) ^ 8) - 8 == made.q[16, 3, 8 * 4 + 4 + 2]
    assert packed.group_scales[0, 2, 1, 5] == made.group_scales[5, 2, 1]
    assert packed.sums is not None
    exact = (made.q.reshape(17, 4, 2, 32).sum(3, dtype=np.int64) * made.group_scales).sum((1, 2))
    np.testing.assert_array_equal(packed.sums[:17], exact)


def test_the_kernel_that_four_rounded_classes_mean() -> None:
    """By least squares over the sixteen sums of its nine taps; where nothing was rounded the kernel itself."""
    weight, noise = numbers(1, 5, 7, 3, 3), numbers(2, 4, 5, 7, 2, 2) / 100
    exact = {parity: upsample_weights(weight, parity) for parity in PARITIES}
    assert np.abs(merge_classes(exact) - weight).max() < 1e-6
    rounded = {parity: exact[parity] + noise[i] for i, parity in enumerate(PARITIES)}
    units = np.eye(9, dtype=np.float32).reshape(9, 1, 3, 3)
    sums = np.concatenate([upsample_weights(units, parity).reshape(9, 4) for parity in PARITIES], axis=1)  # [9, 16]
    given = np.concatenate([rounded[parity].reshape(35, 4) for parity in PARITIES], axis=1)
    wanted = np.linalg.lstsq(sums.T.astype(np.float64), given.T.astype(np.float64))[0].T.reshape(weight.shape)
    assert np.abs(wanted - weight).max() > 1e-3
    assert np.abs(merge_classes(rounded) - wanted).max() < 1e-6
