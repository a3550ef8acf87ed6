"""What this process has in memory, as the kernel counts it: anonymous pages, and pages of files."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from types import TracebackType
from typing import NamedTuple

PERIOD = 0.01  # seconds between two looks


class Resident(NamedTuple):
    """Bytes. `file`: mapped pages of model, libraries and shared memory; clean ones the kernel can take back."""

    anonymous: int
    file: int


def resident() -> Resident:
    """Of /proc/self/statm; zeros where there is none."""
    try:
        with open("/proc/self/statm", "rb") as file:
            fields = file.read().split()
    except OSError:
        return Resident(0, 0)
    page = os.sysconf("SC_PAGE_SIZE")
    total, shared = int(fields[1]) * page, int(fields[2]) * page
    return Resident(total - shared, shared)


def trim() -> None:
    """Give freed memory back to the system, where the C library can (glibc keeps it otherwise)."""
    gc.collect()
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


class Peaks:
    """The largest `resident` of each stage, looked at from a thread. Use as a context; `stage(name)` begins one."""

    def __init__(self) -> None:
        self.peaks: dict[str, Resident] = {}
        self._stage = ""
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="tinydiff-memory", daemon=True)

    def stage(self, name: str) -> None:
        """What follows is counted for `name`."""
        self.look()
        self._stage = name
        self.look()

    def look(self) -> None:
        with self._lock:
            now, name = resident(), self._stage
            if name:
                before = self.peaks.get(name, now)
                self.peaks[name] = Resident(*map(max, before, now))

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD):
            self.look()

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.look()
        self._stop.set()
        self._thread.join()
