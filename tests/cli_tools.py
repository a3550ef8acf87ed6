"""Running the command line in tests: in this process, or in one of its own where exit codes and signals matter."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import tinydiff
import tinydiff_kernels
import tinydiff_weights
from tinydiff.cli import main
from tinydiff_kernels import _jit, warm

ROOTS = [str(Path(module.__path__[0]).parent) for module in (tinydiff, tinydiff_kernels, tinydiff_weights)]
FOLDERS = {"XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache", "HF_HOME": "huggingface", "HOME": "home"}


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def paths(self) -> list[Path]:
        return [Path(line) for line in self.out.splitlines()]


class Cli:
    """`cli("generate", ...)` runs main() here. `cwd` is an empty folder, and the configuration an empty one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.cwd, self._capsys, self.folder = folder / "work", capsys, folder
        self.cwd.mkdir()
        compiled_kernels()  # decides for this process, before the variables change
        for name in [n for n in os.environ if n.startswith(("TINYDIFF_", "HF_")) or n == "NO_COLOR"]:
            monkeypatch.delenv(name)
        for name, value in environment(folder).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(self.cwd)

    def __call__(self, *args: str | os.PathLike[str]) -> Result:
        self._capsys.readouterr()
        code = main([os.fspath(a) for a in args])
        return Result(code, *self._capsys.readouterr())

    def files(self) -> list[str]:
        """Everything in the current folder, temporary files included."""
        return sorted(os.listdir(self.cwd))

    def config(self, text: str | bytes) -> Path:
        file = self.folder / "config" / "tinydiff" / "config.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file


def refused(cli: Cli, code: int, words: str, *args: str | os.PathLike[str]) -> None:
    """The command ends with `code` and an error that has all `words` (separated by |), and leaves nothing."""
    before = cli.files()
    result = cli(*args)
    assert result.code == code, result.err
    assert result.out == ""
    lines = result.err.splitlines()
    assert 1 <= len(lines) <= 2, result.err
    assert lines[0].startswith("tinydiff: error: ")
    assert "Traceback" not in result.err
    for word in words.split("|"):
        assert word in result.err, result.err
    assert cli.files() == before


def environment(folder: Path) -> dict[str, str]:
    """Variables that keep a run away from the user's own folders."""
    return {name: str(folder / part) for name, part in FOLDERS.items()}


def compiled_kernels() -> Path:
    """The folder of compiled kernels of whoever runs the tests: compiled once, and kept for the next run. Decides the
    settings of this process anew where a test has forgotten them."""
    folder = _jit.settings().cache
    assert folder is not None
    if warm.missing():
        warm.compile_all()
    return folder


def give_kernels(folder: Path) -> None:
    """Copy the compiled kernels to where a run in `environment(folder)` looks for them."""
    kernels = compiled_kernels()
    place = folder / FOLDERS["XDG_CACHE_HOME"] / "tinydiff" / "kernels"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copytree(kernels, place / kernels.name, dirs_exist_ok=True)


def start(folder: Path, *arguments: str, code: str | None = None, kernels: bool = True) -> subprocess.Popen[str]:
    """`python -m tinydiff ARGUMENTS`, or `python -c CODE ARGUMENTS`, in a process of its own.

    Its caches are empty but for compiled kernels, unless it shall compile its own.
    """
    if kernels:
        give_kernels(folder)
    base = {n: v for n, v in os.environ.items() if not n.startswith(("TINYDIFF_", "HF_"))}
    variables = base | environment(folder) | {"PYTHONPATH": os.pathsep.join(ROOTS), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, *(("-m", "tinydiff") if code is None else ("-c", code)), *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=_default_signals,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], seconds: float = 60) -> Result:
    """Wait for the process, and end it if it does not end itself."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Result(process.returncode, out, err)


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
