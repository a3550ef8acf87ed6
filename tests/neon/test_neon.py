"""The kernels on ARM, under emulation: cross-compiled here, run on cores of three generations, bits equal to x86's.

Collected only when named. TINYDIFF_ARM is the folder that `setup_arm.sh` made. Emulated time says nothing about ARM's.
Starting Python takes seconds there, so each core does all of its work in one process.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import kernel_calls
import pytest
import simd_data
import simd_kernels
from kernel_calls import Picture
from miniatures import write_folder

from tinydiff.packing import Recipe
from tinydiff.quantize import quantize
from tinydiff_kernels import aot, build_aot, cpu, dispatch, native
from tinydiff_weights.open import open_model

TESTS = Path(__file__).parents[1]
FOLDERS = [str(TESTS), *(str(TESTS.parent / part) for part in (".", "kernels", "weights"))]
SIGILL = 4


LONG = Picture("int8", 256, steps=1, output="latent")  # attention in integers begins at 256 tokens


@dataclass(frozen=True)
class Core:
    """What a core has, best path first; the paths whose kernels are called one by one, and the pictures it makes."""

    features: list[str]
    paths: list[str]
    kernels: list[str]
    pictures: list[Picture]


CORES = {
    "cortex-a53": Core(
        ["neon"], ["neon", "generic"], ["neon", "generic"], [Picture("float32", 64), Picture("int8", 64)]
    ),
    "cortex-a76": Core(
        ["dotprod", "neon"],
        ["dotprod", "neon", "generic"],
        ["dotprod"],
        [Picture("float32", 64, threads=2), Picture("int8", 128), LONG],
    ),
    "cortex-a710": Core(
        ["dotprod", "i8mm", "neon"],
        ["i8mm", "dotprod", "neon", "generic"],
        ["i8mm"],
        [Picture("float32", 128), Picture("int8", 64, threads=3)],
    ),
}


@lru_cache(maxsize=1)
def emulator() -> Path:
    folder = os.environ.get("TINYDIFF_ARM", "")
    if not folder or not (Path(folder) / "ready").exists():
        pytest.fail("set TINYDIFF_ARM to a folder made by tests/neon/setup_arm.sh")
    return Path(folder)


def on_arm(
    core: str, *arguments: str, python: str = "armpy", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Python script on an emulated core."""
    variables = {**os.environ, "QCPU": core, "OPENBLAS_NUM_THREADS": "1", **(environment or {})}
    variables.pop("PYTHONPATH", None)
    command = [str(emulator() / "bin" / python), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=900, check=False)


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["bad"] == 0, done.stdout[-3000:]
    return result


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All product kernels for all paths, as `build_aot` makes them."""
    output = tmp_path_factory.mktemp("library") / "tinydiff.so"
    build_aot.build("aarch64-linux", output, linker=str(emulator() / "bin/aarch64-linux-gnu-ld"))
    return output


@pytest.fixture(scope="session")
def vector_libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every vector operation, one library for each path."""
    folder = tmp_path_factory.mktemp("libraries")
    made = {}
    for path in sorted({path for core in CORES.values() for path in core.kernels}):
        compiled = aot.compile_object(simd_kernels.EXPORTS, aot.Machine.of(dispatch.BY_NAME[path], "aarch64"))
        assert compiled.undefined == []
        made[path] = str(folder / f"{path}.so")
        aot.link_shared([compiled.object], Path(made[path]), str(emulator() / "bin/aarch64-linux-gnu-ld"))
    return made


@pytest.fixture(scope="session")
def vector_cases() -> dict[str, Any]:
    """Inputs with NumPy's outputs; for the polynomials, with the bits that this machine computes."""
    table = {name: simd_data.case(name) for name in simd_kernels.KERNELS}
    functions = [name for name in table if name.startswith("function_")]
    here = aot.Machine.of(dispatch.available()[0], cpu.this_cpu().arch)
    compiled = aot.Loaded(aot.compile_object({n: simd_kernels.EXPORTS[n] for n in functions}, here).object, functions)
    for name in functions:
        table[name].expected[:] = simd_data.run(compiled.function(name, 5), table[name])
    return table


