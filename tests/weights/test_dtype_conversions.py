"""Every bit pattern of every narrow format against a decoder that works bit by bit in exact arithmetic."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest

from tinydiff_weights.dtypes import FLOATING, STORAGE, to_float32

FORMATS = {  # exponent bits, mantissa bits, has infinities
    "F16": (5, 10, True),
    "BF16": (8, 7, True),
    "F8_E4M3": (4, 3, False),
    "F8_E5M2": (5, 2, True),
}


def decode(code: int, exponent_bits: int, mantissa_bits: int, infinities: bool) -> float:
    """IEEE 754's definition with exact fractions; nothing of NumPy's or of the code under test."""
    bias = 2 ** (exponent_bits - 1) - 1
    mantissa = code & (2**mantissa_bits - 1)
    exponent = code >> mantissa_bits & (2**exponent_bits - 1)
    sign = -1 if code >> (mantissa_bits + exponent_bits) else 1
    top = 2**exponent_bits - 1
    if infinities and exponent == top:
        return math.copysign(math.inf, sign) if mantissa == 0 else math.nan
    if not infinities and exponent == top and mantissa == 2**mantissa_bits - 1:
        return math.nan
    if exponent == 0:
        value = Fraction(mantissa, 2**mantissa_bits) * Fraction(2) ** (1 - bias)
    else:
        value = (1 + Fraction(mantissa, 2**mantissa_bits)) * Fraction(2) ** (exponent - bias)
    return math.copysign(float(value), sign)


@pytest.mark.parametrize("dtype", FORMATS)
def test_every_pattern(dtype: str) -> None:
    exponent_bits, mantissa_bits, infinities = FORMATS[dtype]
    count = 2 ** (1 + exponent_bits + mantissa_bits)
    codes = np.arange(count, dtype=np.uint16 if count > 256 else np.uint8)
    result = to_float32(codes.view(STORAGE[dtype]), dtype)
    assert result.dtype == np.float32
    assert result.shape == (count,)
    wrong = 0
    for code, value in enumerate(result.tolist()):
        expected = decode(code, exponent_bits, mantissa_bits, infinities)
        same = math.isnan(value) if math.isnan(expected) else struct.pack("<f", value) == struct.pack("<f", expected)
        wrong += not same
    assert wrong == 0
    print(f"{dtype}: {count} patterns")


def test_bf16_keeps_every_bit() -> None:
    codes = np.arange(65536, dtype=np.uint16)
    assert (to_float32(codes, "BF16").view(np.uint32) >> 16 == codes).all()


@pytest.mark.parametrize("dtype", STORAGE)
def test_strided_and_reversed_input(dtype: str) -> None:
    """Views come in every stride; the result is contiguous and has the same values."""
    codes = np.arange(4 * 6 * STORAGE[dtype].itemsize, dtype=np.uint8)
    if dtype in ("F64", "F32"):
        codes = np.arange(24, dtype=STORAGE[dtype]).view(np.uint8)
    raw = codes.view(STORAGE[dtype]).reshape(4, 6)
    whole = to_float32(raw, dtype)
    for view, expected in [(raw.T, whole.T), (raw[::-1, 1::2], whole[::-1, 1::2]), (raw[:0], whole[:0])]:
        result = to_float32(view, dtype)
        assert result.flags.c_contiguous
        np.testing.assert_array_equal(result, expected)


def test_f64_rounds_to_nearest_and_overflows_to_infinity() -> None:
    values = np.array([1 + 2**-24, 1 + 3 * 2**-24, 1e300, -1e300, np.nan, 1e-60])
    expected = np.array([1, 1 + 2**-22, np.inf, -np.inf, np.nan, 0], np.float32)
    np.testing.assert_array_equal(to_float32(values, "F64"), expected)


def test_bool_is_true_where_not_zero() -> None:
    np.testing.assert_array_equal(to_float32(np.array([0, 1, 2, 255], np.uint8), "BOOL"), [0, 1, 1, 1])


def test_integers() -> None:
    for dtype in sorted(STORAGE.keys() - FLOATING - {"BOOL"}):
        limits = np.iinfo(STORAGE[dtype])
        raw = np.array([limits.min, 0, 1, limits.max], STORAGE[dtype])
        np.testing.assert_array_equal(to_float32(raw, dtype), raw.astype(np.float32))
