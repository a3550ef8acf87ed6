"""What can go wrong while a model is packed: kills between any two calls of the system, and a disk that is full.

(Calls that fail are in `fault_loops.py`, kills at any time in `kill_at_random.py`.) By hand, where tinydiff is
installed, 50 moments rather than the few of the tests; the small disk needs root:

    python tests/quantize_faults.py
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from faults import Fault, kill
from miniatures import write_folder

from tinydiff.errors import TinyDiffError
from tinydiff.packing import Recipe
from tinydiff.quantize import quantize
from tinydiff_weights import partial_file
from tinydiff_weights.open import open_model

# Calls of the system that writing a packed file makes.
CALLS = ("open", "fstat", "statvfs", "stat", "ftruncate", "pwrite", "write", "fsync", "unlink", "replace")
RECIPE = Recipe("int8")


def counted(model: Path, target: Path, names: tuple[str, ...]) -> int:
    """How many of these calls an undisturbed run makes."""
    fault = Fault(names, 0, kill)
    source = open_model(model)
    with fault.installed():
        quantize(source, target, RECIPE, force=True)
    return fault.count


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
