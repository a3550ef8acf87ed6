"""Calls of the system that fail: samples of what `fault_loops.py` does with every one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_loops import CALLS, Operation, counted, fails_cleanly, operations

# Calls without which an operation would not be what it is: what is not counted is not tested.
EXPECTED = {
    "quantize": {"pwrite", "write", "fsync", "replace", "statvfs", "ftruncate", "mmap", "allocation"},
    "read packed": {"open", "pread", "fstat", "mmap", "allocation"},
    "write journal": {"open", "write", "fsync", "replace", "allocation"},
    "read journal": {"open", "pread", "mmap", "allocation"},
    "save picture": {"open", "write", "fsync", "link", "unlink"},
    "save picture over another": {"open", "write", "fsync", "replace"},
    "cache made at load": {"mkdir", "pwrite", "fsync", "replace", "mmap", "allocation"},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Operation]]:
    with operations(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.mark.parametrize("title", EXPECTED)
def test_what_fails_ends_in_an_error_of_ours_and_leaves_nothing(title: str, found: dict[str, Operation]) -> None:
    """The first call, the last, and one in the middle."""
    totals = {name: counted(found[title], name) for name in CALLS}
    assert {name for name, total in totals.items() if total} >= EXPECTED[title]
    for name, total in totals.items():
        for at in sorted({1, total // 2, total} - {0}) if total else ():
            assert fails_cleanly(found[title], name, at)


def test_the_loop_notices(tmp_path: Path) -> None:
    """A file that is left behind, an old one that is lost, and an error that is not ours."""

    def careless() -> None:
        (tmp_path / "x").unlink()
        (tmp_path / "y").write_bytes(b"half")
        os.replace(tmp_path / "y", tmp_path / "x")

    careful = Operation(tmp_path, careless, {"x": b"old"}, {"x": b"half"})
    assert counted(careful, "replace") == 1
    with pytest.raises(OSError, match="Input/output"):
        fails_cleanly(careful, "replace", 1)
    with pytest.raises(AssertionError, match="'y'"):
        careful.check(careful.old, "replace 1")
    assert not fails_cleanly(careful, "replace", 2)
