"""A large file that is written piece by piece, survives a kill, and gets its name when it is whole.

    .NAME.partial    the file, its full size from the start
    .NAME.journal    a line of JSON for what it is to become, then one for every piece that is on the disk

Whoever opens the same target for the same content again finds the pieces that are done. An error removes both files; a
kill or Ctrl-C leaves them. Pages that have been written are dropped from the system's cache: a phone needs it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_weights.errors import ModelFileError, worded
from tinydiff_weights.write import fsync_folder, publish_new

SYNC_BYTES = 32 * 2**20  # written between two visits to the disk
RESERVE = 16 * 2**20  # bytes that stay free


class BusyError(ModelFileError):
    """Another process writes the same file."""


class PartialFile:
    """Made by `open_partial`. `done`: what the journal says of the pieces that are written, by name."""

    def __init__(self, target: Path, size: int, key: str) -> None:
        self.target, self.size, self._key = target, size, key
        self.partial, self.journal = (target.with_name(f".{target.name[:200]}.{x}") for x in ("partial", "journal"))
        self.done: dict[str, dict[str, Any]] = {}
        self._waiting: list[bytes] = []  # journal lines of pieces that the disk may not have yet
        self._unsynced = 0
        self._file = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._log = -1

    def lock(self) -> None:
        """BusyError where another process has it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(self.target, "is being written by another process") from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK):
                raise  # some file systems of phones know no locks
        # Whoever was faster may have finished meanwhile: then what is open here is the whole file, under its name.
        here = os.fstat(self._file)
        if not self.partial.exists() or not os.path.samestat(here, os.stat(self.partial)):
            raise BusyError(self.target, "is being written by another process")

    def start(self) -> None:
        """Take up what is there, or begin anew. OSError, ModelFileError."""
        kept = self._read_journal() if os.fstat(self._file).st_size == self.size else 0
        check_space(self.target, self.size, self.partial)
        if not kept:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.journal)
            os.ftruncate(self._file, 0)
            os.ftruncate(self._file, self.size)
        self._log = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        os.ftruncate(self._log, kept)
        if not kept:
            write_all(self._log, _line({"key": self._key}))

    def write(self, offset: int, data: NDArray[Any] | bytes) -> None:
        """Bytes at a place in the file."""
        array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.ascontiguousarray(data)
        view = memoryview(array.reshape(-1).view(np.uint8).data)
        while view:
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written
            self._unsynced += written

    def record(self, name: str, **facts: Any) -> None:
        """All of a piece is written."""
        self.done[name] = facts
        self._waiting.append(_line({"name": name, **facts}))
        if self._unsynced >= SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        """Bring what is written to the disk, then say so in the journal."""
        os.fsync(self._file)
        with contextlib.suppress(OSError):  # advice
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        write_all(self._log, b"".join(self._waiting))
        self._waiting, self._unsynced = [], 0

    def publish(self, header: bytes, *, overwrite: bool) -> None:
        """Write the beginning, and give the file its name. FileExistsError where that is taken."""
        self.write(0, header)
        os.fsync(self._file)
        os.unlink(self.journal)  # first: whoever finds the partial file alone begins anew, nothing is left over
        if overwrite:
            os.replace(self.partial, self.target)
        else:
            publish_new(self.partial, self.target)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.partial)
        fsync_folder(self.target.parent)

    def close(self) -> None:
        for descriptor in (self._file, self._log):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._log = -1

    def remove(self) -> None:
        for path in (self.journal, self.partial):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _read_journal(self) -> int:
        """Fill `done`; the bytes of the journal that are whole lines, 0 where it is of something else."""
        try:
            with open(self.journal, "rb") as stream:
                lines = stream.read().splitlines(keepends=True)
        except FileNotFoundError:
            return 0
        kept = 0
        for number, line in enumerate(lines):
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                row = None
            if not isinstance(row, dict) or (number == 0 and row != {"key": self._key}):
                break
            if number:
                name = row.pop("name", None)
                if not isinstance(name, str):
                    break
                self.done[name] = row
            kept += len(line)
        return kept


@contextlib.contextmanager
def open_partial(target: Path, size: int, key: str) -> Iterator[PartialFile]:
    """`key` says what the file will hold: pieces of another key are thrown away.

    ModelFileError for everything that the system refuses. After an error nothing is left; after a KeyboardInterrupt
    what is done stays for the next time.
    """
    with worded(target):
        partial = PartialFile(target, size, key)
    try:
        with worded(target):
            partial.lock()
            partial.start()
            yield partial
    except BusyError:
        raise
    except Exception:
        partial.remove()
        raise
    finally:
        partial.close()


def check_space(target: Path, size: int, partial: Path) -> None:
    """ModelFileError unless the disk has room for `size` bytes, less those that an earlier start has taken."""
    folder = os.statvfs(target.parent)
    free, here = folder.f_bavail * folder.f_frsize, os.stat(partial).st_blocks * 512
    if size + RESERVE > free + here:
        needed, have = (f"{n / 2**20:.0f} MB" for n in (size + RESERVE - here, free))
        raise ModelFileError(target, f"needs {needed} of disk, {have} are free", hint="Free some space")


def write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"
