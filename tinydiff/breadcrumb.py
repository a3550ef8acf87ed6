"""What a run leaves behind if the system kills it: which stage it was in, and with what memory plan.

A phone that runs out of memory sends SIGKILL, which no program can catch: the picture is gone without a word. So every
run keeps a small file in `$XDG_STATE_HOME/tinydiff/runs` and takes it away when it ends, however it ends by itself. A
file whose process is gone tells the next run of a silent kill. All of it is a convenience: what cannot be written is
not written, and what cannot be read is no breadcrumb.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydiff_weights.write import atomic_write_bytes

MAX_BYTES = 2**16
OLD = 3600  # seconds after which a temporary file is nobody's


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_STATE_HOME/tinydiff`, or `~/.local/state/tinydiff`. Not created here."""
    base = environment.get("XDG_STATE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.local/state")) / "tinydiff"


@dataclass(frozen=True)
class Process:
    """A process, told from a later one with the same number by when it started ("" where the system does not say)."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid, _start_time(pid))

    @classmethod
    def current(cls) -> Process:
        return cls.of(os.getpid())

    @classmethod
    def from_json(cls, value: object) -> Process | None:
        match value:
            case {"pid": int(pid), "started": str(started)} if 0 < pid < 2**31 and not isinstance(pid, bool):
                return cls(pid, started)
        return None

    def to_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "started": self.started}

    @property
    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it exists and is another user's
            pass
        return _start_time(self.pid) == self.started

    @property
    def busy_elsewhere(self) -> bool:
        """Alive, and not the one that asks."""
        return self.alive and self != Process.current()


def _start_time(pid: int) -> str:
    """When a process started, as the system counts: clock ticks since this boot (field 22 of proc_pid_stat(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, ValueError):
        return ""
    return f"{boot} {fields[19]}" if len(fields) > 19 else ""


class Breadcrumb:
    """The file of one run. `planned_mib`: the peak that the memory plan predicts; `journal`: where the picture is."""

    def __init__(self, folder: Path, *, planned_mib: int | None = None, journal: Path | None = None) -> None:
        self.planned_mib, self.journal = planned_mib, journal
        self._file = folder / f"{os.getpid()}-{secrets.token_hex(4)}.json"
        self._process = Process.current()
        self._done = False

    def stage(self, name: str) -> None:
        """The run is in this stage now."""
        if self._done:
            return
        content = {
            "stage": name,
            "planned_mib": self.planned_mib,
            "journal": None if self.journal is None else str(self.journal),
            **self._process.to_json(),
        }
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            atomic_write_bytes(self._file, json.dumps(content).encode(), durable=False)

    def remove(self) -> None:
        """The run ends by itself, or its user ends it."""
        self._done = True
        _unlink(self._file)


@dataclass(frozen=True)
class KilledRun:
    """What is known of a run that did not end by itself."""

    stage: str
    planned_mib: int | None
    journal: Path | None


def killed_runs(folder: Path) -> list[KilledRun]:
    """The runs that were killed since somebody asked last, the latest last. Their files are removed."""
    found = []
    for file in folder.glob(".*.tmp"):  # killed while it wrote one
        if time.time() - _modified(file) > OLD:
            _unlink(file)
    for file in sorted(folder.glob("*.json"), key=_modified):
        content = _read(file)
        process = Process.from_json(content)
        if process is not None and process.alive:
            continue
        _unlink(file)
        stage, planned, journal = (content.get(key) for key in ("stage", "planned_mib", "journal"))
        if process is not None and isinstance(stage, str):
            path = Path(journal) if isinstance(journal, str) and journal and "\0" not in journal else None
            found.append(KilledRun(stage[:40], planned if type(planned) is int and planned > 0 else None, path))
    return found


def _unlink(file: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(file)


def _modified(file: Path) -> float:
    try:
        return file.lstat().st_mtime
    except OSError:
        return 0.0


def _read(file: Path) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            content = json.loads(stream.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
