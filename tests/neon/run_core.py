"""On the emulated core: every kernel and a few pictures by a library compiled ahead of time, compared with x86's bits.

    run_core.py EXPECTED FOLDER...        TINYDIFF_NATIVE names the library; FOLDERs go to sys.path

EXPECTED (made by test_neon.py) says which paths to run, and has the bits. Prints a line for each thing that differs;
the last line is JSON.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import pickle
import sys
import time
from pathlib import Path

expected_file, *folders = sys.argv[1:]
sys.path[:0] = folders

import kernel_calls  # noqa: E402
import simd_data  # noqa: E402

from tinydiff_kernels import cpu, dispatch, native  # noqa: E402
from tinydiff_weights.open import open_model  # noqa: E402
from tinydiff_weights.packed import weights_of  # noqa: E402

started = time.perf_counter()
expected = pickle.loads(Path(expected_file).read_bytes())
bad: list[str] = []
marks: dict[str, float] = {}


def mark(name: str) -> None:
    marks[name] = round(time.perf_counter() - started, 1)


for path, library in expected["vector libraries"].items():
    loaded = ctypes.CDLL(library)
    for name, case in expected["vector operations"].items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = None, [ctypes.c_int64] * 5
        lines = simd_data.flat_differences(simd_data.run(function, case), case.expected)
        bad += [f"{path}: {name}: {line}" for line in lines]
    mark(f"{path}: vector operations")

calls = 0
for path in expected["vector libraries"]:
    kernels = {operation: native.function(operation, path) for operation in dispatch.KERNELS}
    assert None not in kernels.values(), native.library()[1]
    for operation, made in kernel_calls.digests(kernels, dispatch.BY_NAME[path]).items():
        calls += len(made)
        wanted = expected["kernels"][operation]
        bad += [f"{path}: {operation} {i}" for i, digest in enumerate(made) if digest != wanted[i]]
    mark(f"{path}: kernels")

for spec, digest in expected["pictures"].items():
    if kernel_calls.picture_digest(spec) != digest:
        bad.append(f"picture {spec}")
    mark(f"picture {spec}")

shipped = open_model()

here = cpu.detect()
try:
    dispatch.choose(here, "i8mm")
    refusal = ""
except dispatch.PathError as error:
    refusal = str(error)
print("\n".join(bad))
result = {
    "bad": len(bad),
    "calls": calls,
    "vector operations": len(expected["vector operations"]),
    "model": here.model,
    "features": sorted(here.features),
    "paths": [path.name for path in dispatch.available(here)],
    "running": sorted({(r.path, r.made_by) for r in dispatch.running(dispatch.choose())}),
    "i8mm": refusal,
    "embedded model": [shipped.kind, weights_of(shipped)],
    "compilers": [n for n in ("numba", "llvmlite") if n in sys.modules or importlib.util.find_spec(n)],
    "seconds": marks,
}
print(json.dumps(result))
