"""On the emulated core: norms and elementwise from a cross-compiled library, compared with the bits expected.

run_norm.py LIBRARY.so EXPECTED FOLDER...
"""

from __future__ import annotations

import ctypes
import json
import pickle
import sys
from pathlib import Path

library, expected_file, *folders = sys.argv[1:]
sys.path[:0] = folders

import norm_calls  # noqa: E402

from tinydiff_kernels.ref.quantise import FLIP  # noqa: E402

loaded = ctypes.CDLL(library)
kernels = {name: getattr(loaded, name) for name in norm_calls.NAMES}
for function in kernels.values():
    function.restype, function.argtypes = None, [ctypes.c_int64] * 3
expected = pickle.loads(Path(expected_file).read_bytes())
got = [result.tobytes() for result in norm_calls.results(kernels, FLIP)]
bad = [i for i, (x, y) in enumerate(zip(got, expected, strict=True)) if x != y]
print("results that differ:", bad, "numba imported:", "numba" in sys.modules)
print(json.dumps({"bad": len(bad) + ("numba" in sys.modules), "calls": len(got)}))
