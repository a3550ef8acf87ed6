"""Matmul kernels on shapes of Stable Diffusion's UNet, against NumPy's and torch's, in turn, on the same arrays.

    python bench/matmul.py linear [--threads 1]
        float32 against NumPy (OpenBLAS), int8 and int4 against this core's float32 multiply-adds ("peak", the loop of
        `roofline.py`)
    python bench/matmul.py conv [--threads 2]
        3x3 convolutions: float32 and int8 against torch, channels last

Held to AVX2: TINYDIFF_PATH=avx2 OPENBLAS_CORETYPE=Haswell ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2; int8 is
then int8_limited. Medians of --rounds, in which all take their turn; a measurement is as many calls as take 20 ms,
since a core that has just slept needs a while to reach its speed. GOP/s counts multiply-adds twice.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from roofline import multiply_adds

from tinydiff_kernels import dispatch, pool, words
from tinydiff_kernels.cpu import this_cpu
from tinydiff_kernels.matmul import call, descriptor, packing
from tinydiff_kernels.matmul.geometry import conv_geometry, linear_geometry
from tinydiff_kernels.rows import Grid

LINEAR = (  # rows, inputs, outputs
    (4096, 320, 320),
    (4096, 320, 2560),
    (1024, 640, 640),
    (1024, 2560, 640),
    (256, 1280, 1280),
    (64, 1280, 1280),
)
CONVS = (  # side, inputs, outputs
    (64, 320, 320),
    (64, 640, 320),
    (64, 960, 320),
    (32, 640, 640),
    (32, 1280, 640),
    (16, 1280, 1280),
    (8, 1280, 1280),
)
MEASUREMENT = 0.02  # s of calls, at least
Run = Callable[[], Any]


def packed_of(kind: str, weight: Any) -> packing.Packed:
    if kind == "i4":
        return packing.pack_i4(weight)
    if kind.startswith("i8"):
        return packing.pack_i8(weight, limited=kind == "i8_limited")
    return packing.pack_float(weight)


def operand(kind: str, rng: np.random.Generator, *shape: int) -> Any:
    """Rows or pixels as the kernel reads them, channels padded where they are bytes."""
    if kind == "f32":
        return rng.normal(size=shape).astype(np.float32)
    multiple = packing.GROUP if kind == "i4" else packing.CHANNEL_MULTIPLE
    return rng.integers(0, 256, (*shape[:-1], -(-shape[-1] // multiple) * multiple), np.uint8)


def prepared(kind: str, packed: packing.Packed, geometry: Any, x: Any, out: Any, threads: int) -> Run:
    """A call with its descriptor filled once, on cache lines as in a program's arena."""
    fields = call.matmul_fields(
        packed, geometry, input=packing.aligned(x), output=packing.aligned(out),
        bias=np.zeros(packed.panels * 16, np.float32), scratch=packing.aligned(call.scratch_for(threads)),
        records=np.ones(2, np.float32), record_per_image=True,
    )  # fmt: skip
    desc, kernel = words.filled(descriptor.WORDS, fields), dispatch.kernel(f"matmul_{kind}")

    def run() -> Any:
        pool.run(kernel, desc, threads=threads)
        return fields  # keeps the arrays

    return run


def linear(kind: str, shape: tuple[int, int, int], threads: int) -> Run:
    rows, inputs, outputs = shape
    rng = np.random.default_rng(0)
    x, out = operand(kind, rng, rows, inputs), np.empty((rows, outputs), np.float32)
    packed = packed_of(kind, rng.normal(size=(outputs, inputs)).astype(np.float32))
    return prepared(kind, packed, linear_geometry(Grid(1, 1, rows), x.strides[0], 4 * outputs), x, out, threads)


def conv(kind: str, shape: tuple[int, int, int], threads: int) -> Run:
    side, inputs, outputs = shape
    rng, padded = np.random.default_rng(0), Grid(1, side + 2, side + 2)
    x, out = operand(kind, rng, 1, side + 2, side + 2, inputs), np.empty((side * side, outputs), np.float32)
    packed = packed_of(kind, rng.normal(size=(outputs, inputs, 3, 3)).astype(np.float32))
    geometry = conv_geometry(padded, x.strides[2], Grid(1, side, side), 4 * outputs, (3, 3), 1)
    return prepared(kind, packed, geometry, x, out, threads)


def numpy_linear(shape: tuple[int, int, int]) -> Run:
    rows, inputs, outputs = shape
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, inputs)).astype(np.float32)
    weight = rng.normal(size=(outputs, inputs)).astype(np.float32)
    return lambda: x @ weight.T


def torch_conv(shape: tuple[int, int, int], threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)
    side, inputs, outputs = shape
    x = torch.randn(1, inputs, side, side).to(memory_format=torch.channels_last)
    layer = torch.nn.Conv2d(inputs, outputs, 3, padding=1).to(memory_format=torch.channels_last)

    def run() -> Any:
        with torch.inference_mode():
            return layer(x)

    return run


def seconds_of(run: Run, calls: int) -> float:
    """Of one call, the mean of so many."""
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - started) / calls


def medians(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Seconds of a call. The first call compiles, the second tells how many make a measurement."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    calls = {name: 1 + int(MEASUREMENT / seconds_of(run, 1)) for name, run in runs.items()}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run, calls[name]))
            time.sleep(0.02)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("linear", "conv"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    path = dispatch.choose().path.name
    print(f"{this_cpu().model}, path {path}, features {' '.join(sorted(this_cpu().features))}")
    byte = "i8_limited" if path == "avx2" else "i8"
    totals: dict[str, float] = {}
    for shape in LINEAR if options.what == "linear" else CONVS:
        of_peak: Iterable[str] = ()
        if options.what == "linear":
            threads, work = options.threads or 1, 2 * shape[0] * shape[1] * shape[2]
            runs = {"numpy": numpy_linear(shape)} | {k: linear(k, shape, threads) for k in ("f32", byte, "i4")}
            runs["peak"], operations = multiply_adds(threads)
        else:
            threads, work = options.threads or 2, 18 * shape[0] ** 2 * shape[1] * shape[2]
            runs = {"torch": torch_conv(shape, threads)} | {k: conv(k, shape, threads) for k in ("f32", byte)}
        found = medians(runs, options.rounds)
        if "peak" in found:
            found["peak"] *= work / operations
            of_peak = (f"{name} {found['peak'] / found[name]:.2f}x peak" for name in (byte, "i4"))
        first = next(iter(found.values()))
        rates = (f"{n} {work / s / 1e9:.0f} GOP/s ({first / s:.2f}x)" for n, s in found.items())
        print(shape, *rates, *of_peak, sep="  ")
        for name, taken in found.items():
            totals[name] = totals.get(name, 0.0) + taken
    first = next(iter(totals.values()))
    print("in total", *(f"{name} {1e3 * s:.1f} ms ({first / s:.2f}x)" for name, s in totals.items()), sep="  ")


if __name__ == "__main__":
    main()
