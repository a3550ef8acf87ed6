"""Instructions that the fixed calls execute in the library, counted by a plugin of qemu-user (`count.c`)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.gate import ROOT
from bench.gate.builds import Build, tools
from tinydiff_kernels import native


def instructions(builds: Sequence[Build], library: Path) -> dict[str, int]:
    """`path operation call` -> executed instructions. All builds of one architecture, in one emulated Python each path.

    Raises RuntimeError with what the emulator said where it fails.
    """
    found: dict[str, int] = {}
    for build in builds:
        environment = {
            "PATH": os.environ["PATH"],
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TINYDIFF_COUNTED": "plugin",
            native.NATIVE_VARIABLE: str(library),
        }
        arguments = [build.path, ",".join(build.operations), str(ROOT), str(ROOT / "kernels")]
        command = [*_python(build.arch, environment), str(Path(__file__).with_name("driver.py")), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        counts = [int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("count ")]
        names = [" ".join(line.split("\t")) for line in done.stdout.splitlines()]
        if done.returncode or not names or len(names) != len(counts):
            raise RuntimeError(f"{build.path}: the emulated run failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
        found |= dict(zip(names, counts, strict=True))
    return found


def _python(arch: str, environment: dict[str, str]) -> list[str]:
    """A Python of the architecture with NumPy, in the emulator; `max` has every instruction that it knows."""
    emulator = [str(tools() / "bin" / f"qemu-{arch}"), "-cpu", "max", "-plugin", str(tools() / "count.so")]
    if arch == "x86_64":
        return [*emulator, sys.executable]
    root = tools().parent / "root"
    environment["PYTHONPATH"] = str(root / "site")
    return [*emulator, "-L", str(root), str(root / "usr/bin/python3.11")]
