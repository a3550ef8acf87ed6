"""Compiling ahead: once, in child processes, kept; shown; and without a folder to keep anything in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_tools import Cli, compiled_kernels, finish, give_kernels, start
from miniatures import write_folder

from tinydiff_kernels import _jit, dispatch, warm
from tinydiff_kernels.errors import KernelError

ONE_OPERATION = """
import numpy as np
from tinydiff_kernels import _jit, warm
from tinydiff_kernels.compiled.backend import Compiled
from tinydiff_kernels.rows import Grid, Rows
x = Rows(Grid(1, 1, 2), 3, np.arange(6, dtype=np.float32).reshape(2, 3))
print(_jit.settings().note, warm.missing(), Compiled(lambda weight: "f32").affine(x, 2, 1).array.tolist(), sep="|")
"""
PICTURE = ("generate", "a", "--steps", "1", "--size", "16x16", "--seed", "1", "-o", "x.png", "--force")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "sd1", "sd1")


def kept(folder: Path) -> dict[str, int]:
    """Compiled kernels in a run's cache, with the times of their files."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.nbc")}


def functions(path: dispatch.Path) -> set[object]:
    """What is compiled for a path; operations may share a function."""
    return {dispatch.source(operation, path) for operation in dispatch.COMPILED}


def test_warmup_in_a_fresh_cache(tmp_path: Path) -> None:
    """The first run compiles, keeps and says so; the second one does nothing. A marker tells that all are there."""
    found = []
    for _ in range(2):
        result = finish(start(tmp_path, "warmup", kernels=False), 600)
        assert result.code == 0, result.err
        assert result.out.startswith("numba: ")
        found.append((kept(tmp_path), result.err))
    (first, said), (second, nothing) = found
    assert said.startswith("tinydiff: compiling kernels, once")
    assert (second, nothing) == (first, "")
    assert len(first) == len(functions(_jit.settings().path))
    assert len(list((tmp_path / "cache").rglob(warm.MARKER))) == 1


@pytest.mark.parametrize("weights", ["float32", "float16", "int8", "int4"])
def test_a_picture_with_warm_kernels_compiles_nothing(tmp_path: Path, model: Path, weights: str) -> None:
    give_kernels(tmp_path)
    before = kept(tmp_path)
    result = finish(start(tmp_path, *PICTURE, "--model", str(model), "--weights", weights))
    assert (result.code, result.out) == (0, "x.png\n"), result.err
    assert "compiling" not in result.err
    assert kept(tmp_path) == before


@pytest.mark.parametrize("path", dispatch.PATHS, ids=lambda path: path.name)
def test_at_most_thirty_functions_are_compiled_for_a_path(path: dispatch.Path) -> None:
    """A kernel is one compiled function, its parts are compiled into it: so many files, so many compilations."""
    assert len(functions(path)) <= 30
    if path == _jit.settings().path:
        assert len(list(compiled_kernels().rglob("*.nbc"))) == len(functions(path))


def test_warmup_shows_its_progress_and_says_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = Cli(tmp_path, monkeypatch, capsys)
    monkeypatch.setattr(warm, "missing", lambda: True)
    monkeypatch.setattr(warm, "compile_all", lambda progress: [progress(done, 3) for done in (1, 2, 3)])
    result = cli("warmup")
    assert result.code == 0
    assert "compiling kernels, once" in result.err
    assert result.out.startswith("numba: ")
    assert cli("warmup", "--quiet").err == ""
    monkeypatch.setattr(warm, "missing", lambda: False)
    assert cli("warmup").err == ""


def test_a_child_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiled_kernels()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\necho no compiler here >&2\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(KernelError, match="compiling kernels failed: no compiler here"):
        warm.compile_all(jobs=2)


def test_a_cache_that_cannot_be_written_still_works(tmp_path: Path) -> None:
    """Kernels are then compiled in memory, each when it is needed; nothing is compiled ahead in vain."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tinydiff").write_text("a file is in the way")
    result = finish(start(tmp_path, code=ONE_OPERATION, kernels=False), 600)
    assert result.code == 0, result.err
    note, missing, values = result.out.split("|")
    assert note.startswith("no cache folder: ")
    assert (missing, values) == ("False", "[[1.0, 3.0, 5.0], [7.0, 9.0, 11.0]]\n")


def test_settings_are_those_of_this_process() -> None:
    assert _jit.settings().cache == compiled_kernels()
