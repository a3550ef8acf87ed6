"""Every operation on real shapes: checked against the reference, then timed.

    TINYDIFF_PATH=avx2 python -m pytest bench/operations --shapes sd15-unet-512 --weights f32,i8 --threads 2 \\
        --benchmark-json out.json
    python bench/operations/table.py out.json

One path a process; `every_path.py` runs it on all that the machine has. The time is that of the operation as the
backend runs it: with quantising its input, its borders and its epilogue, on float32 rows. Long self-attention is timed
in float32 and, where i8 is among the weights, in 8-bit integers: its keys and values prepared (keys_i8), then the rest
(attention_i8).

A share above 100 % means operands that were still in the caches: the roofline counts memory. On avx2 and plain neon
attention in integers has another bound than the measured one: its operands are small enough for sums of four products
in 16 bits, five instructions for 64 products on AVX2 where the microbenchmark has six, so up to 1.2 times that rate.

With --benchmark-disable every row is checked and run, and nothing is timed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from bench.operations.calls import Calls, IntegerAttention, moved, operations
from bench.roofline import Roofline
from tinydiff.bench.shapes import Shape
from tinydiff_kernels.compiled import lower_simple
from tinydiff_kernels.compiled.backend import Compiled
from tinydiff_kernels.reference import Reference
from tinydiff_kernels.rounded import Rounded

BITS = {"f32": 32, "f16": 16, "i8": 8, "i8_limited": 8, "i4": 4}
LEAST_DB = {"f32": 100.0, "f16": 55.0, "i8": 70.0, "i8_limited": 25.0, "i4": 70.0}  # signal to error
DOUBLED_DB = {"i8": 25.0, "i8_limited": 22.0, "i4": 8.0}  # the kernels round sums of taps, the reference taps
ATTENTION_DB = 100.0  # all integers are the reference's


def decibels(wanted: Any, got: Any) -> float:
    error = np.square(np.asarray(got, np.float64) - wanted).mean()
    return float(10 * np.log10(np.square(wanted, dtype=np.float64).mean() / error)) if error else 300.0


def reference(shape: Shape, kind: Any) -> Reference:
    """What a kind computes exactly, where `ref/` has it: then only the order of sums differs."""
    if shape.kind == "attention" and kind == "i8":
        return IntegerAttention()
    return Rounded(lambda _weight: kind) if kind in ("i8", "i4") else Reference()


def least_decibels(shape: Shape, kind: str) -> float:
    if shape.kind == "attention":
        return ATTENTION_DB
    return DOUBLED_DB.get(kind, LEAST_DB[kind]) if shape.kind == "conv" and shape["doubled"] else LEAST_DB[kind]


def test_operation(
    shape: Shape,
    kind: Any,
    threads: int,
    limits: Roofline | None,
    benchmark: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call, checked, rows = Calls(shape).make()
    backend = Compiled(lambda _weight: kind, threads=threads)
    # the backend chooses by the layers before attention, of which there are none here
    monkeypatch.setattr(lower_simple, "in_integers", lambda _builder, _operation: kind == "i8")

    def run() -> Any:
        return call(backend).array

    made = benchmark(run) if limits is None else run()
    quality = decibels(checked(reference(shape, kind)).array, made[:rows])
    assert quality >= least_decibels(shape, kind)
    if limits is None:
        return
    benchmark(run)
    work, bytes_moved = operations(shape), moved(shape, BITS[kind])
    least = limits.seconds(work, bytes_moved, integers=kind.startswith("i"))
    taken = benchmark.stats.stats.median
    benchmark.extra_info |= {
        "shape": str(shape),
        "weights": kind,
        "decibels": quality,
        "operations": work,
        "bytes": bytes_moved,
        "operations_per_second": work / taken,
        "share_of_roofline": least / taken,
        "roofline": asdict(limits),
    }
