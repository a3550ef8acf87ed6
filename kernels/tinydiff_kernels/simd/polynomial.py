"""exp, erf, log, sine and cosine on f32 vectors: the same bits on every path.

libm differs between machines, so kernels never call it. Everything here is fma, mul, add, comparisons and moved
bits in a fixed order. Errors in units in the last place (ulp) are measured against float64 by
`tests/kernels/test_simd_functions.py`, which fails where a figure below is exceeded.

Coefficients of exp, log, sine and cosine: Stephen L. Moshier, Cephes Mathematical Library, single precision
(expf.c, logf.c, sinf.c). Those of erf: our own minimax fit, `bench/fit_erf.py`.
"""

from __future__ import annotations

from typing import Any

from tinydiff_kernels.simd.arithmetic import (
    absolute,
    equal,
    fma,
    less,
    less_equal,
    maximum,
    minimum,
    round_even,
    select,
)
from tinydiff_kernels.simd.convert import to_float, to_int
from tinydiff_kernels.simd.define import composed, same_floats
from tinydiff_kernels.simd.lanes import bits_of, float_of, full_like, shift_left, shift_right
from tinydiff_kernels.simd.types import Vector

INFINITY, NAN = float("inf"), float("nan")
LOG2E = 1.44269504088896341
LN2_HIGH, LN2_LOW = 0.6931471824645996, -1.9046542121259336e-09
ROUNDER = 1.5 * 2.0**23
TWO_OVER_PI = 0.63661977236758134
PI_2_HIGH, PI_2_MIDDLE, PI_2_LOW = 1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15
SINE_LIMIT = 1e5
SIGN_BIT = -(2**31)
ROOT_HALF_BITS = 0x3F3504F3  # of sqrt(1/2)
SMALLEST_NORMAL = 2.0**-126
MAGIC = 1.5 * 2.0**23 + 127.0


def _floats(x: Any) -> Any:
    return same_floats("function", x)


@composed(_floats)
def exp(x: Vector) -> Vector:
    """e**x, below 1 ulp; infinity above 88.72, subnormals kept, 0 below -103.97, NaN stays.

    x = n ln 2 + r with |r| <= ln(2)/2: e**x = 2**n e**r. Adding ROUNDER leaves no bits for a fraction: the sum is
    rounded to even and its last bits are n. 2**n is applied as two factors, because n reaches from -150 to 128 and a
    float's exponent does not.
    """
    x = minimum(full_like(x, 89.0), maximum(full_like(x, -104.0), x))
    shifted = x * full_like(x, LOG2E) + full_like(x, ROUNDER)
    n = shifted - full_like(x, ROUNDER)
    r = fma(n, full_like(x, -LN2_HIGH), x)
    r = fma(n, full_like(x, -LN2_LOW), r)
    p = full_like(x, 1.9875691500e-4)
    p = fma(p, r, full_like(x, 1.3981999507e-3))
    p = fma(p, r, full_like(x, 8.3334519073e-3))
    p = fma(p, r, full_like(x, 4.1665795894e-2))
    p = fma(p, r, full_like(x, 1.6666665459e-1))
    p = fma(p, r, full_like(x, 5.0000001201e-1))
    p = fma(p, r * r, r) + full_like(x, 1.0)
    whole = bits_of(shifted) - bits_of(full_like(x, ROUNDER))
    half = shift_right(whole, 1)
    bias = full_like(whole, 127)
    first = float_of(shift_left(half + bias, 23))
    second = float_of(shift_left(whole - half + bias, 23))
    return p * first * second


@composed(_floats)
def exp2_of_negative(x: Vector) -> Vector:
    """2**x for x <= 0, for softmax: relative error below 2e-7, exactly 1 at 0; 0 below -126.5, NaN stays.

    x = n + r with |r| <= 1/2. Adding MAGIC leaves no bits for a fraction, so the sum's last bits are n, rounded, plus
    127: shifted up they are 2**n. Half the work of `exp`. Coefficients: `bench/fit_exp2.py`.
    """
    x = maximum(full_like(x, -127.0), x)
    shifted = x + full_like(x, MAGIC)
    r = x - (shifted - full_like(x, MAGIC))
    p = full_like(x, 1.326472731307149e-3)
    p = fma(p, r, full_like(x, 9.671512991189957e-3))
    p = fma(p, r, full_like(x, 5.550733581185341e-2))
    p = fma(p, r, full_like(x, 2.4022242426872253e-1))
    p = fma(p, r, full_like(x, 6.931470036506653e-1))
    p = fma(p, r, full_like(x, 1.0))
    return p * float_of(shift_left(bits_of(shifted), 23))


@composed(_floats)
def log(x: Vector) -> Vector:
    """Natural logarithm, below 1 ulp; -infinity at 0, NaN below, infinity stays.

    x = 2**n (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)): log x = n ln 2 + f - f**2/2 + f**3 Q(f).
    """
    tiny = less(x, full_like(x, SMALLEST_NORMAL))
    normal = select(tiny, x * full_like(x, 2.0**23), x)
    bits = bits_of(normal)
    exponent = shift_right(bits - full_like(bits, ROOT_HALF_BITS), 23)
    f = float_of(bits - shift_left(exponent, 23)) - full_like(x, 1.0)
    n = to_float(exponent) - select(tiny, full_like(x, 23.0), full_like(x, 0.0))
    q = full_like(x, 7.0376836292e-2)
    q = fma(q, f, full_like(x, -1.1514610310e-1))
    q = fma(q, f, full_like(x, 1.1676998740e-1))
    q = fma(q, f, full_like(x, -1.2420140846e-1))
    q = fma(q, f, full_like(x, 1.4249322787e-1))
    q = fma(q, f, full_like(x, -1.6668057665e-1))
    q = fma(q, f, full_like(x, 2.0000714765e-1))
    q = fma(q, f, full_like(x, -2.4999993993e-1))
    q = fma(q, f, full_like(x, 3.3333331174e-1))
    square = f * f
    tail = fma(n, full_like(x, LN2_LOW), square * f * q)
    tail = fma(square, full_like(x, -0.5), tail)
    result = fma(n, full_like(x, LN2_HIGH), f + tail)
    result = select(less(full_like(x, 0.0), x), result, full_like(x, NAN))
    result = select(equal(x, full_like(x, 0.0)), full_like(x, -INFINITY), result)
    return select(equal(x, full_like(x, INFINITY)), x, result)


