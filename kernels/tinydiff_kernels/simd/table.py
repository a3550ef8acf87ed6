"""THE table: operation -> instruction set -> lowering, best first. The empty name is the portable lowering.

The first row whose instruction set the target has is taken. What is not listed separately (NEON's add, say) LLVM
does well from the portable lowering.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydiff_kernels.simd import arm, portable, x86
from tinydiff_kernels.simd import portable_float as exact
from tinydiff_kernels.simd.target import Target

Lowering = Callable[..., Any]

TABLE: dict[str, dict[str, Lowering]] = {
    # arithmetic
    "add": {"": portable.add},
    "sub": {"": portable.sub},
    "mul": {"": portable.mul},
    "div": {"": portable.div},
    "neg": {"": portable.neg},
    "abs": {"": portable.absolute},
    "sqrt": {"": portable.sqrt},
    "min": {"": portable.smaller},
    "max": {"": portable.larger},
    "fma": {"fma": portable.native_fma, "neon": portable.native_fma, "": exact.exact_fma},
    "round": {"avx2": exact.native_round, "neon": exact.native_round, "": exact.exact_round},
    "less": {"": portable.compare("<")},
    "less_equal": {"": portable.compare("<=")},
    "equal": {"": portable.compare("==")},
    "select": {"": portable.select},
    # bits
    "and": {"": portable.bitwise("and_")},
    "or": {"": portable.bitwise("or_")},
    "xor": {"": portable.bitwise("xor")},
    "shift_left": {"": portable.shift_left},
    "shift_right": {"": portable.shift_right},
    # lanes
    "reinterpret": {"": portable.reinterpret},
    "splat": {"": portable.splat},
    "splat_lane": {"": portable.splat_lane},
    "get_lane": {"": portable.get_lane},
    "low_half": {"": portable.low_half},
    "high_half": {"": portable.high_half},
    "combine": {"": portable.combine},
    "zip_low": {"": portable.zip_low},
    "zip_high": {"": portable.zip_high},
    "even_lanes": {"": portable.even_lanes},
    "odd_lanes": {"": portable.odd_lanes},
    "sum_lanes": {"": portable.sum_lanes},
    "min_lanes": {"": portable.min_lanes},
    "max_lanes": {"": portable.max_lanes},
    # widths and formats
    "widen": {"": portable.widen},
    "narrow": {"": portable.narrow},
    "int_to_float": {"": portable.int_to_float},
    "truncate_to_int": {"": portable.truncate_to_int},
    "half_to_float": {
        "f16c": exact.native_half_to_float,
        "neon": exact.native_half_to_float,
        "": exact.exact_half_to_float,
    },
    "float_to_half": {
        "f16c": exact.native_float_to_half,
        "neon": exact.native_float_to_half,
        "": exact.exact_float_to_half,
    },
    "bfloat_to_float": {"": portable.bfloat_to_float},
    # products of small integers
    "dot": {
        "i8mm": arm.i8mm_dot,
        "dotprod": arm.dotprod_dot,
        "neon": arm.neon_dot,
        "avx512vnni": x86.vnni_dot,
        "avxvnni": x86.vnni_dot,
        "avx2": x86.avx2_dot,
        "": portable.dot,
    },
    "dot_limited": {
        "i8mm": arm.i8mm_dot,
        "dotprod": arm.dotprod_dot,
        "neon": arm.neon_dot,
        "avx512vnni": x86.vnni_dot,
        "avxvnni": x86.vnni_dot,
        "avx2": x86.avx2_dot_limited,
        "": portable.dot,
    },
    "dot_pairs": {"avx2": x86.avx2_dot_pairs, "": portable.dot_pairs},
    "outer_dot": {
        "i8mm": arm.i8mm_outer_dot,
        "dotprod": portable.outer_dot_with(arm.dotprod_dot),
        "neon": portable.outer_dot_with(arm.neon_dot),
        "avx512vnni": portable.outer_dot_with(x86.vnni_dot),
        "avxvnni": portable.outer_dot_with(x86.vnni_dot),
        "avx2": portable.outer_dot_with(x86.avx2_dot),
        "": portable.outer_dot_with(portable.dot),
    },
    "pair_products": {"avx2": x86.avx2_pair_products, "": portable.pair_products},
    "add_pairs": {"neon": arm.neon_add_pairs, "avx2": x86.avx2_add_pairs, "": portable.add_pairs},
    "mul_low": {"": portable.mul_low},
    "mul_high": {"": portable.mul_high},
}


def choose(operation: str, target: Target) -> Lowering:
    """The lowering of an operation for a target."""
    return next(lower for needs, lower in TABLE[operation].items() if not needs or needs in target.features)
