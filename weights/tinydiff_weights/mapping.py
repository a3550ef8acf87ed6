"""Read-only mappings of model files, one per file however many pipelines use it.

The operating system shares a mapping's pages with its file cache and can drop them at any time, so weights
held this way are not anonymous memory. The count of users is Python's own: every tensor view keeps its
mapping alive, the registry holds it only weakly, and with the last view the mapping is closed.

A file that is cut short while it is mapped kills the process (SIGBUS): never rewrite a model in place, and
see `FileMapping.changed`. Replacing it by renaming a new file over it is safe: the mapping keeps the old
bytes.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from tinydiff_weights.errors import ModelFileError, worded


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What makes two opens the same file with the same content."""

    device: int
    inode: int
    mtime_ns: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        return cls(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


class FileMapping(mmap.mmap):
    """A whole file mapped read-only. NumPy views made on it (`buffer=mapping`) keep it open."""

    path: Path
    identity: FileIdentity

    def changed(self) -> bool:
        """True if the mapped file itself was written to or cut since it was opened."""
        if self.size() != self.identity.size:
            return True
        try:
            now = FileIdentity.of(os.stat(self.path))
        except OSError:
            return False  # unlinked or moved away: the mapped bytes stay what they were
        same_file = (now.device, now.inode) == (self.identity.device, self.identity.inode)
        return same_file and now != self.identity

    def replaced(self) -> bool:
        """True if another file has the name by now. The mapped bytes are still the old ones, and whole."""
        try:
            now = os.stat(self.path)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) != (self.identity.device, self.identity.inode)


_live: WeakValueDictionary[FileIdentity, FileMapping] = WeakValueDictionary()
_lock = threading.Lock()


def live_mappings() -> tuple[FileMapping, ...]:
    """Mappings that some tensor still uses."""
    with _lock:
        return tuple(_live.values())


@contextlib.contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says into an error that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise ModelFileError(path, "no such file") from None
    except PermissionError:
        raise ModelFileError(path, "permission denied") from None
    except (OSError, ValueError, OverflowError) as error:  # a NUL in the name; a file too large for 32 bits
        hint = None
        if isinstance(error, OSError) and error.errno == errno.ENODEV:
            hint = "This file system cannot map files; copy the model to internal storage"
        raise ModelFileError(path, f"cannot be read: {error}", hint=hint) from None


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """A read-only descriptor of a regular file. Folders, pipes and devices are refused, never waited for.

    What the system refuses while it is read is a ModelFileError, too.
    """
    with _file_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with worded(path, "read"):
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise ModelFileError(path, "is a folder, expected a file")
            if not stat.S_ISREG(mode):
                raise ModelFileError(path, "is not a regular file")
            yield descriptor
    finally:
        os.close(descriptor)


def map_file(path: Path, descriptor: int) -> FileMapping:
    """The mapping of an open, non-empty file: an existing one if this very content is mapped already."""
    with _file_errors(path), _lock:
        identity = FileIdentity.of(os.fstat(descriptor))
        mapping = _live.get(identity)
        if mapping is None:
            mapping = FileMapping(descriptor, identity.size, access=mmap.ACCESS_READ)
            mapping.path, mapping.identity = path.absolute(), identity
            _live[identity] = mapping
        return mapping


def mapping_of(array: NDArray[Any]) -> FileMapping | None:
    """The mapping that an array is a view of, or None."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, FileMapping) else None


def drop_pages(array: NDArray[Any]) -> None:
    """Let go of the pages that a view of a mapping lies on: they are no longer this process's memory.

    The numbers stay: whoever looks again has them read again. Of strided views and of arrays in memory nothing is done.
    """
    mapping = mapping_of(array)
    if mapping is None or not array.flags.c_contiguous or not array.nbytes:
        return
    start = array.ctypes.data - np.frombuffer(mapping, np.uint8, 1).ctypes.data
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    with contextlib.suppress(OSError):  # advice
        mapping.madvise(mmap.MADV_DONTNEED, first, start + array.nbytes - first)
