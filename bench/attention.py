"""Attention in float32, in 8-bit integers, and torch's scaled_dot_product_attention, interleaved, medians. torch is
optional.

    python bench/attention.py TOKENS HEADS WIDTH THREADS [KEYS]

Prints the CPU, its flags, the path, and each side's milliseconds. To hold both sides to AVX2:

    TINYDIFF_PATH=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 DNNL_MAX_CPU_ISA=AVX2 \\
        MKL_ENABLE_INSTRUCTIONS=AVX2 python bench/attention.py ...

torch's attention multiplies with MKL, which heeds only the last of these (and on CPUs of other makers chooses itself).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tinydiff_kernels import _jit, cpu, dispatch, pool, words
from tinydiff_kernels.attention import descriptor_i8 as d8
from tinydiff_kernels.attention.descriptor import WORDS, Shape, Strides, attention_fields, workspace_bytes

ROUNDS = 9
SECONDS = 0.1  # of work in one measurement, at least, by a guess of 50 GFLOP/s


def our_side(q: Any, k: Any, v: Any, heads: int, threads: int) -> Callable[[], Any]:
    """As the backend runs it: workspace and descriptor are made beforehand."""
    shape = Shape(1, heads, len(q), len(k), q.shape[1] // heads, v.shape[1] // heads)
    room, out = np.zeros(workspace_bytes(shape, threads) + 64, np.uint8), np.empty_like(q)
    workspace = room[-room.ctypes.data % 64 :]
    strides = Strides(*(x.strides[0] for x in (q, k, v, out)))
    fields = attention_fields(shape, q=q, k=k, v=v, output=out, strides=strides, workspace=workspace)
    descriptor, kernel = words.filled(WORDS, fields), dispatch.kernel("attention_f32")

    def run(_operands: Any = fields) -> Any:  # keeps the arrays that the descriptor points to
        pool.run(kernel, descriptor, threads=threads)
        return out

    return run


def integer_side(q: Any, k: Any, v: Any, heads: int, threads: int) -> Callable[[], Any]:
    """The same in 8-bit integers: keys and values are prepared in every call, as in a network."""
    shape = d8.Shape(1, heads, len(q), len(k), q.shape[1] // heads, v.shape[1] // heads)
    room, out = np.zeros(d8.workspace_bytes(shape, threads) + 64, np.uint8), np.empty_like(q)
    workspace, whole = room[-room.ctypes.data % 64 :], shape.prepared_bytes
    strides = Strides(*(x.strides[0] for x in (q, k, v, out)))
    fields = d8.attention_fields(
        shape, q=q, k=k, v=v, output=out, strides=strides, prepared=workspace[:whole], scratch=workspace[whole:]
    )
    descriptor, kernels = words.filled(d8.WORDS, fields), [dispatch.kernel(n) for n in ("keys_i8", "attention_i8")]

    def run(_operands: Any = fields) -> Any:
        for kernel in kernels:
            pool.run(kernel, descriptor, threads=threads)
        return out

    return run


def torch_side(q: Any, k: Any, v: Any, heads: int, threads: int) -> Callable[[], Any] | None:
    """torch on the same arrays, as diffusers calls it: views [1, heads, tokens, width]."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    views = [torch.from_numpy(x).view(1, len(x), heads, -1).transpose(1, 2) for x in (q, k, v)]
    return lambda: torch.nn.functional.scaled_dot_product_attention(*views)


def medians(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Milliseconds of a call. The first round, which compiles and warms caches, is not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            for _ in range(repeats):
                side()
            times[name].append((time.perf_counter() - start) / repeats * 1e3)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main(tokens: int, heads: int, width: int, threads: int, keys: int) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(0, 1, (rows, heads * width)).astype(np.float32) for rows in (tokens, keys, keys))
    sides = {"tinydiff": our_side(q, k, v, heads, threads), "integers": integer_side(q, k, v, heads, threads)}
    other = torch_side(q, k, v, heads, threads)
    if other is not None:
        sides["torch"] = other
        error = np.abs(sides["tinydiff"]() - other().transpose(1, 2).reshape(tokens, -1).numpy()).max()
        print(f"largest difference from torch: {error:.1e}")
    flops = 4 * tokens * keys * heads * width
    found = medians(sides, max(1, int(SECONDS * 50e9 / flops)))
    here = cpu.this_cpu()
    print(f"cpu: {here.model}; {', '.join(sorted(here.features))}")
    print(
        f"path: {_jit.settings().path.name}; {tokens} queries, {keys} keys, {heads} heads of {width}, {threads} threads"
    )
    for name, milliseconds in found.items():
        print(f"{name}: {milliseconds:.2f} ms, {flops / milliseconds / 1e6:.0f} GFLOP/s")
    print(f"integers against float32: {found['tinydiff'] / found['integers']:.2f}")
    if other is not None:
        print(f"ratio: {found['torch'] / found['tinydiff']:.2f}")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    if len(numbers) not in (4, 5):
        sys.exit(__doc__)
    main(*numbers[:4], keys=numbers[4] if len(numbers) == 5 else numbers[0])
