"""What the machine and its control groups allow, and sizes as people write them: 450MB, 1.5GB. MB means 2^20 bytes."""

from __future__ import annotations

import re
from pathlib import Path

from tinydiff.errors import InvalidArgumentError

MB = 2**20
AUTO = "auto"
RESERVE = 0.1  # share of what is available that `auto` leaves to others, and at least:
LEAST_RESERVE = 64 * MB
_UNITS = {"": 1, "b": 1, "kb": 2**10, "mb": MB, "gb": 2**30, "k": 2**10, "m": MB, "g": 2**30}
_UNLIMITED = 1 << 60  # cgroup v1 writes a huge number where there is no limit


def size_of(text: str) -> int:
    """Bytes. ValueError says what the text should be."""
    match = re.fullmatch(r"\s*([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([a-zA-Z]{0,2})\s*", text, re.ASCII)
    if match is None or match[2].lower() not in _UNITS or float(match[1]) <= 0:
        raise ValueError("a size such as 300MB or 1.5GB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def budget_of(memory: str | int | None) -> int | None:
    """Bytes from the argument `memory`. Raises InvalidArgumentError."""
    if memory is None:
        return None
    if isinstance(memory, str):
        if memory.strip().lower() == AUTO:
            return available()
        try:
            return size_of(memory)
        except ValueError as error:
            raise InvalidArgumentError(f"memory must be {error}, not {memory!r:.40}") from None
    if isinstance(memory, bool) or not isinstance(memory, int) or memory <= 0:
        raise InvalidArgumentError(f"memory must be a size such as 300MB or 1.5GB, or auto, not {memory!r:.40}")
    return memory


def available(root: Path = Path("/")) -> int | None:
    """What this process may take in all, with a reserve for others; None where nothing is known.

    The least of: memory the machine could give, and each control group's limit less what others in it hold that cannot
    be reclaimed. Both on top of what this process holds already.
    """
    own = _field(text_of(root / "proc/self/status"), "RssAnon")
    found = []
    free = _field(text_of(root / "proc/meminfo"), "MemAvailable")
    if free is not None:
        found.append(free + (own or 0))
    for folder in cgroup_folders(root, "memory"):
        limit = _limit_of(folder)
        if limit is not None:
            found.append(limit - max(0, _anonymous(folder) - (own or 0)))
    if not found:
        return None
    return max(MB, int(min(found) - max(LEAST_RESERVE, RESERVE * min(found))))


def _anonymous(folder: Path) -> int:
    """Bytes of a control group that are no file's: `anon` (version 2), `total_rss` (version 1, with its children)."""
    stat = dict(line.partition(" ")[::2] for line in text_of(folder / "memory.stat").splitlines())
    value = stat.get("anon", stat.get("total_rss", "0"))
    return int(value) if value.isdigit() else 0


def _field(text: str, name: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def cgroup_limit(root: Path) -> int | None:
    """The tightest limit on this process."""
    limits = [limit for folder in cgroup_folders(root, "memory") if (limit := _limit_of(folder)) is not None]
    return min(limits, default=None)


def _limit_of(folder: Path) -> int | None:
    limits = []
    for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
        value = text_of(folder / name).strip()
        if value.isdigit() and int(value) < _UNLIMITED:
            limits.append(int(value))
    return min(limits, default=None)


def cgroup_folders(root: Path, controller: str) -> list[Path]:
    """This process's control groups for `controller`, version 1 and 2, each with its parents."""
    base = root / "sys/fs/cgroup"
    found: list[Path] = []
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            top = base
        elif controller in controllers.split(","):
            top = base / controller
        else:
            continue
        below = top / path.strip("/")
        found += [folder for folder in (below, *below.parents) if folder == top or top in folder.parents]
    return list(dict.fromkeys(found))


def text_of(path: Path) -> str:
    """A file of /proc or /sys; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")[: 1 << 20]
    except OSError:
        return ""