@pytest.fixture(scope="session")
def packed_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature in one file with layers of 8 bits, of 4, and wide ones, in every use."""
    folder = tmp_path_factory.mktemp("packed")
    quantize(open_model(write_folder(folder / "model", "sd1", dtype="F16")), folder / "x.safetensors", Recipe("mixed"))
    return folder / "x.safetensors"


@pytest.fixture(scope="session")
def here(packed_here: Path) -> dict[str, Any]:
    """What this machine computes with kernels that Numba compiles in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.NATIVE_VARIABLE, "0")
        native.library.cache_clear()
        kernels = {operation: dispatch.kernel(operation) for operation in dispatch.KERNELS}
        pictures = sorted({picture for core in CORES.values() for picture in core.pictures})
        pictures.append(Picture("auto", 64, steps=2, model=str(packed_here)))
        return {
            "kernels": kernel_calls.digests(kernels, dispatch.choose().path),
            "pictures": {picture: kernel_calls.picture_digest(picture) for picture in pictures},
        }


@pytest.mark.parametrize("core", CORES)
def test_all_kernels_and_pictures_have_the_bits_of_this_machine(
    core: str,
    library: Path,
    vector_libraries: dict[str, str],
    vector_cases: dict[str, Any],
    here: dict[str, Any],
    tmp_path: Path,
) -> None:
    """On a Python without Numba: the library is all that computes. Models were packed on this machine, the embedded
    one too."""
    wanted = CORES[core]
    expected = {
        "vector libraries": {path: vector_libraries[path] for path in wanted.kernels},
        "vector operations": vector_cases,
        "kernels": here["kernels"],
        "pictures": {p: bits for p, bits in here["pictures"].items() if p in wanted.pictures or p.model is not None},
    }
    (tmp_path / "expected.pickle").write_bytes(pickle.dumps(expected))
    script = str(Path(__file__).with_name("run_core.py"))
    environment = {native.NATIVE_VARIABLE: str(library), "XDG_CACHE_HOME": str(tmp_path)}
    result = last_line(on_arm(core, script, str(tmp_path / "expected.pickle"), *FOLDERS, environment=environment))
    print(core, result)
    assert result["features"] == wanted.features
    assert result["paths"] == wanted.paths
    assert result["running"] == [[wanted.paths[0], "library"]]
    assert result["compilers"] == []
    assert result["embedded model"] == ["packed", "int8"]
    assert result["vector operations"] == len(simd_kernels.KERNELS)
    assert result["calls"] == len(wanted.kernels) * sum(map(len, here["kernels"].values()))
    if "i8mm" in wanted.paths:
        assert result["i8mm"] == ""
    else:
        lacking = "i8mm" if "dotprod" in wanted.paths else "dotprod, i8mm"
        assert f"lacks {lacking}. It can run: {', '.join(wanted.paths)}." in result["i8mm"]


def test_the_emulator_really_lacks_what_the_core_lacks(vector_libraries: dict[str, str]) -> None:
    """So the tests above prove that a path uses no instruction beyond its own."""
    code = (
        "import ctypes, sys; memory = ctypes.addressof(ctypes.create_string_buffer(1 << 16));"
        "dots = ctypes.CDLL(sys.argv[1]).dots16; dots.restype, dots.argtypes = None, [ctypes.c_int64] * 5;"
        "dots(memory, memory, memory, memory, 1); print('done')"
    )
    assert on_arm("cortex-a76", "-c", code, vector_libraries["dotprod"]).stdout == "done\n"
    done = on_arm("cortex-a53", "-c", code, vector_libraries["dotprod"])
    assert done.returncode in (-SIGILL, 128 + SIGILL), done.stderr[-2000:]


@pytest.mark.parametrize("core", CORES)
def test_jit_on_the_core(core: str, vector_cases: dict[str, Any], tmp_path: Path) -> None:
    """Where there is no library but Numba: two kernels compiled on the core itself, in the thread pool."""
    (tmp_path / "cases.pickle").write_bytes(pickle.dumps(vector_cases))
    script = str(Path(__file__).with_name("run_jit.py"))
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    done = on_arm(core, script, str(tmp_path / "cases.pickle"), *FOLDERS, python="armpy-jit", environment=environment)
    result = last_line(done)
    assert result["path"] == CORES[core].paths[0]
    assert result["threads"] >= 1
    assert list(tmp_path.glob("tinydiff/kernels/*/**/*.nbc"))
