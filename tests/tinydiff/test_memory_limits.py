"""Sizes as people write them, and what machines and control groups allow, from files that a test writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinydiff.errors import InvalidArgumentError
from tinydiff.memory.limits import LEAST_RESERVE, MB, available, budget_of

GB = 1024 * MB


@pytest.mark.parametrize(("text", "wanted"), [
    ("450MB", 450 * MB), ("1.4GB", int(1.4 * GB)), (" 300 m", 300 * MB), ("7", 7), ("2k", 2048), (12345, 12345),
])  # fmt: skip
def test_sizes(text: str | int, wanted: int) -> None:
    assert budget_of(text) == wanted


@pytest.mark.parametrize("bad", ["", "MB", "-3MB", "0", "3 TB", "nan", 0, -1, True, 1.5])
def test_what_is_no_size(bad: object) -> None:
    with pytest.raises(InvalidArgumentError, match="memory must be a size such as 300MB"):
        budget_of(bad)  # type: ignore[arg-type]


def machine(root: Path, *, free: int, own: int = 0, groups: str = "") -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 999 kB\nMemAvailable: {free >> 10} kB\n")
    (root / "proc/self/status").write_text(f"RssAnon:\t{own >> 10} kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    return root


def test_without_groups_the_machine_decides(tmp_path: Path) -> None:
    root = machine(tmp_path, free=2 * GB, own=100 * MB)
    assert available(root) == int((2 * GB + 100 * MB) * 0.9)
    small = machine(tmp_path / "small", free=300 * MB)
    assert available(small) == 300 * MB - LEAST_RESERVE


def test_version_1_with_a_parent(tmp_path: Path) -> None:
    root = machine(tmp_path, free=8 * GB, own=50 * MB, groups="4:memory:/phone/app\n0::/x\n")
    parent, own = root / "sys/fs/cgroup/memory/phone", root / "sys/fs/cgroup/memory/phone/app"
    own.mkdir(parents=True)
    (own / "memory.limit_in_bytes").write_text(str(2 * GB))
    (own / "memory.stat").write_text("cache 5\ntotal_rss 52428800\n")  # all of it ours
    (parent / "memory.limit_in_bytes").write_text(str(1 * GB))
    (parent / "memory.stat").write_text(f"total_cache 9\ntotal_rss {250 * MB}\n")  # 200 MB of others
    assert available(root) == int((1 * GB - 200 * MB) - 0.1 * (1 * GB - 200 * MB))
    (parent / "memory.limit_in_bytes").write_text("9223372036854771712")  # no limit
    assert available(root) == int(2 * GB * 0.9)


def test_version_2(tmp_path: Path) -> None:
    root = machine(tmp_path, free=8 * GB, groups="0::/user/app\n")
    folder = root / "sys/fs/cgroup/user/app"
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text("max\n")
    (folder / "memory.high").write_text(f"{1 * GB}\n")
    (folder / "memory.stat").write_text(f"anon {100 * MB}\nfile 7\n")
    assert available(root) == int(924 * MB - 0.1 * 924 * MB)


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    assert available(tmp_path) is None
