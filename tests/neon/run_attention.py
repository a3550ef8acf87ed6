"""On the emulated core: attention from a cross-compiled library, compared with the bits expected.

run_attention.py LIBRARY.so EXPECTED FOLDER...
"""

from __future__ import annotations

import ctypes
import json
import pickle
import sys
from pathlib import Path

library, expected_file, *folders = sys.argv[1:]
sys.path[:0] = folders

import attention_calls  # noqa: E402

function = ctypes.CDLL(library).attention_f32
function.restype, function.argtypes = None, [ctypes.c_int64] * 3
expected = pickle.loads(Path(expected_file).read_bytes())
got = [result.tobytes() for result in attention_calls.results(function)]
bad = [i for i, (x, y) in enumerate(zip(got, expected, strict=True)) if x != y]
print("calls that differ:", bad, "numba imported:", "numba" in sys.modules)
print(json.dumps({"bad": len(bad) + ("numba" in sys.modules), "calls": len(got)}))
