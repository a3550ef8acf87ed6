"""Logarithm, sine and cosine from + - * / and integer operations alone.

NumPy's own log, sin and cos come from libm or from SIMD code chosen at run time: their last bits differ
between CPUs, and a seed must give the same noise everywhere. IEEE addition, multiplication and division are
exact to the bit on every CPU, and NumPy never fuses two of its calls, so these functions return the same bits
everywhere.

Method: argument reduction with a constant split into several parts, then a short polynomial.
- float64 (`log`, `sin_cos`): minimax coefficients of Sun's fdlibm (https://www.netlib.org/fdlibm); the error
  is below one unit in the last place.
- float32 (`log_float32`, `sin_cos_float32`): Moshier's Cephes (https://www.netlib.org/cephes), with a product
  and the sum after it as one fused operation. This is what torch's AVX2 build computes, bit for bit.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]

# ln 2 in two parts: the first has trailing zeros, so that exponent * LN2_HIGH is exact.
LN2_HIGH = float.fromhex("0x1.62e42feep-1")
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
# 2 atanh(s) - 2 s - s * (even polynomial in s): the series of log((1+s)/(1-s)), fitted on |s| < 0.1716
LOG_COEFFICIENTS = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)

# pi/2 in three parts of 33, 33 and 53 bits: k * part is exact for the small k used here.
PI2_HIGH = float.fromhex("0x1.921fb544p+0")
PI2_MIDDLE = float.fromhex("0x1.0b4611a6p-34")
PI2_LOW = float.fromhex("0x1.3198a2e037073p-69")
TWO_OVER_PI = 6.36619772367581382433e-01
SIN_COEFFICIENTS = (
    -1.66666666666666324348e-01,
    8.33333333332248946124e-03,
    -1.98412698298579493134e-04,
    2.75573137070700676789e-06,
    -2.50507602534068634195e-08,
    1.58969099521155010221e-10,
)
COS_COEFFICIENTS = (
    4.16666666666666019037e-02,
    -1.38888888888741095749e-03,
    2.48015872894767294178e-05,
    -2.75573143513906633035e-07,
    2.08757232129817482790e-09,
    -1.13596475577881948265e-11,
)

# The same in float32: ln 2 in two parts, log(1 + f) = f - f^2/2 + f^3 P(f), pi/4 in three parts.
LN2_HIGH_F32, LN2_LOW_F32 = 0.693359375, -2.12194440e-4
LOG_COEFFICIENTS_F32 = (
    3.3333331174e-1,
    -2.4999993993e-1,
    2.0000714765e-1,
    -1.6668057665e-1,
    1.4249322787e-1,
    -1.2420140846e-1,
    1.1676998740e-1,
    -1.1514610310e-1,
    7.0376836292e-2,
)
PI4_PARTS_F32 = (0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8)
FOUR_OVER_PI_F32 = np.float32(1.27323954473516)
SIN_COEFFICIENTS_F32 = (-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4)
COS_COEFFICIENTS_F32 = (4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5)


def _polynomial(coefficients: tuple[float, ...], z: F64) -> F64:
    """coefficients[0] + coefficients[1] z + ... by Horner's rule."""
    total = np.full_like(z, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * z + coefficient
    return total


def log(x: F64) -> F64:
    """Natural logarithm of positive, normal, finite float64 numbers (not checked).

    x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); with s = f / (2 + f),
    log(1 + f) = f - f^2/2 + s (f^2/2 + R(s^2)).
    """
    bits = np.ascontiguousarray(x, np.float64).view(np.int64)
    # Shifting the mantissa's origin to sqrt(1/2) makes the exponent field of the sum the k wanted.
    shifted = bits + (0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
    k = (shifted >> 52) - 0x3FF
    f = (bits - (k << 52)).view(np.float64) - 1.0
    s = f / (2.0 + f)
    z = s * s
    remainder = z * _polynomial(LOG_COEFFICIENTS, z)
    half_square = 0.5 * f * f
    exponent = k.astype(np.float64)
    low = s * (half_square + remainder) + exponent * LN2_LOW
    return exponent * LN2_HIGH - ((half_square - low) - f)


def sin_cos(theta: F64) -> tuple[F64, F64]:
    """Sine and cosine of angles in radians, 0 <= theta <= 2^20 (not checked).

    theta = k pi/2 + (r + tail), |r| <= pi/4; then the Taylor-like polynomials of sine and cosine around zero,
    with the tail entering through its derivative; k modulo 4 says which of the two is which, and its sign.
    """
    theta = np.asarray(theta, np.float64)
    k = np.floor(theta * TWO_OVER_PI + 0.5)
    first = theta - k * PI2_HIGH
    middle = k * PI2_MIDDLE
    partial = first - middle
    correction = k * PI2_LOW - ((first - partial) - middle)
    r = partial - correction
    tail = (partial - r) - correction

    z = r * r
    cube = z * r
    sine_rest = _polynomial(SIN_COEFFICIENTS[1:], z)
    sine = r - ((z * (0.5 * tail - cube * sine_rest) - tail) - cube * SIN_COEFFICIENTS[0])
    half = 0.5 * z
    main = 1.0 - half
    cosine_rest = z * z * _polynomial(COS_COEFFICIENTS, z)
    cosine = main + (((1.0 - main) - half) + (cosine_rest - r * tail))

    quadrant = k.astype(np.int64) & 3
    swap, negative_sine, negative_cosine = _signs(quadrant)
    sine, cosine = np.where(swap, cosine, sine), np.where(swap, sine, cosine)
    return np.where(negative_sine, -sine, sine), np.where(negative_cosine, -cosine, cosine)


def _signs(quadrant: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """For angles k pi/2 + r, k in 0..3: sine and cosine of r swap; the sine, the cosine is negated."""
    return (quadrant & 1) == 1, quadrant >= 2, (quadrant == 1) | (quadrant == 2)


def fused(a: F32, b: F32 | float, c: F32 | float) -> F32:
    """a * b + c in float32 with one rounding, as a CPU's fused multiply-add gives it (normal range).

    The product is exact in float64. Its sum with c is rounded to odd (Boldo, Melquiond 2008): an inexact sum
    gets an odd last bit, so that rounding it again, to float32, cannot fall on a false tie.
    """
    product = a.astype(np.float64) * np.float32(b).astype(np.float64)
    addend = np.float32(c).astype(np.float64)
    total = np.asarray(product + addend)
    back = total - product
    error = (product - (total - back)) + (addend - back)  # exactly what the sum lost (Knuth's TwoSum)
    bits = total.view(np.int64)
    outwards = np.where((error > 0) == (total > 0), 1, -1)
    bits += np.where((error != 0) & (bits & 1 == 0), outwards, 0)
    return total.astype(np.float32)


def _polynomial_fused(coefficients: tuple[float, ...], z: F32) -> F32:
    """coefficients[0] + coefficients[1] z + ... by Horner's rule, each step one fused operation."""
    total = np.full_like(z, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = fused(total, z, coefficient)
    return total


def log_float32(x: F32) -> F32:
    """Natural logarithm of positive, normal, finite float32 numbers (not checked), as in torch's AVX2 build.

    x = 2^e m with m in [sqrt(1/2), sqrt(2)), f = m - 1.
    """
    mantissa, exponent = np.frexp(x)
    small = mantissa < np.float32(np.sqrt(0.5))
    e = exponent.astype(np.float32) - small.astype(np.float32)
    f = (mantissa - np.float32(1.0)) + np.where(small, mantissa, np.float32(0.0))
    square = f * f
    rest = fused(_polynomial_fused(LOG_COEFFICIENTS_F32, f) * f, square, e * np.float32(LN2_LOW_F32))
    rest = rest - square * np.float32(0.5)
    return fused(e, LN2_HIGH_F32, f + rest)


def sin_cos_float32(theta: F32) -> tuple[F32, F32]:
    """Sine and cosine of float32 radians, 0 <= theta < 8192 (not checked), as in torch's AVX2 build."""
    octant = ((theta * FOUR_OVER_PI_F32).astype(np.int64) + 1) & ~1
    r, turns = theta, octant.astype(np.float32)
    for part in PI4_PARTS_F32:
        r = fused(turns, -part, r)
    z = r * r
    cosine = fused(_polynomial_fused(COS_COEFFICIENTS_F32, z) * z, z, z * np.float32(-0.5)) + np.float32(1.0)
    sine = fused(_polynomial_fused(SIN_COEFFICIENTS_F32, z) * z, r, r)
    swap, negative_sine, negative_cosine = _signs((octant >> 1) & 3)
    sine, cosine = np.where(swap, cosine, sine), np.where(swap, sine, cosine)
    return np.where(negative_sine, -sine, sine), np.where(negative_cosine, -cosine, cosine)
