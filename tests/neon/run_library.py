"""On the emulated core: call every kernel of a cross-compiled library and compare with the outputs expected.

    run_library.py LIBRARY.so CASES FOLDER...        CASES: made by test_neon.py; FOLDERs go to sys.path

Prints what the core's detection says and a line for each kernel that differs; the last line is JSON.
"""

from __future__ import annotations

import ctypes
import json
import pickle
import sys
from pathlib import Path

library, cases, *folders = sys.argv[1:]
sys.path[:0] = folders

import simd_data  # noqa: E402

from tinydiff_kernels import cpu, dispatch  # noqa: E402

if "numba" in sys.modules:
    raise SystemExit("a library compiled ahead of time must not need Numba")
loaded = ctypes.CDLL(library)
bad: list[str] = []
with Path(cases).open("rb") as file:
    table = pickle.load(file)
for name, made in table.items():
    function = getattr(loaded, name)
    function.restype, function.argtypes = None, [ctypes.c_int64] * 5
    lines = simd_data.flat_differences(simd_data.run(function, made), made.expected)
    bad += [f"{name}: {line}" for line in lines]
print("\n".join(bad))
here = cpu.detect()
result = {
    "kernels": len(table),
    "bad": len(bad),
    "features": sorted(here.features),
    "model": here.model,
    "paths": [path.name for path in dispatch.available(here)],
    "best": dispatch.choose(here, "").path.name,
}
print(json.dumps(result))
