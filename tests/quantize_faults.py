"""What can go wrong while a model is packed: calls of the system that fail, and kills between any two of them.

By hand, where tinydiff is installed, everything rather than samples (the small disk needs root):

    python tests/quantize_faults.py
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from miniatures import write_folder

from tinydiff.errors import TinyDiffError
from tinydiff.packing import Recipe
from tinydiff.quantize import quantize
from tinydiff_weights import partial_file
from tinydiff_weights.open import open_model

# Calls of the system that writing a packed file makes; a failure of any of them ends in a typed error.
CALLS = ("open", "fstat", "statvfs", "stat", "ftruncate", "pwrite", "write", "fsync", "unlink", "replace")
RECIPE = Recipe("int8")


class Fault:
    """Replaces functions of `os` and counts their calls; number `at` does `action` instead."""

    def __init__(self, names: tuple[str, ...], at: int, action: Callable[[], None]) -> None:
        self.names, self.at, self.action, self.count = names, at, action, 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        real = {name: getattr(os, name) for name in self.names}
        for name, function in real.items():
            setattr(os, name, self._watched(function))
        try:
            yield
        finally:
            for name, function in real.items():
                setattr(os, name, function)

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                self.action()
            return function(*args, **kwargs)

        return call


def failing(code: int) -> Callable[[], None]:
    def action() -> None:
        raise OSError(code, os.strerror(code))

    return action


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def counted(model: Path, target: Path, names: tuple[str, ...]) -> int:
    """How many of these calls an undisturbed run makes."""
    fault = Fault(names, 0, kill)
    source = open_model(model)
    with fault.installed():
        quantize(source, target, RECIPE, force=True)
    return fault.count


def fails_cleanly(model: Path, target: Path, name: str, at: int, wanted: bytes) -> bool:
    """One run in which call number `at` of `os.name` fails. False where the run made fewer calls.

    The error is one of ours, the old file is intact and nothing is beside it. Calls that may fail without harm (the
    flush of the folder when the file has its name) end in the new file.
    """
    old = target.read_bytes()
    beside = sorted(p.name for p in target.parent.iterdir())
    fault = Fault((name,), at, failing(errno.EIO))
    source = open_model(model)
    error = None
    try:
        with fault.installed():
            quantize(source, target, RECIPE, force=True)
    except TinyDiffError as caught:
        error = str(caught)
    if error is not None:
        assert str(target) in error or str(model) in error, error
        assert target.read_bytes() == old
    else:  # a call whose failure does no harm, or none was left to fail
        assert target.read_bytes() == wanted
        target.write_bytes(old)
    assert sorted(p.name for p in target.parent.iterdir()) == beside, (name, at)
    return fault.count >= at


def killed(model: Path, target: Path, at: int) -> None:
    """A child that is killed, without a word, before call number `at`."""
    child = os.fork()
    if child == 0:
        try:
            partial_file.SYNC_BYTES = 1  # every piece is noted at once
            source = open_model(model)
            with Fault(CALLS, at, kill).installed():
                quantize(source, target, RECIPE, force=True)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model, target = write_folder(Path(folder) / "model", "bk_tiny"), Path(folder) / "out" / "x.safetensors"
        target.parent.mkdir()
        before = {p: p.read_bytes() for p in model.rglob("*") if p.is_file()}
        total = counted(model, target, CALLS)
        wanted = target.read_bytes()
        for at in [max(total * i // 50, 1) for i in range(50)]:
            target.unlink(missing_ok=True)
            killed(model, target, at)
            assert not target.exists() or target.read_bytes() == wanted
            quantize(open_model(model), target, RECIPE, force=True)
            assert target.read_bytes() == wanted
            assert [p.name for p in target.parent.iterdir()] == [target.name]
        print(f"killed at 50 of {total} calls, went on, same bytes", flush=True)
        small_disk(model, Path(folder) / "disk", len(wanted))
        for name in CALLS:
            target.write_bytes(b"old")
            at = 1
            while fails_cleanly(model, target, name, at, wanted):
                at += 1
            print(f"{name}: failed at each of its {at - 1} calls", flush=True)
        assert before == {p: p.read_bytes() for p in model.rglob("*") if p.is_file()}


def small_disk(model: Path, disk: Path, size: int) -> None:
    """A disk on which the file does not fit: told before, and met in the middle where it fills up meanwhile."""
    usual = partial_file.RESERVE
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size // 2}", "tmpfs", disk], check=True)
    try:
        for reserve, words in ((None, "of disk"), (-(2**40), "No space left")):
            if reserve is not None:
                partial_file.RESERVE = reserve  # as if there had been room when it began
            with pytest.raises(TinyDiffError, match=words):
                quantize(open_model(model), disk / "x.safetensors", RECIPE)
            assert not list(disk.iterdir())
    finally:
        partial_file.RESERVE = usual
        subprocess.run(["umount", disk], check=True)
    print("a full disk: refused before, and cleaned up after")


if __name__ == "__main__":
    main()
