"""Floating point done exactly without the instruction for it: fma, rounding, fp16. For `generic` only."""

from __future__ import annotations

from tinydiff_kernels.simd.emit import F16, F32, F64, I16, I32, I64, Emit, Value, constant, with_lanes


def exact_fma(e: Emit, x: Value, y: Value, z: Value) -> Value:
    """The bits of a fused multiply-add, from float64 arithmetic.

    The product of two float32 is exact in float64 (24 + 24 <= 53 bits). Only the sum rounds, and rounding twice
    (to 53 bits, then to 24) could go wrong on a tie. So the sum is rounded to odd: Knuth's two-sum gives its
    error, and where there is one an even last bit moves by one towards it. A value rounded to odd with at
    least two bits to spare rounds on correctly (Boldo and Melquiond, "Emulation of a FMA and correctly rounded
    sums", 2008).
    """
    b = e.builder
    double = with_lanes(F64, x)
    word = with_lanes(I64, x)
    x, y, z = (b.fpext(v, double) for v in (x, y, z))
    product = b.fmul(x, y)
    total = b.fadd(product, z)
    part = b.fsub(total, product)
    error = b.fadd(b.fsub(product, b.fsub(total, part)), b.fsub(z, part))
    zero, one = constant(double, 0.0), constant(word, 1)
    bits = e.bits(total, word)
    is_even = b.icmp_unsigned("==", b.and_(bits, one), constant(word, 0))
    inexact = b.fcmp_ordered("!=", error, zero)  # false for NaN, which infinite totals give
    outwards = b.icmp_unsigned("==", b.fcmp_ordered(">", error, zero), b.fcmp_ordered(">", total, zero))
    moved = b.add(bits, b.select(outwards, one, constant(word, -1)))
    odd = e.bits(b.select(b.and_(is_even, inexact), moved, bits), double)
    return b.fptrunc(odd, with_lanes(F32, x))


def native_round(e: Emit, x: Value) -> Value:
    return e.overloaded("llvm.roundeven", x)


def exact_round(e: Emit, x: Value) -> Value:
    """Adding 2**23 leaves no bits for a fraction, so the addition itself rounds half to even."""
    b = e.builder
    big = constant(x.type, float(2**23))
    magnitude = e.overloaded("llvm.fabs", x)
    rounded = e.overloaded("llvm.copysign", b.fsub(b.fadd(magnitude, big), big), x)
    return b.select(b.fcmp_ordered("<", magnitude, big), rounded, x)


def native_half_to_float(e: Emit, x: Value) -> Value:
    return e.builder.fpext(e.bits(x, with_lanes(F16, x)), with_lanes(F32, x))


def native_float_to_half(e: Emit, x: Value) -> Value:
    return e.bits(e.builder.fptrunc(x, with_lanes(F16, x)), with_lanes(I16, x))


def exact_half_to_float(e: Emit, x: Value) -> Value:
    """Move the fields to their float32 places and multiply by 2**112, which also normalises subnormals, exactly."""
    b = e.builder
    word, single = with_lanes(I32, x), with_lanes(F32, x)
    wide = b.zext(x, word)
    sign = b.shl(b.and_(wide, constant(word, 0x8000)), constant(word, 16))
    fields = b.shl(b.and_(wide, constant(word, 0x7FFF)), constant(word, 13))
    scaled = e.bits(b.fmul(e.bits(fields, single), constant(single, 2.0**112)), word)
    special = b.or_(fields, constant(word, 0x7F800000))
    quiet = b.select(
        b.icmp_unsigned(">", fields, constant(word, 0x0F800000)), constant(word, 1 << 22), constant(word, 0)
    )
    is_special = b.icmp_unsigned(">=", fields, constant(word, 0x0F800000))
    magnitude = b.select(is_special, b.or_(special, quiet), scaled)
    return e.bits(b.or_(magnitude, sign), single)


def exact_float_to_half(e: Emit, x: Value) -> Value:
    """Round to nearest even by integer arithmetic; subnormal results by the float adder."""
    b = e.builder
    word = with_lanes(I32, x)
    single = x.type
    bits = e.bits(x, word)
    sign = b.and_(b.lshr(bits, constant(word, 16)), constant(word, 0x8000))
    magnitude = b.and_(bits, constant(word, 0x7FFFFFFF))
    # normal: re-bias the exponent by 127 - 15, add half of the dropped bits (one more on an odd neighbour)
    odd = b.and_(b.lshr(magnitude, constant(word, 13)), constant(word, 1))
    rebiased = b.add(magnitude, constant(word, 0xFFF - (112 << 23)))
    normal = b.lshr(b.add(rebiased, odd), constant(word, 13))
    # subnormal: at 0.5 one unit in the last place of a float32 is 2**-24, the smallest half
    half = constant(single, 0.5)
    small = b.sub(e.bits(b.fadd(e.bits(magnitude, single), half), word), e.bits(half, word))
    nan = b.or_(constant(word, 0x7E00), b.and_(b.lshr(magnitude, constant(word, 13)), constant(word, 0x3FF)))
    result = b.select(b.icmp_unsigned("<", magnitude, constant(word, 113 << 23)), small, normal)
    result = b.select(b.icmp_unsigned(">=", magnitude, constant(word, 0x477FF000)), constant(word, 0x7C00), result)
    result = b.select(b.icmp_unsigned(">", magnitude, constant(word, 0x7F800000)), nan, result)
    return b.trunc(b.or_(result, sign), with_lanes(I16, x))
