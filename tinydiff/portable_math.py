"""Logarithm, sine and cosine in float64 from + - * / and integer operations alone.

NumPy's own log, sin and cos come from libm or from SIMD code chosen at run time: their last bits differ between
CPUs, and a seed must give the same noise everywhere. IEEE addition, multiplication and division are exact to the
bit on every CPU, and NumPy never fuses two of its calls, so these functions return the same bits everywhere.

Method: argument reduction with a constant split into several parts, then a short polynomial (minimax coefficients as
in FreeBSD's msun, https://www.netlib.org/fdlibm). Error below one unit in the last place of float64.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

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

    theta = k pi/2 + (r + tail), |r| <= pi/4; then the Taylor-like polynomials of sine and cosine around zero, with
    the tail entering through its derivative; k modulo 4 says which of the two is which, and its sign.
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
    swap = (quadrant & 1) == 1
    sine, cosine = np.where(swap, cosine, sine), np.where(swap, sine, cosine)
    return np.where(quadrant >= 2, -sine, sine), np.where((quadrant == 1) | (quadrant == 2), -cosine, cosine)
