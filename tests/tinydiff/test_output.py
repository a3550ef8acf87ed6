"""Writing results: never over an existing file, never half a file, every failure an OutputError that says what."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinydiff.errors import OutputError
from tinydiff.output import check_output, write_output

DATA = bytes(range(256)) * 100


def _folder_missing(root: Path) -> str:
    return f"{root}/none/a.png"


def _folder_is_a_file(root: Path) -> str:
    (root / "file").write_bytes(b"")
    return f"{root}/file/a.png"


def _exists(root: Path) -> str:
    (root / "a.png").write_bytes(b"old")
    return f"{root}/a.png"


def _dangling_link(root: Path) -> str:
    (root / "a.png").symlink_to(root / "nowhere")
    return f"{root}/a.png"


def _link_loop(root: Path) -> str:
    (root / "loop").symlink_to(root / "loop")
    return f"{root}/loop/a.png"


def _pipe(root: Path) -> str:
    os.mkfifo(root / "a.png")
    return f"{root}/a.png"


BAD_PLACES: dict[str, tuple[Callable[[Path], str], str]] = {
    "folder missing": (_folder_missing, "folder does not exist"),
    "folder is a file": (_folder_is_a_file, "is a file, not a folder"),
    "output is a folder": (lambda root: str(root), "is a folder"),
    "trailing slash": (lambda root: f"{root}/a/", "is a folder"),
    "dot": (lambda root: ".", "is a folder"),
    "dots": (lambda root: f"{root}/..", "is a folder"),
    "root": (lambda root: "/", "is a folder"),
    "empty": (lambda root: "", "not a possible file name"),
    "NUL": (lambda root: f"{root}/a\0.png", "not a possible file name"),
    "lone surrogate": (lambda root: f"{root}/\ud800.png", "not a possible file name"),
    "name too long": (lambda root: f"{root}/{'x' * 300}.png", "name is too long"),
    "exists": (_exists, "exists already; --force"),
    "dangling link": (_dangling_link, "exists already"),
    "link loop": (_link_loop, "symbolic links|does not exist"),
    "pipe": (_pipe, "not a regular file"),
    "device": (lambda root: "/dev/null", "not a regular file"),
}


def _tree(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))
    }


@pytest.mark.parametrize(("place", "message"), BAD_PLACES.values(), ids=BAD_PLACES.keys())
@pytest.mark.parametrize("act", [write_output, lambda path, data: check_output(path)], ids=["write", "check"])
def test_bad_places(
    place: Callable[[Path], str], message: str, act: Callable[[str, bytes], Any], tmp_path: Path
) -> None:
    path = place(tmp_path)
    before = _tree(tmp_path)
    with pytest.raises(OutputError, match=message):
        act(path, DATA)
    assert _tree(tmp_path) == before


@pytest.mark.parametrize("path", ["/dev/null", "pipe"])
def test_force_does_not_replace_devices_and_pipes(path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="not a regular file"):
        write_output(tmp_path / path, DATA, force=True)
    assert Path("/dev/null").is_char_device()
    assert (tmp_path / "pipe").is_fifo()


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_output("a.png") == Path("a.png")
    assert write_output("a.png", DATA) == Path("a.png")
    assert _tree(tmp_path) == {"a.png": DATA}


def test_force_replaces(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    check_output(tmp_path / "a", force=True)
    write_output(tmp_path / "a", DATA, force=True)
    assert _tree(tmp_path) == {"a": DATA}


FAULTS: dict[str, tuple[str, int, str]] = {
    "disk full at write": ("write", errno.ENOSPC, "disk is full"),
    "disk full at fsync": ("fsync", errno.ENOSPC, "disk is full"),
    "quota": ("write", errno.EDQUOT, "quota"),
    "read-only file system": ("open", errno.EROFS, "read-only"),
    "read-only folder": ("open", errno.EACCES, "no permission"),
    "input/output error": ("fsync", errno.EIO, "Input/output error"),
    "rename fails": ("replace", errno.EIO, "Input/output error"),
    "link fails": ("link", errno.ENOSPC, "disk is full"),
}


@pytest.mark.parametrize(("call", "code", "message"), FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("nth", [1, 2])
def test_faults(call: str, code: int, message: str, nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nth such call fails; half of what is to be written is written first. Nothing may be left behind."""
    force = call == "replace"
    if force:
        (tmp_path / "a.png").write_bytes(b"old")
    before = _tree(tmp_path)
    real, calls = getattr(os, call), 0

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(code, os.strerror(code))
        if call == "write":
            return real(arguments[0], bytes(arguments[1])[:100])  # a short write is no error
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, failing)
    try:
        write_output(tmp_path / "a.png", DATA, force=force)
    except OutputError as error:
        monkeypatch.undo()
        assert message in str(error)  # noqa: PT017 - the second call may not come
        assert _tree(tmp_path) == before
    else:
        monkeypatch.undo()
        assert calls < nth or (call in ("open", "fsync") and nth == 2)  # the folder's own sync may fail unnoticed
        assert _tree(tmp_path) == {"a.png": DATA}


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_output(tmp_path / "a.png", DATA)
    assert _tree(tmp_path) == {}


def test_a_race_has_one_winner(tmp_path: Path) -> None:
    """Eight threads write the same new name at the same time: one succeeds, its bytes stay, the others are told."""
    barrier, won, lost = threading.Barrier(8), [], []

    def work(index: int) -> None:
        barrier.wait()
        try:
            write_output(tmp_path / "a", bytes([index]) * 10_000)
            won.append(index)
        except OutputError:
            lost.append(index)

    for _ in range(10):
        threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, 7)
        assert _tree(tmp_path) == {"a": bytes([won[0]]) * 10_000}
        (tmp_path / "a").unlink()
        won.clear()
        lost.clear()


def test_read_only_folder_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere: say no for it
    with pytest.raises(OutputError, match="no permission"):
        check_output(tmp_path / "a.png")
