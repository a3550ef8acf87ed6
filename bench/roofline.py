"""What this core can do at most, measured now: multiply-adds in float32, 8-bit products, copying memory.

    python bench/roofline.py [--threads N]

The loops hold everything in registers and do nothing else, so no kernel can beat them; a kernel's share of the
roofline (Williams, Waterman and Patterson 2009) is the time that the slower of its arithmetic and its memory traffic
would need, over what it took. Copies are of blocks far beyond the caches; bandwidth counts what is read and what is
written.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "weights")]

import numpy as np  # noqa: E402

from tinydiff_kernels import _jit, dispatch, pool, words  # noqa: E402
from tinydiff_kernels.simd import (  # noqa: E402
    dot,
    dot_limited,
    f32x16,
    f32x32,
    fetch_add,
    fma,
    i8x64,
    i8x128,
    i32x16,
    i32x32,
    i64,
    load,
    load_group,
    store,
    u8x64,
    u8x128,
    zero,
)

BLOCKS, ROUNDS, REPEATS = 64, 5_000, 30  # units of work, iterations of each, least number of runs
LEAST_SECONDS = 0.5  # of runs: others' work, and threads that have just been started, spoil tens of milliseconds
BLOCK, COUNT, SOURCE, TARGET = 0, 8, 16, 24  # fields of the descriptor: bytes or rounds, units, addresses
COPIED = 1 << 26  # bytes
# Sums at a time: enough to hide latency, few enough for 16 registers. Of AVX2's, 6 chains of 16 numbers take 12 and
# their operand 2; 8 chains did not fit, were stored and loaded again, and showed a peak that kernels passed. Its
# products of bytes need registers for what is between (vpmaddubsw, vpmaddwd), and their chains are short: 5.
CHAINS, BYTE_CHAINS, NARROW_BYTE_CHAINS = 6, 6, 5


@dataclass(frozen=True)
class Roofline:
    """Of so many threads together. `int8` counts products and sums as two operations, as `float32` does."""

    threads: int
    float32: float  # operations a second
    int8: float
    bandwidth: float  # bytes a second

    def seconds(self, operations: float, moved: float, *, integers: bool) -> float:
        """The least time for so many operations and bytes."""
        return max(operations / (self.int8 if integers else self.float32), moved / self.bandwidth)


def _multiply_adds(vector: Any) -> Callable[[int, int, int], None]:
    def kernel(desc: int, counter: int, cancel: int) -> None:
        source, rounds = load(i64, desc, SOURCE), load(i64, desc, BLOCK)
        x = load(vector, source, 0)
        while fetch_add(counter, 1) < load(i64, desc, COUNT):
            a, b, c, d, e, f = x, x, x, x, x, x
            for _ in range(rounds):
                a, b, c = fma(x, x, a), fma(x, x, b), fma(x, x, c)
                d, e, f = fma(x, x, d), fma(x, x, e), fma(x, x, f)
            store(load(i64, desc, TARGET), 0, ((a + b) + (c + d)) + (e + f))

    return kernel


def _byte_products(
    sums: Any, bytes_of_rows: Any, weights: Any, product: Any, chains: int
) -> Callable[[int, int, int], None]:
    """Rows and weights change, or LLVM would take the product out of the loop; they come from the first-level cache."""

    def kernel(desc: int, counter: int, cancel: int) -> None:
        source, rounds = load(i64, desc, SOURCE), load(i64, desc, BLOCK)
        while fetch_add(counter, 1) < load(i64, desc, COUNT):
            a, b, c = zero(sums), zero(sums), zero(sums)
            d, e, f = zero(sums), zero(sums), zero(sums)
            for i in range(rounds):
                x = source + (i & 7) * 64
                y = load(weights, x, 0)
                a = product(a, load_group(bytes_of_rows, x, 0), y)
                b = product(b, load_group(bytes_of_rows, x, 4), y)
                c = product(c, load_group(bytes_of_rows, x, 8), y)
                d = product(d, load_group(bytes_of_rows, x, 12), y)
                e = product(e, load_group(bytes_of_rows, x, 16), y)
                if chains == BYTE_CHAINS:
                    f = product(f, load_group(bytes_of_rows, x, 20), y)
            store(load(i64, desc, TARGET), 0, ((a + b) + (c + d)) + (e + f))

    return kernel


def _copy(desc: int, counter: int, cancel: int) -> None:
    block = load(i64, desc, BLOCK)
    while True:
        unit = fetch_add(counter, 1)
        if unit >= load(i64, desc, COUNT):
            break
        source, target = load(i64, desc, SOURCE) + unit * block, load(i64, desc, TARGET) + unit * block
        for offset in range(0, block, 64):
            store(target, offset, load(f32x16, source, offset))


def _call(kernel: Any, fields: dict[int, Any], threads: int) -> Callable[[], Any]:
    descriptor, compiled = words.filled(4, fields), _jit.jitted(kernel)

    def run() -> Any:
        pool.run(compiled, descriptor, threads=threads)
        return fields  # keeps the arrays

    return run


def _best(run: Callable[[], Any]) -> float:
    """Seconds of the fastest run: others only take time away."""
    times: list[float] = []
    end = time.perf_counter() + LEAST_SECONDS
    while len(times) <= REPEATS or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _is_wide() -> bool:
    return dispatch.choose().path.name == "avx512vnni"  # two registers of 16 floats a chain, as the kernels have


def _small() -> dict[int, Any]:
    source = np.zeros(1024 + 64, np.uint8)
    source = source[-source.ctypes.data % 64 :][:1024]  # loads that cross cache lines show 6 % less
    return {BLOCK: ROUNDS, COUNT: BLOCKS, SOURCE: source, TARGET: np.zeros(1024, np.uint8)}


def multiply_adds(threads: int) -> tuple[Callable[[], Any], float]:
    """A call of nothing but float32 multiply-adds (some 0.5 ms on one core), and how many operations it makes."""
    vector, lanes = (f32x32, 32) if _is_wide() else (f32x16, 16)
    return _call(_multiply_adds(vector), _small(), threads), 2.0 * lanes * BLOCKS * ROUNDS * CHAINS


def measure(threads: int) -> Roofline:
    wide = _is_wide()
    lanes = 32 if wide else 16
    sums, unsigned, signed = (i32x32, u8x128, i8x128) if wide else (i32x16, u8x64, i8x64)
    if dispatch.choose().path.signed_bytes:
        unsigned = signed
    loop, operations = multiply_adds(threads)
    narrow = dispatch.choose().path.name == "avx2"
    product, chains = (dot_limited, NARROW_BYTE_CHAINS) if narrow else (dot, BYTE_CHAINS)  # the fastest exact one
    products = 4 * lanes * BLOCKS * ROUNDS * chains
    bytes_loop = _call(_byte_products(sums, unsigned, signed, product, chains), _small(), threads)
    source, target = np.ones(COPIED, np.uint8), np.ones(COPIED, np.uint8)
    copied = {BLOCK: COPIED // BLOCKS, COUNT: BLOCKS, SOURCE: source, TARGET: target}
    copy_loop = _call(_copy, copied, threads)
    return Roofline(threads, operations / _best(loop), 2 * products / _best(bytes_loop), 2 * COPIED / _best(copy_loop))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    found = measure(parser.parse_args().threads)
    print(
        f"path {dispatch.choose().path.name}, {found.threads} threads: float32 {found.float32 / 1e9:.0f} GFLOP/s, "
        f"int8 {found.int8 / 1e9:.0f} GOP/s, copy {found.bandwidth / 1e9:.1f} GB/s"
    )


if __name__ == "__main__":
    main()
