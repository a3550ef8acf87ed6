"""Inputs for `simd_kernels.py` and what NumPy says their outputs are. Runs where NumPy is and Numba is not.

`case(name)` gives the inputs and the expected output as one structured array, a record for each block; `differences`
compares field by field, to the bit, with any NaN equal to any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

F32_EDGES = np.array(
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.5, 0.49999997, 0.50000006, 8388607.5, 8388608.0, -8388609.0,
     1e-45, -1e-45, 1.1754944e-38, -1.1754942e-38, 3.4028235e38, -3.4028235e38, np.inf, -np.inf, np.nan,
     16777216.0, 1.0000001, 0.99999994, 1e30, 2147483648.0, 2147483520.0, -2147483648.0, -2147483904.0,
     65504.0, 65520.0],
    np.float32,
)  # fmt: skip
Arrays = tuple[Any, Any, Any]


@dataclass(frozen=True)
class Case:
    """`a`, `b`, `c` are input arrays; `expected` is structured, one record a block (`n` of them, or one)."""

    a: Any
    b: Any
    c: Any
    n: int
    expected: Any


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(list(name.encode()))


def records(n: int, **fields: Any) -> Any:
    """A packed structured array from arrays of shape (n, lanes)."""
    kinds = [(name, value.dtype, value.shape[1:]) for name, value in fields.items()]
    out = np.zeros(n, np.dtype(kinds))
    for name, value in fields.items():
        out[name] = value
    return out


def differences(got: Any, expected: Any) -> list[str]:
    """One line for each field that differs, with the first place where it does."""
    lines = []
    for name in expected.dtype.names:
        x, y = np.ascontiguousarray(got[name]), np.ascontiguousarray(expected[name])
        bits = {4: np.uint32, 2: np.uint16, 1: np.uint8, 8: np.uint64}[x.dtype.itemsize]
        same = x.view(bits) == y.view(bits)
        if x.dtype.kind == "f":
            same |= np.isnan(x) & np.isnan(y)
        if not same.all():
            where = tuple(int(i) for i in np.argwhere(~same)[0])
            lines.append(
                f"{name}{list(where)}: {x[where]!r}, expected {y[where]!r}; {int((~same).sum())} of {same.size}"
            )
    return lines


# ---- floats ---------------------------------------------------------------------------------------------


def round_fraction(value: Fraction) -> np.float32:
    """The float32 nearest to an exact number, ties to even; not for overflow."""
    with np.errstate(over="ignore"):
        guess = np.float32(float(value))
    around = [np.nextafter(guess, np.float32(s * np.inf), dtype=np.float32) for s in (-1, 1)] + [guess]
    around = [g for g in around if np.isfinite(g)]
    best = min(abs(Fraction(float(g)) - value) for g in around)
    nearest = [g for g in around if abs(Fraction(float(g)) - value) == best]
    return min(nearest, key=lambda g: int(np.float32(g).view(np.uint32)) & 1)


def fma_exact(x: Any, y: Any, z: Any) -> Any:
    """fma in exact rational arithmetic, one by one; special values through float64, which rounds nothing there."""
    x, y, z = (v.ravel() for v in np.broadcast_arrays(x, y, z))
    with np.errstate(all="ignore"):
        out = (x.astype(np.float64) * y.astype(np.float64) + z.astype(np.float64)).astype(np.float32)
    finite = np.isfinite(x) & np.isfinite(y) & np.isfinite(z) & np.isfinite(out) & (out != 0)
    for i in np.flatnonzero(finite):
        exact = Fraction(float(x[i])) * Fraction(float(y[i])) + Fraction(float(z[i]))
        if exact:
            out[i] = round_fraction(exact)
    return out


def hard_products(rng: np.random.Generator, count: int) -> Arrays:
    """x * y lies half way between two float32, and z, far below, decides: rounding twice gets these wrong."""
    x = (1 + rng.integers(0, 2**12, count) * 2.0**-12).astype(np.float32)
    y = np.full(count, 1 + 2.0**-12, np.float32)
    z = (rng.choice([-1.0, 1.0], count) * 2.0 ** rng.integers(-80, -54, count)).astype(np.float32)
    return x, y, z


def float_inputs(name: str) -> Arrays:
    rng = generator(name)
    x, y = (v.ravel() for v in np.meshgrid(F32_EDGES, F32_EDGES))
    z = rng.permutation(np.resize(F32_EDGES, x.size))
    wild = rng.integers(0, 2**32, (3, 512), dtype=np.uint64).astype(np.uint32).view(np.float32)
    hard = hard_products(rng, 256)
    size = (x.size + 512 + 256) // 64 * 64
    a, b, c = (np.concatenate(parts)[:size] for parts in zip((x, y, z), wild, hard, strict=True))
    order = rng.permutation(size)  # without it the hard products would be cut off in wide vectors
    return a[order], b[order], c[order]


def floats(lanes: int) -> Case:
    a, b, c = float_inputs("floats")
    x, y, z = (v.reshape(-1, lanes) for v in (a, b, c))
    with np.errstate(all="ignore"):
        expected = records(
            len(x),
            add=x + y,
            sub=x - y,
            mul=x * y,
            div=x / y,
            fma=fma_exact(x, y, z).reshape(x.shape),
            min=np.where(x < y, x, y),
            max=np.where(x > y, x, y),
            sqrt=np.sqrt(x),
            absolute=np.abs(x),
            neg=-x,
            round=np.rint(x),
            less=np.where(x < y, x, z),
            both=np.where((x <= y) & (y < z), x, z),
            either=np.where((x == y) | (z < y), y, z),
            separate=x * y + z,
        )
    return Case(a, b, c, len(x), expected)


def to_ints() -> Case:
    rng = generator("to_ints")
    wild = rng.integers(0, 2**32, 512, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = (rng.integers(-(2**33), 2**33, 512) / 2).astype(np.float32)
    a = np.resize(np.concatenate([F32_EDGES, wild, near]), 1056)
    a[np.isnan(a)] = np.nan  # quiet: LLVM does not promise what a signalling NaN does, and arithmetic makes none
    bounded = np.clip(np.where(np.isnan(a), -np.inf, a), -2147483648.0, 2147483520.0)
    expected = np.rint(bounded.astype(np.float64)).astype(np.int32).reshape(-1, 8)
    return Case(a, a, a, len(expected), records(len(expected), to_int=expected))


def halves_up() -> Case:
    a = np.arange(65536, dtype=np.uint16)
    rows = a.reshape(-1, 16)
    with np.errstate(invalid="ignore"):
        up = rows.view(np.float16).astype(np.float32)
    brain = (rows.astype(np.uint32) << 16).view(np.float32)
    return Case(a, a, a, len(rows), records(len(rows), by16=up, parts=up, bfloat=brain))


def halves_down() -> Case:
    rng = generator("halves_down")
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float64)
    halves = halves[np.isfinite(halves)]
    middle = (halves[:-1] + halves[1:]) / 2  # ties, and the next floats on both sides
    middle = middle[np.isfinite(middle)].astype(np.float32)
    beside = [np.nextafter(middle, np.float32(s), dtype=np.float32) for s in (-np.inf, np.inf)]
    wild = rng.integers(0, 2**32, 4096, dtype=np.uint64).astype(np.uint32).view(np.float32)
    a = np.concatenate([F32_EDGES, middle, *beside, wild])
    a = np.resize(a, (len(a) + 15) // 16 * 16)
    rows = a.reshape(-1, 16)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        down = rows.astype(np.float16)
    return Case(a, a, a, len(rows), records(len(rows), by16=down, parts=down))


# ---- integers -------------------------------------------------------------------------------------------


def integer_inputs(name: str, dtype: Any, count: int) -> tuple[Any, Any]:
    rng = generator(name)
    info = np.iinfo(dtype)
    edges = np.array([info.min, info.min + 1, 0, 1, 2, 7, info.max // 2, info.max - 1, info.max], dtype)
    x, y = (v.ravel() for v in np.meshgrid(edges, edges))
    wild = rng.integers(info.min, info.max, (2, max(count - x.size, 0)), dtype=dtype, endpoint=True)
    return np.concatenate([x, wild[0]])[:count], np.concatenate([y, wild[1]])[:count]


def integers(element: str, width: int) -> Case:
    dtype = np.dtype(element.replace("i", "int").replace("u", "uint"))
    lanes = width // dtype.itemsize
    a, b = integer_inputs(element, dtype, 512)
    x, y = a.reshape(-1, lanes), b.reshape(-1, lanes)
    signed = element.startswith("i")
    with np.errstate(over="ignore"):
        expected = records(
            len(x),
            add=x + y,
            sub=x - y,
            mul=x * y,
            min=np.minimum(x, y),
            max=np.maximum(x, y),
            left=x << 3,
            right=x >> 3,
            bit_and=x & y,
            bit_or=x | y,
            bit_xor=x ^ y,
            select=np.where(x < y, y, dtype.type(7)),
            absolute=np.abs(x) if signed else np.zeros_like(x),
            neg=(0 - x) if signed else np.zeros_like(x),
        )
    return Case(a, b, a, len(x), expected)


def fold(x: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """By halves, as the kernels do."""
    while x.shape[1] > 1:
        half = x.shape[1] // 2
        x = combine(x[:, :half], x[:, half:])
    return x[:, 0]


def lane_moves(element: str, lanes: int) -> Case:
    """One record for everything: the scalars of all blocks come after the vectors of all blocks."""
    if element == "f32":
        a, b, _ = float_inputs("lanes")
        a, b = (np.where(np.isfinite(v), v, np.float32(3.25)) for v in (a, b))
    else:
        a, b = integer_inputs("lanes", np.dtype(element.replace("i", "int").replace("u", "uint")), 512)
    x, y = a.reshape(-1, lanes), b.reshape(-1, lanes)
    both = np.concatenate([x, y], axis=1)
    zipped = np.stack([x, y], axis=2).reshape(len(x), -1)
    h = lanes // 2
    flipped = (np.ascontiguousarray(x).view(np.uint8) ^ 255).view(x.dtype)
    vectors = records(
        len(x),
        zip_low=zipped[:, :lanes],
        zip_high=zipped[:, lanes:],
        even=both[:, ::2],
        odd=both[:, 1::2],
        combine=both[:, h : h + lanes],
        splat_lane=np.repeat(x[:, -1:], lanes, axis=1),
        zero=np.zeros_like(x),
        swapped=np.roll(x, h, axis=1),
        flipped=flipped,
    )
    with np.errstate(over="ignore", under="ignore"):
        scalars = records(
            len(x),
            sum=fold(x, np.add),
            min=fold(x, lambda p, q: np.where(p < q, p, q)),
            max=fold(x, lambda p, q: np.where(p > q, p, q)),
            second=y[:, 1],
        )
    whole = np.zeros(1, np.dtype([("vectors", vectors.dtype, len(x)), ("scalars", scalars.dtype, len(x))]))
    whole["vectors"], whole["scalars"] = vectors, scalars
    return Case(a, b, a, len(x), whole)


def conversions() -> Case:
    rng = generator("conversions")
    around = np.array(
        [k + d for k in (0, 128, -128, 255, 256, 32767, -32768, 65535, 2**31 - 2, 2 - 2**31) for d in (-1, 0, 1)]
    )
    wild = rng.integers(-(2**31), 2**31, 256)
    a = np.resize(np.concatenate([around, wild]), 320).astype(np.int32)
    b = integer_inputs("conversions", np.dtype(np.int16), 320)[0]
    x, h = a.reshape(-1, 16), b.reshape(-1, 16)
    s8 = np.ascontiguousarray(h).view(np.int8)[:, :16]
    u8 = s8.view(np.uint8)

    def saturated(v: Any, dtype: Any) -> Any:
        return np.clip(v, np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)

    expected = records(
        len(x),
        i32_i16=saturated(x, np.int16),
        i32_u16=saturated(x, np.uint16),
        i32_i8=saturated(x, np.int8),
        i32_u8=saturated(x, np.uint8),
        i16_i8=saturated(h, np.int8),
        i16_u8=saturated(h, np.uint8),
        i16_i32=h.astype(np.int32),
        i8_i16=s8.astype(np.int16),
        i8_i32=s8.astype(np.int32),
        u8_i16=u8.astype(np.int16),
        u8_i32=u8.astype(np.int32),
        to_float=x.astype(np.float32),
        u32_u8=saturated(x.view(np.uint32), np.uint8),
        four=saturated(x[:, :4], np.uint8),
        eight=saturated(x[:, :8], np.uint8),
        next_four=saturated(x[:, 4:8], np.int8),
        u16_u32=h.view(np.uint16).astype(np.uint32),
    )
    return Case(a, b, a, len(x), expected)


def _groups(x: Any, y: Any, size: int) -> Any:
    """Sums of products of neighbours, exact."""
    return (x.astype(np.int64) * y.astype(np.int64)).reshape(len(x), -1, size).sum(axis=2)


def dots(width: int) -> Case:
    a8, b8 = integer_inputs("dots", np.dtype(np.int8), 1024)
    extremes = np.resize(np.array([-128, -128, 127, 127, -1, -1, -128, 127, 0], np.int8), 256)
    a8 = np.concatenate([np.full(128, -1, np.int8), extremes, a8])[:1024]
    b8 = np.concatenate([np.tile(np.array([127, 127, -128, -128], np.int8), 32), extremes[::-1], b8])[:1024]
    c = generator("dots").integers(-(2**30), 2**30, 256).astype(np.int32)
    a8 = np.concatenate([a8, a8[:4]])  # load_group reads four bytes further on
    s, w, start = a8[:1024].reshape(-1, width), b8.reshape(-1, width), c.reshape(-1, width // 4)
    u, v = s.view(np.uint8), w.view(np.uint8)
    a16, b16 = (np.ascontiguousarray(m).view(np.int16) for m in (s, w))

    def accumulated(x: Any, y: Any, size: int = 4) -> Any:
        return (start + _groups(x, y, size)).astype(np.int32)

    half = width // 2
    ahead = np.stack([np.tile(a8[o + 4 : o + 8], width // 4) for o in range(0, 1024, width)]).view(np.uint8)
    expected = records(
        len(s),
        ui=accumulated(u, w),
        ii=accumulated(s, w),
        uu=accumulated(u, v),
        limited=accumulated(u, w >> 1),
        pairs=accumulated(a16, b16, 2),
        products=np.clip(_groups(u, w, 2), -32768, 32767).astype(np.int16),
        add_pairs=accumulated(a16, np.ones_like(a16), 2),
        mul_low=(s[:, :half].astype(np.int16) * w[:, :half]).astype(np.int16),
        mul_high=(s[:, half:].astype(np.int16) * w[:, half:]).astype(np.int16),
        group=accumulated(ahead, w),
    )
    return Case(a8, b8, c, len(s), expected)


def outer_dots() -> Case:
    source = dots(16)
    s, w = source.a[:1024].reshape(-1, 2, 8), source.b.reshape(-1, 2, 8)
    start = source.c.reshape(-1, 4)

    def product(x: Any, y: Any) -> Any:
        exact = np.einsum("brk,bck->brc", x.astype(np.int64), y.astype(np.int64))
        return (start + exact.reshape(-1, 4)).astype(np.int32)

    u, v = s.view(np.uint8), w.view(np.uint8)
    expected = records(len(s), ui=product(u, w), ii=product(s, w), uu=product(u, v))
    return Case(source.a, source.b, source.c, len(s), expected)


def memory() -> Case:
    a = generator("memory").integers(1, 120, 260).astype(np.uint8)  # as float32: finite
    n, raw = 21, a.tobytes()

    def at(dtype: Any, offset: int, count: int = 1) -> Any:
        return np.frombuffer(raw, dtype, count, offset)

    expected = records(
        1,
        whole=at(np.float32, 1, 16)[None],
        four=at(np.uint8, 3, 4)[None],
        shorts=at(np.int16, 5, 4)[None],
        splat32=np.tile(at(np.float32, 8), 4)[None],
        splat16=np.tile(at(np.int16, 7), 8)[None],
        splat8=np.tile(at(np.uint8, 6), 16)[None],
        group=np.tile(at(np.int16, 9, 2), 8)[None],
        tenth=np.full((1, 4), 0.1, np.float32),
        i64=at(np.int64, 11),
        f32=at(np.float32, 12),
        u8=at(np.uint8, 13),
        i16=at(np.int16, 14),
        taken=np.array([11]),
        cancel=np.array([-5], np.int32),
        wide=(at(np.float32, 2, 64) + at(np.float32, 4))[None],
        bytes=np.array([16]),
        in_order=at(np.int32, 21, 8)[None],
    )
    return Case(a, np.zeros(1, np.int64), np.array([-5], np.int32), n, expected)


# ---- functions ------------------------------------------------------------------------------------------


def function_inputs(name: str) -> Any:
    """Edges, then a sweep of the function's range; a multiple of 8 values."""
    rng = generator("function")
    wide = rng.integers(0, 2**32, 4096, dtype=np.uint64).astype(np.uint32).view(np.float32)
    ranges = {
        **dict.fromkeys(("exp", "sigmoid", "silu"), (-105.0, 90.0)),
        "exp2_of_negative": (-130.0, 0.0),
        "log": (0.0, 20.0),
        **dict.fromkeys(("sin", "cos"), (-1000.0, 1000.0)),
        "erf": (-4.5, 4.5),
    }
    low, high = ranges.get(name, (-12.0, 12.0))
    sweep = np.linspace(low, high, 20000).astype(np.float32)
    near = rng.normal(0, 1, 4096).astype(np.float32)
    large = rng.uniform(-1e5, 1e5, 4096).astype(np.float32)
    values = np.concatenate([F32_EDGES, wide, sweep, near, large])
    return values[: len(values) // 8 * 8]


def function(name: str) -> Case:
    """No expectation of NumPy's: `test_simd_functions.py` measures errors; here paths are compared with each other."""
    a = function_inputs(name)
    blank = np.zeros((len(a) // 8, 8), np.float32)
    return Case(a, a, a, len(blank), records(len(blank), value=blank))


MAKERS: dict[str, Callable[[], Case]] = {
    "to_ints": to_ints,
    "halves_up": halves_up,
    "halves_down": halves_down,
    "conversions": conversions,
    "outer_dots": outer_dots,
    "memory": memory,
}


def case(name: str) -> Case:
    """The case of a kernel of `simd_kernels.KERNELS`, by name."""
    if name in MAKERS:
        return MAKERS[name]()
    family, _, rest = name.partition("_")
    if family == "function":
        return function(rest)
    if family == "lanes":
        element, lanes = rest.split("x")
        return lane_moves(element, int(lanes))
    for start, maker in (("floats", floats), ("dots", dots)):
        if name.startswith(start):
            return maker(int(name.removeprefix(start)))
    return integers(family, int(rest))


def run(function: Callable[[int, int, int, int, int], None], made: Case) -> Any:
    """Call a compiled kernel on copies of a case's inputs, between canaries; the output, structured as expected."""
    size = made.expected.nbytes
    out = np.full(size + 128, 0xA5, np.uint8)
    inputs = [np.array(v, copy=True) for v in (made.a, made.b, made.c)]
    out[64 : 64 + size] = 0  # what a kernel leaves out is 0 in the expectation too
    function(*(v.ctypes.data for v in inputs), out.ctypes.data + 64, made.n)
    if not ((out[:64] == 0xA5).all() and (out[64 + size :] == 0xA5).all()):
        raise AssertionError("the kernel wrote outside its output")
    return out[64 : 64 + size].view(made.expected.dtype)


def flat_differences(got: Any, expected: Any) -> list[str]:
    """`differences`, also for records of records."""
    nested = [name for name in expected.dtype.names if expected.dtype[name].base.names]
    if not nested:
        return differences(got, expected)
    return [f"{name}.{line}" for name in nested for line in differences(got[name][0], expected[name][0])]
