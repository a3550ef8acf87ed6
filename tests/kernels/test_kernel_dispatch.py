"""The path for every CPU, forced paths, the table's fallbacks, and that none of it imports Numba."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tinydiff_kernels import cpu, dispatch, native
from tinydiff_kernels.errors import KernelError, PathError

AVX2 = {"avx2", "fma", "f16c"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512vnni"}
CPUS = [
    ("x86_64", set(), ["generic"]),
    ("x86_64", {"avx2"}, ["generic"]),
    ("x86_64", AVX2, ["avx2", "generic"]),
    ("x86_64", AVX2 | {"avxvnni"}, ["avxvnni", "avx2", "generic"]),
    ("x86_64", AVX512, ["avx512vnni", "avx2", "generic"]),
    ("x86_64", AVX512 | {"avxvnni"}, ["avx512vnni", "avxvnni", "avx2", "generic"]),
    ("x86_64", AVX512 - {"avx512bw"}, ["avx2", "generic"]),
    ("aarch64", {"neon"}, ["neon", "generic"]),
    ("aarch64", {"neon", "dotprod"}, ["dotprod", "neon", "generic"]),
    ("aarch64", {"neon", "dotprod", "i8mm"}, ["i8mm", "dotprod", "neon", "generic"]),
    ("aarch64", {"neon", "i8mm"}, ["neon", "generic"]),
    ("riscv64", set(), ["generic"]),
]


def made(arch: str, features: set[str]) -> cpu.Cpu:
    return cpu.Cpu(arch, "Test CPU", frozenset(features), (cpu.Cluster(1.0, (0,), 1),), None)


@pytest.mark.parametrize(("arch", "features", "paths"), CPUS)
def test_paths_of_a_cpu(arch: str, features: set[str], paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.PATH_VARIABLE, raising=False)
    here = made(arch, features)
    assert [p.name for p in dispatch.available(here)] == paths
    choice = dispatch.choose(here)
    assert choice.path.name == paths[0]
    assert choice.why == f"best of {', '.join(paths)} that Test CPU runs"
    for name in dispatch.BY_NAME:
        if name in paths:
            assert dispatch.choose(here, name).path.name == name
        else:
            with pytest.raises(PathError, match=rf"^TINYDIFF_PATH={name}: this .*It can run: {', '.join(paths)}\.$"):
                dispatch.choose(here, name)


def test_errors_say_what_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dispatch.PATH_VARIABLE, "avx512vnni")
    with pytest.raises(PathError, match=r"this CPU \(Test CPU\) lacks avx512f, avx512bw, avx512vl, avx512vnni\."):
        dispatch.choose(made("x86_64", AVX2))
    monkeypatch.setenv(dispatch.PATH_VARIABLE, "i8mm")
    with pytest.raises(PathError, match=r"this path is for aarch64, and this CPU \(Test CPU\) is x86_64"):
        dispatch.choose(made("x86_64", AVX2))
    monkeypatch.setenv(dispatch.PATH_VARIABLE, "avx")
    with pytest.raises(PathError, match=r"no such path; did you mean avx2\? Known: i8mm, "):
        dispatch.choose(made("x86_64", AVX2))


def test_a_row_that_a_path_lacks_falls_to_the_next_below(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"a": {"avx2": "m:fast", "generic": "m:slow"}, "b": {"neon": "m:neon"}, "c": {"avxvnni": "m:vnni"}}
    monkeypatch.setattr(dispatch, "KERNELS", table)
    monkeypatch.setattr(native, "function", lambda operation, path: None)
    monkeypatch.delenv(dispatch.PATH_VARIABLE, raising=False)

    def row(operation: str, path: str) -> tuple[str, str]:
        return dispatch.find(operation, dispatch.BY_NAME[path])

    assert row("a", "avx512vnni") == ("avx2", "m:fast")
    assert row("a", "avxvnni") == ("avx2", "m:fast")
    assert row("a", "i8mm") == ("generic", "m:slow")
    assert row("a", "generic") == ("generic", "m:slow")
    assert row("b", "i8mm") == ("neon", "m:neon")
    with pytest.raises(KernelError, match="the kernel 'b' has no row for the path avx2"):
        row("b", "avx2")
    with pytest.raises(KernelError, match="has no row for the path avx512vnni"):
        row("c", "avx512vnni")
    with pytest.raises(KernelError, match="no kernel is called 'd'; known: a, b, c"):
        row("d", "avx2")
    for path, why in (
        ("avx2", "the source for avx2"),
        ("avxvnni", "the source for avx2, the best row that it can run"),
    ):
        choice = dispatch.Choice(dispatch.BY_NAME[path], "")
        assert dispatch.running(choice, ["a"]) == [dispatch.Running("a", "fast", path, "Numba", why)]
    monkeypatch.setattr(dispatch, "KERNELS", {"a": {"generic": "m:any"}})
    assert dispatch.report(["a"], made("x86_64", AVX2))[-1] == "a: any for avx2, Numba; one source for all paths"


def test_the_table_names_functions_that_exist() -> None:
    for operation, rows in dispatch.KERNELS.items():
        assert set(rows) <= set(dispatch.BY_NAME)
        for path in dispatch.available():
            assert callable(dispatch.source(operation, path))


def test_detection_choice_and_report_import_no_numba() -> None:
    code = (
        "import sys; from tinydiff_kernels import dispatch, cpu, pool, checked; print('\\n'.join(dispatch.report([])));"
        "print(sorted({'numba', 'llvmlite'} & set(sys.modules)))"
    )
    folder = str(Path(dispatch.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]"
    assert lines[0].startswith("cpu: ")
    assert lines[2].startswith("path: ")