@composed(_floats)
def erf(x: Vector) -> Vector:
    """Error function, below 1 ulp.

    Below 0.9277 x + x P(x**2); above 1 - exp(-(t + t Q(t))) with t = |x| up to 4, where erf is 1 in float32.
    """
    size = absolute(x)
    square = x * x
    p = full_like(x, -5.964274751022458e-4)
    p = fma(p, square, full_like(x, 4.988009110093117e-3))
    p = fma(p, square, full_like(x, -2.6763128116726875e-2))
    p = fma(p, square, full_like(x, 1.1281721293926239e-1))
    p = fma(p, square, full_like(x, -3.7612485885620117e-1))
    p = fma(p, square, full_like(x, 1.2837915122509003e-1))
    near = fma(p, x, x)
    t = minimum(full_like(x, 4.0), size)
    q = full_like(x, -2.1372525952756405e-4)
    q = fma(q, t, full_like(x, 3.212809097021818e-3))
    q = fma(q, t, full_like(x, -2.2883059456944466e-2))
    q = fma(q, t, full_like(x, 1.0525103658437729e-1))
    q = fma(q, t, full_like(x, 6.357265710830688e-1))
    q = fma(q, t, full_like(x, 1.2851189076900482e-1))
    far = full_like(x, 1.0) - exp(-fma(q, t, t))
    sign = bits_of(x) & full_like(bits_of(x), SIGN_BIT)
    return select(less(size, full_like(x, 0.9277)), near, float_of(bits_of(far) | sign))


@composed(lambda x, quarter: _floats(x))
def _sine_of_quarter(x: Vector, quarter: int) -> Vector:
    """sin(x + quarter * pi/2). x = n pi/2 + r: sine or cosine of r and a sign, by the last bits of n + quarter."""
    n = round_even(x * full_like(x, TWO_OVER_PI))
    r = fma(n, full_like(x, -PI_2_HIGH), x)
    r = fma(n, full_like(x, -PI_2_MIDDLE), r)
    r = fma(n, full_like(x, -PI_2_LOW), r)
    z = r * r
    s = full_like(x, -1.9515295891e-4)
    s = fma(s, z, full_like(x, 8.3321608736e-3))
    s = fma(s, z, full_like(x, -1.6666654611e-1))
    sine = fma(s * z, r, r)
    c = full_like(x, 2.443315711809948e-5)
    c = fma(c, z, full_like(x, -1.388731625493765e-3))
    c = fma(c, z, full_like(x, 4.166664568298827e-2))
    cosine = fma(c, z * z, fma(z, full_like(x, -0.5), full_like(x, 1.0)))
    turns = to_int(n)
    turns = turns + full_like(turns, quarter)
    odd = equal(turns & full_like(turns, 1), full_like(turns, 1))
    sign = shift_left(turns & full_like(turns, 2), 30)
    result = float_of(bits_of(select(odd, cosine, sine)) ^ sign)
    return select(less_equal(absolute(x), full_like(x, SINE_LIMIT)), result, full_like(x, NAN))


@composed(_floats)
def sin(x: Vector) -> Vector:
    """Sine, 1.5 ulp for |x| <= 1e5; NaN beyond, which no timestep reaches."""
    return _sine_of_quarter(x, 0)


@composed(_floats)
def cos(x: Vector) -> Vector:
    """Cosine, 1.5 ulp for |x| <= 1e5; NaN beyond."""
    return _sine_of_quarter(x, 1)


@composed(_floats)
def sigmoid(x: Vector) -> Vector:
    """1 / (1 + exp(-x)), 2.1 ulp where the result is normal."""
    one = full_like(x, 1.0)
    return one / (one + exp(-x))


@composed(_floats)
def silu(x: Vector) -> Vector:
    """x * sigmoid(x), as x / (1 + exp(-x)): 2.1 ulp where the result is normal; 0 below -88.7. `ref/activation.py`."""
    return x / (full_like(x, 1.0) + exp(-x))


@composed(_floats)
def gelu(x: Vector) -> Vector:
    """x/2 * (1 + erf(x / sqrt 2)); absolute error below 3e-7 for |x| < 8. `ref/activation.py`."""
    half = x * full_like(x, 0.5)
    return fma(half, erf(x * full_like(x, 0.7071067811865476)), half)


@composed(_floats)
def quick_gelu(x: Vector) -> Vector:
    """x * sigmoid(1.702 x). `ref/activation.py`."""
    return x / (full_like(x, 1.0) + exp(x * full_like(x, -1.702)))


@composed(_floats)
def soft_clip(x: Vector) -> Vector:
    """3 tanh(x / 3), tanh |y| = (1 - e) / (1 + e), e = exp(-2 |y|); error below 6e-7. `ref/activation.py`."""
    one = full_like(x, 1.0)
    e = exp(absolute(x) * full_like(x, -2.0 / 3.0))
    size = full_like(x, 3.0) * ((one - e) / (one + e))
    sign = bits_of(x) & full_like(bits_of(x), SIGN_BIT)
    return float_of(bits_of(size) | sign)
