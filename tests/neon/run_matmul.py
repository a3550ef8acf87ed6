"""On the emulated core: the matmul kernels of a cross-compiled library, compared with the bits expected.

run_matmul.py LIBRARY.so EXPECTED FOLDER...
"""

from __future__ import annotations

import ctypes
import json
import pickle
import sys
from pathlib import Path

library, expected_file, *folders = sys.argv[1:]
sys.path[:0] = folders

import matmul_calls  # noqa: E402

loaded = ctypes.CDLL(library)
expected = pickle.loads(Path(expected_file).read_bytes())
bad: list[str] = []
calls = 0
for name, results in expected.items():
    function = getattr(loaded, name)
    function.restype, function.argtypes = None, [ctypes.c_int64] * 3
    for i, (got, want) in enumerate(zip(matmul_calls.results(name, function, signed=True), results, strict=True)):
        calls += 1
        bad += [f"{name} {i}"] if got.tobytes() != want else []
print("calls that differ:", bad, "numba imported:", "numba" in sys.modules)
print(json.dumps({"bad": len(bad) + ("numba" in sys.modules), "calls": calls}))
