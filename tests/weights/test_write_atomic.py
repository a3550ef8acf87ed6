"""Atomic writing: whole or not at all, whichever call of the operating system fails, and whenever."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.safetensors import open_safetensors
from tinydiff_weights.write import atomic_write, atomic_write_bytes, save_safetensors

OLD, NEW = b"old content", b"new content, longer than the old"


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    atomic_write_bytes(path, OLD)
    atomic_write_bytes(path, NEW)
    assert path.read_bytes() == NEW
    assert os.listdir(tmp_path) == ["a.bin"]


def test_the_file_object_seeks_as_encoders_want(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"....body")
        file.seek(0)
        file.write(b"HEAD")
        assert file.tell() == 4
        file.seek(0, os.SEEK_END)
        file.write(np.arange(2, dtype=np.uint16).data)
    assert (tmp_path / "a.bin").read_bytes() == b"HEADbody\0\0\1\0"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_mode_follows_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        atomic_write_bytes(tmp_path / "a", NEW)
        atomic_write_bytes(tmp_path / "b", NEW, overwrite=False)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == mode


def test_without_overwrite_an_existing_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(OLD)
    with pytest.raises(FileExistsError):
        atomic_write_bytes(path, NEW, overwrite=False)
    assert path.read_bytes() == OLD
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        atomic_write_bytes(dangling, NEW, overwrite=False)
    assert sorted(os.listdir(tmp_path)) == ["a", "link"]


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_file_that_appears_meanwhile_stays(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", failing(os.link, 1, errno.EPERM, persistent=True))
    path = tmp_path / "a"

    def write() -> None:
        with atomic_write(path, overwrite=False) as file:
            file.write(NEW)
            path.write_bytes(OLD)  # somebody was faster

    with pytest.raises(FileExistsError):
        write()
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["a"]
    atomic_write_bytes(tmp_path / "b", NEW, overwrite=False)
    assert (tmp_path / "b").read_bytes() == NEW


def test_an_exception_of_the_caller_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(OLD)

    def write(error: type[BaseException]) -> None:
        with atomic_write(path) as file:
            file.write(NEW)
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            write(error)
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda d: d / "nowhere" / "a", FileNotFoundError),
        (lambda d: d, IsADirectoryError),
        (lambda d: d / "file" / "a", NotADirectoryError),
    ],
    ids=["no folder", "is a folder", "folder is a file"],
)
def test_places_where_nothing_can_be_written(
    tmp_path: Path, make: Callable[[Path], Path], error: type[OSError]
) -> None:
    (tmp_path / "file").write_bytes(OLD)
    for overwrite in (True, False):
        with pytest.raises((error, FileExistsError)):
            atomic_write_bytes(make(tmp_path), NEW, overwrite=overwrite)
    assert os.listdir(tmp_path) == ["file"]


def test_a_long_name_still_fits(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / ("n" * 255), NEW)
    assert (tmp_path / ("n" * 255)).read_bytes() == NEW


# ------------------------------------------------------------------------------------------- fault injection


def failing(real: Callable[..., Any], at: int, code: int, *, persistent: bool) -> Callable[..., Any]:
    """`real`, but call number `at` (and all later ones if persistent) raises OSError(code)."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at or (persistent and calls > at):
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    return call


def short_write(descriptor: int, data: Any) -> int:
    """What a disk under pressure does: takes three bytes at a time."""
    return REAL_WRITE(descriptor, bytes(data[:3]))


REAL_WRITE = os.write
FAULTS = [
    ("write", errno.ENOSPC),
    ("write", errno.EIO),
    ("fsync", errno.EIO),
    ("replace", errno.EACCES),
    ("link", errno.EIO),
    ("link", errno.EPERM),
    ("open", errno.EMFILE),
    ("close", errno.EIO),
]


@contextlib.contextmanager
def fault(call: str, code: int, at: int, persistent: bool) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if call == "write":
            patch.setattr(os, "write", failing(short_write, at, code, persistent=persistent))
        elif call == "close":
            # The descriptor is released before the error, as the kernel does.
            after = failing(lambda fd: None, at, code, persistent=persistent)
            real = os.close
            patch.setattr(os, "close", lambda fd: (real(fd), after(fd))[1])
        else:
            patch.setattr(os, call, failing(getattr(os, call), at, code, persistent=persistent))
        yield


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("overwrite", [True, False], ids=["replace", "new"])
@pytest.mark.parametrize(("call", "code"), FAULTS, ids=[f"{c} {errno.errorcode[e]}" for c, e in FAULTS])
def test_every_failure_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, call: str, code: int, overwrite: bool, persistent: bool
) -> None:
    """The Nth call fails, for N = 1, 2, ... until nothing fails any more."""
    path = tmp_path / "a"
    failures = 0
    for at in range(1, 100):
        path.unlink(missing_ok=True)
        if overwrite:
            path.write_bytes(OLD)
        try:
            with fault(call, code, at, persistent):
                atomic_write_bytes(path, NEW, overwrite=overwrite)
        except OSError:
            failures += 1
            if overwrite:
                assert path.read_bytes() in (OLD, NEW)
            else:
                assert not path.exists() or path.read_bytes() == NEW
            assert set(os.listdir(tmp_path)) <= {"a"}
        else:
            assert path.read_bytes() == NEW
            assert os.listdir(tmp_path) == ["a"]
            if at > failures + 2:  # two successes in a row: the fault lies beyond the last call
                break
    else:
        pytest.fail("the fault never ran out")
    unused = (call == "link" and (overwrite or code == errno.EPERM)) or (call == "replace" and not overwrite)
    assert (failures > 0) != unused


def test_disk_full_while_a_model_is_written(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_safetensors(path, {"x": np.zeros(3, np.float32)})
    with fault("write", errno.ENOSPC, 9, True), pytest.raises(ModelFileError, match="No space left"):
        save_safetensors(path, {"x": np.ones(3, np.float32)})
    assert open_safetensors(path).tensors["x"].float32().max() == 0
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_model_over_an_existing_one_is_refused_on_request(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_safetensors(path, {"x": np.zeros(3, np.float32)}, overwrite=False)
    with pytest.raises(ModelFileError, match="File exists"):
        save_safetensors(path, {"x": np.ones(3, np.float32)}, overwrite=False)
