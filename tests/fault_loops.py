"""Every call of the system that the project's work with files makes fails once: the first, the second, until none is
left. What ends in an error ends in one of ours, old files are intact, and nothing is left behind.

By hand, where tinydiff is installed, everything rather than the samples of `test_faults.py`:

    python tests/fault_loops.py [OPERATION ...] [--calls NAME ...]
    python tests/fault_loops.py --disk            as root: on disks of one page, two pages, until it fits
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from faults import Fault, failing, no_memory
from fuzz_seeds import FACTOR, RECIPES, write_model

import tinydiff
from tinydiff import packed_cache
from tinydiff.denoise import Loop
from tinydiff.errors import ModelFileError, TinyDiffError
from tinydiff.image import save_png
from tinydiff.journal import read_journal, write_journal
from tinydiff.loading import build
from tinydiff.pipeline import Watcher
from tinydiff.quantize import quantize
from tinydiff_weights import partial_file
from tinydiff_weights.open import open_model
from tinydiff_weights.packed_verify import verify

CALLS = (
    *("open", "stat", "lstat", "fstat", "statvfs", "pread", "read", "write", "pwrite", "ftruncate", "fsync"),
    *("replace", "link", "unlink", "mkdir", "mmap", "allocation"),
)

PAGE = os.sysconf("SC_PAGESIZE")


@dataclass(frozen=True)
class Operation:
    """`run()` works in `folder`, where the files of `old` were before; afterwards those of `new` are."""

    folder: Path
    run: Callable[[], object]
    old: dict[str, bytes]
    new: dict[str, bytes]
    computes: bool = False  # also things that have no file to name
    uses: bool = False  # the new files, which are whole by then and may stay

    def begin(self) -> None:
        for name in self._there():
            (self.folder / name).unlink()
        for name, content in self.old.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_bytes(content)

    def _there(self) -> list[str]:
        return sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file())

    def complete(self) -> bool:
        return self._there() == sorted(self.new)

    def check(self, files: dict[str, bytes], what: str) -> None:
        there = self._there()
        if what.startswith("unlink"):  # the temporary file that could not be removed
            there = [name for name in there if name in files or not os.path.basename(name).startswith(".")]
        assert there == sorted(files), (what, there)
        for name, content in files.items():
            assert (self.folder / name).read_bytes() == content, (what, name)


def prepare(operation: Operation, name: str) -> None:
    operation.begin()
    if name == "mmap":
        gc.collect()  # a file that an earlier run has mapped would not be mapped again


def fails_cleanly(operation: Operation, name: str, at: int) -> bool:
    """One run in which call number `at` fails. False where the run made fewer calls."""
    prepare(operation, name)
    fault = Fault((name,), at, no_memory if name == "allocation" else failing(errno.EIO))
    error: Exception | None = None
    try:
        with fault.installed():
            operation.run()
    except TinyDiffError as caught:
        error = caught
    except MemoryError as caught:  # of networks being made: Python's own word for it, and nothing to clean up
        if not operation.computes:
            raise
        error = ModelFileError(operation.folder, str(caught))
    what = f"{name} {at}: {error}"
    if error is None:  # none was left to fail, or one that does no harm
        operation.check(operation.new, what)
    else:
        assert fault.count >= at, what
        assert str(operation.folder.parent) in what, what  # says of which file
        operation.check(operation.new if operation.uses and operation.complete() else operation.old, what)
    return fault.count >= at


def counted(operation: Operation, name: str) -> int:
    """How many such calls an undisturbed run makes."""
    prepare(operation, name)
    fault = Fault((name,), 0, failing(errno.EIO))
    with fault.installed():
        operation.run()
    return fault.count


def fits_or_fails_cleanly(operation: Operation) -> int:
    """On disks (tmpfs) of ever more pages; how many were too small. The look at the free space is left out."""
    for pages in count(1):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={pages * PAGE}", "tmpfs", operation.folder], check=True)
        try:
            operation.begin()
            operation.run()
            operation.check(operation.new, f"disk of {pages} pages")
            return pages - 1
        except TinyDiffError as error:
            reason = str(error)
            operation.check(operation.old, f"disk of {pages} pages: {reason}")
        finally:
            gc.collect()  # what is mapped keeps the disk busy
            subprocess.run(["umount", "--lazy", operation.folder], check=True)
        assert "space" in reason or "disk is full" in reason, reason
    raise AssertionError


# ------------------------------------------------------------------------------------------------ operations


class Keep(Watcher):
    """Takes the loop of a picture before its first step."""

    def begin(self, loop: Loop) -> None:
        self.loop = loop


@contextmanager
def operations(root: Path) -> Iterator[dict[str, Operation]]:
    """All of them, on a model of a few hundred kilobytes."""
    model, packed = write_model(root / "model"), root / "packed.safetensors"
    quantize(open_model(model), packed, RECIPES["int8"])
    call = {"width": 8 * FACTOR, "height": 8 * FACTOR, "num_inference_steps": 2, "seed": 1, "guidance_scale": 2.0}
    keep = Keep()
    picture = tinydiff.Pipeline.from_pretrained(packed, backend="reference")("a cat", watcher=keep, **call).images[0]  # type: ignore[arg-type]
    folders = {name: root / name for name in ("made", "read", "journal", "read-journal", "picture", "over", "cache")}
    for folder in folders.values():
        folder.mkdir()

    def journal(folder: Path) -> Callable[[], object]:
        return lambda: write_journal(folder / "x.journal", keep.loop, {"prompt": "a cat"})

    blank = np.zeros_like(keep.loop.latents)

    def resumed() -> None:
        loop = Loop(keep.loop.model, keep.loop.scheduler, keep.loop.generators, blank)
        read_journal(folders["read-journal"] / "x.journal").restore(loop)

    def read() -> None:
        source = open_model(folders["read"] / "x.safetensors")
        build(source, weights="auto", backend="reference", prediction_type=None)
        verify(source)

    def load() -> None:
        tinydiff.Pipeline.from_pretrained(model, weights="int8")

    whole_model = {"x.safetensors": packed.read_bytes()}
    old, small, cache = {"x.safetensors": b"old"}, packed_cache.SMALL, os.environ.get("XDG_CACHE_HOME")
    found = {
        "quantize": Operation(
            folders["made"],
            lambda: quantize(open_model(model), folders["made"] / "x.safetensors", RECIPES["int8"], force=True),
            old,
            whole_model,
        ),
        "read packed": Operation(folders["read"], read, whole_model, whole_model, computes=True),
        "write journal": Operation(folders["journal"], journal(folders["journal"]), {"x.journal": b"old"}, {}),
        "save picture": Operation(folders["picture"], lambda: save_png(folders["picture"] / "x.png", picture), {}, {}),
        "save picture over another": Operation(
            folders["over"], lambda: save_png(folders["over"] / "x.png", picture, force=True), {"x.png": b"old"}, {}
        ),
        "cache made at load": Operation(folders["cache"], load, {}, {}, computes=True, uses=True),
    }
    packed_cache.SMALL, os.environ["XDG_CACHE_HOME"] = 0, str(folders["cache"])
    try:
        for operation in found.values():  # what they make when nothing fails
            if not operation.new:
                operation.run()
                made = {name: (operation.folder / name).read_bytes() for name in operation._there()}
                operation.new.update(made)
        whole = found["write journal"].new
        found["read journal"] = Operation(folders["read-journal"], resumed, whole, whole)
        yield found
    finally:
        packed_cache.SMALL = small
        if cache is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = cache


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("operations", nargs="*", help="all by default")
    parser.add_argument("--calls", nargs="+", default=CALLS)
    parser.add_argument("--disk", action="store_true", help="full disks instead")
    args = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as root, operations(Path(root)) as found:
        for title, operation in found.items():
            if args.operations and title not in args.operations:
                continue
            if args.disk:
                if operation.new != operation.old:
                    partial_file.RESERVE = -(2**40)  # as if there had been room when it began
                    print(f"{title}: {fits_or_fails_cleanly(operation)} disks were too small", flush=True)
                continue
            for name in args.calls:
                began, total = time.monotonic(), counted(operation, name)
                for at in range(1, total + 2):  # of the last none fails, unless a failure leads to more calls
                    try:
                        fails_cleanly(operation, name, at)
                    except Exception as error:
                        bad += 1
                        print(f"{title}, {name} {at}: {type(error).__name__}: {error!s:.300}", flush=True)
                if total:
                    seconds = time.monotonic() - began
                    print(f"{title}: each of {total} calls of {name} failed once ({seconds:.0f} s)", flush=True)
    print(f"{bad} bad")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
