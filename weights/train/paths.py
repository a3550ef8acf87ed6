"""Where training keeps what it makes: outside the repository, in `$XDG_CACHE_HOME/tinydiff-train`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
DEFAULT_MODEL = HERE / "master"  # what the packed file in the package is made from


def work_folder(run: str) -> Path:
    """The folder of one training run (checkpoints, rendered data, logs, grids); made when missing."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(cache) / "tinydiff-train" / run
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old file or the new one, never half of one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


class Log:
    """Prints a line and appends it to a file, with the wall-clock time in front."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, line: str) -> None:
        stamped = f"{time.strftime('%H:%M:%S')} {line}"
        print(stamped, flush=True)
        with self.path.open("a") as file:
            file.write(stamped + "\n")


class Budget:
    """Training time that survives interruptions: `spent` seconds are stored in the checkpoint.

    On a CPU the seconds are the process's own (a machine shared or paused costs nothing); with CUDA, wall-clock.
    `fraction` runs from 0 to 1 over `minutes`; schedules of the learning rate are functions of it.
    """

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self._clock = time.monotonic if torch.cuda.is_available() else time.process_time
        self.total, self._before, self._start = minutes * 60.0, spent, self._clock()

    @property
    def spent(self) -> float:
        return self._before + self._clock() - self._start

    @property
    def fraction(self) -> float:
        return min(1.0, self.spent / self.total)
