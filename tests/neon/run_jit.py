"""On the emulated core: compile with Numba there, run in the thread pool, compare with the outputs expected.

run_jit.py CASES FOLDER...
"""

from __future__ import annotations

import json
import pickle
import sys
import threading
from pathlib import Path

import numpy as np

cases, *folders = sys.argv[1:]
sys.path[:0] = folders

import simd_data  # noqa: E402
import simd_kernels  # noqa: E402

from tinydiff_kernels import _jit, pool  # noqa: E402

with Path(cases).open("rb") as file:
    table = pickle.load(file)
bad = []
for name in ("dots16", "function_exp"):
    function = _jit.jitted(simd_kernels.KERNELS[name])
    lines = simd_data.flat_differences(simd_data.run(function, table[name]), table[name].expected)
    bad += [f"{name}: {line}" for line in lines]
dots = _jit.jitted(simd_kernels.KERNELS["dots16"])
seen: set[int] = set()
made = table["dots16"]


def kernel(desc: int, counter: int, cancel: int) -> None:
    """A Python kernel that runs the compiled one: the pool under emulation, three threads."""
    lines = simd_data.flat_differences(simd_data.run(dots, made), made.expected)
    bad.extend(lines)
    seen.add(threading.get_ident())


pool.run(kernel, np.zeros(8, np.int64), threads=3)
chosen = _jit.settings()
print("\n".join(bad))
print(json.dumps({"bad": len(bad), "path": chosen.path.name, "features": chosen.features, "threads": len(seen)}))
