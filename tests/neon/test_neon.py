"""The kernels on ARM, under emulation: cross-compiled here for each path, run on cores of three generations.

Collected only when named. TINYDIFF_ARM is the folder that `setup_arm.sh` made. Emulated time says nothing about ARM's.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import attention_calls
import kernel_builds
import matmul_calls
import norm_calls
import pytest
import simd_data
import simd_kernels

from tinydiff_kernels import aot, cpu, dispatch

TESTS = Path(__file__).parents[1]
FOLDERS = [str(TESTS), str(TESTS.parent / "kernels")]
CORES = {  # core -> features, best path
    "cortex-a53": (["neon"], "neon"),
    "cortex-a76": (["dotprod", "neon"], "dotprod"),
    "cortex-a710": (["dotprod", "i8mm", "neon"], "i8mm"),
}
RUNS = [("cortex-a53", "neon"), ("cortex-a53", "generic"), ("cortex-a76", "dotprod"), ("cortex-a710", "i8mm")]
SIGILL = 4


@lru_cache(maxsize=1)
def emulator() -> Path:
    folder = os.environ.get("TINYDIFF_ARM", "")
    if not folder or not (Path(folder) / "ready").exists():
        pytest.fail("set TINYDIFF_ARM to a folder made by tests/neon/setup_arm.sh")
    return Path(folder)


def on_arm(core: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a Python script on an emulated core."""
    variables = {**os.environ, "QCPU": core, "OPENBLAS_NUM_THREADS": "1", **(environment or {})}
    variables.pop("PYTHONPATH", None)
    command = [str(emulator() / "bin/armpy"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=900, check=False)


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["bad"] == 0, done.stdout[-3000:]
    return result


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs with NumPy's outputs; for the polynomials, with the bits that this machine computes."""
    table = {name: simd_data.case(name) for name in simd_kernels.KERNELS}
    functions = [name for name in table if name.startswith("function_")]
    here = aot.Machine.of(dispatch.available()[0], cpu.this_cpu().arch)
    native = aot.Loaded(aot.compile_object({n: simd_kernels.EXPORTS[n] for n in functions}, here).object, functions)
    for name in functions:
        table[name].expected[:] = simd_data.run(native.function(name, 5), table[name])
    path = tmp_path_factory.mktemp("cases") / "cases.pickle"
    path.write_bytes(pickle.dumps(table))
    return path


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One shared library for each path, cross-compiled here."""
    folder = tmp_path_factory.mktemp("libraries")
    made = {}
    for path in sorted({path for _, path in RUNS}):
        compiled = aot.compile_object(simd_kernels.EXPORTS, aot.Machine.of(dispatch.BY_NAME[path], "aarch64"))
        assert compiled.undefined == []
        made[path] = folder / f"{path}.so"
        aot.link_shared([compiled.object], made[path], linker=str(emulator() / "bin/armld"))
    return made


@pytest.mark.parametrize(("core", "path"), RUNS)
def test_every_kernel_gives_the_same_bits(core: str, path: str, cases: Path, libraries: dict[str, Path]) -> None:
    script = str(Path(__file__).with_name("run_library.py"))
    result = last_line(on_arm(core, script, str(libraries[path]), str(cases), *FOLDERS))
    assert result["kernels"] == len(simd_kernels.KERNELS)
    features, best = CORES[core]
    assert result["features"] == features
    assert result["best"] == best
    assert result["paths"][-1] == "generic"
    print(core, path, result["model"], result["kernels"], "kernels")


@pytest.mark.parametrize(("core", "path"), [("cortex-a53", "neon"), ("cortex-a76", "dotprod"), ("cortex-a710", "i8mm")])
def test_matmul_gives_the_same_bits(core: str, path: str, tmp_path: Path) -> None:
    """Linear layers with every epilogue and convolutions, in each kind of weight: this machine's bits, on the core."""

    def exports(of: str) -> dict[str, Any]:
        source = {name: dispatch.source(name, dispatch.BY_NAME[of]) for name in matmul_calls.KINDS}
        return {name: (function, "void(int64, int64, int64)") for name, function in source.items()}

    compiled = aot.compile_object(exports(path), aot.Machine.of(dispatch.BY_NAME[path], "aarch64"))
    assert compiled.undefined == []
    aot.link_shared([compiled.object], tmp_path / "matmul.so", linker=str(emulator() / "bin/armld"))
    best = dispatch.available()[0]
    native = aot.Loaded(
        aot.compile_object(exports(best.name), aot.Machine.of(best, cpu.this_cpu().arch)).object,
        list(matmul_calls.KINDS),
    )
    expected = {
        name: [r.tobytes() for r in matmul_calls.results(name, native.function(name, 3), signed=False)]
        for name in matmul_calls.KINDS
    }
    (tmp_path / "expected.pickle").write_bytes(pickle.dumps(expected))
    script = str(Path(__file__).with_name("run_matmul.py"))
    result = last_line(on_arm(core, script, str(tmp_path / "matmul.so"), str(tmp_path / "expected.pickle"), *FOLDERS))
    assert result["calls"] == sum(map(len, expected.values())) > 20


@pytest.mark.parametrize(("core", "path"), [("cortex-a53", "neon"), ("cortex-a710", "i8mm")])
def test_norms_and_elementwise_give_the_same_bits(core: str, path: str, tmp_path: Path) -> None:
    compiled = aot.compile_object(
        kernel_builds.exports(norm_calls.NAMES, path), aot.Machine.of(dispatch.BY_NAME[path], "aarch64")
    )
    assert compiled.undefined == []
    aot.link_shared([compiled.object], tmp_path / "norm.so", linker=str(emulator() / "bin/armld"))
    native = kernel_builds.library(norm_calls.NAMES, kernel_builds.PATHS[0])
    expected = [result.tobytes() for result in norm_calls.results(native, 0)]
    (tmp_path / "expected.pickle").write_bytes(pickle.dumps(expected))
    script = str(Path(__file__).with_name("run_norm.py"))
    result = last_line(on_arm(core, script, str(tmp_path / "norm.so"), str(tmp_path / "expected.pickle"), *FOLDERS))
    assert result["calls"] == len(expected) > 20


@pytest.mark.parametrize(("core", "path"), [("cortex-a53", "neon"), ("cortex-a53", "generic"), ("cortex-a710", "i8mm")])
def test_attention_gives_the_same_bits(core: str, path: str, tmp_path: Path) -> None:
    """Self- and cross-attention, lengths and causal: this machine's bits, on the core."""

    def compiled(of: dispatch.Path, arch: str) -> bytes:
        export = {"attention_f32": (dispatch.source("attention_f32", of), "void(int64, int64, int64)")}
        made = aot.compile_object(export, aot.Machine.of(of, arch))
        assert made.undefined == []
        return made.object

    on_core = compiled(dispatch.BY_NAME[path], "aarch64")
    aot.link_shared([on_core], tmp_path / "attention.so", linker=str(emulator() / "bin/armld"))
    here = aot.Loaded(compiled(dispatch.available()[0], cpu.this_cpu().arch), ["attention_f32"])
    expected = [result.tobytes() for result in attention_calls.results(here.function("attention_f32", 3))]
    (tmp_path / "expected.pickle").write_bytes(pickle.dumps(expected))
    script = str(Path(__file__).with_name("run_attention.py"))
    files = str(tmp_path / "attention.so"), str(tmp_path / "expected.pickle")
    assert last_line(on_arm(core, script, *files, *FOLDERS))["calls"] == len(expected) > 5


def test_the_emulator_really_lacks_what_the_core_lacks(cases: Path, libraries: dict[str, Path]) -> None:
    """So the tests above prove that a path uses no instruction beyond its own."""
    script = str(Path(__file__).with_name("run_library.py"))
    done = on_arm("cortex-a53", script, str(libraries["dotprod"]), str(cases), *FOLDERS)
    assert done.returncode in (-SIGILL, 128 + SIGILL), done.stderr[-2000:]


def test_a_forced_path_that_the_core_lacks_is_an_error_of_ours() -> None:
    code = f"import sys; sys.path[:0] = {FOLDERS}; from tinydiff_kernels import dispatch; dispatch.choose()"
    done = on_arm("cortex-a53", "-c", code, environment={"TINYDIFF_PATH": "i8mm"})
    assert done.returncode == 1
    assert "PathError: TINYDIFF_PATH=i8mm: this CPU (" in done.stderr
    assert "lacks dotprod, i8mm. It can run: neon, generic." in done.stderr


@pytest.mark.parametrize("core", CORES)
def test_jit_on_the_core(core: str, cases: Path, tmp_path: Path) -> None:
    script = str(Path(__file__).with_name("run_jit.py"))
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    result = last_line(on_arm(core, script, str(cases), *FOLDERS, environment=environment))
    assert result["path"] == CORES[core][1]
    assert result["threads"] >= 1
    assert list(tmp_path.glob("tinydiff/kernels/*/**/*.nbc"))
