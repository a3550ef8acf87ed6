"""Results into files: whole or not at all, never over an existing file unasked."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from tinydiff.errors import OutputError
from tinydiff_weights.write import atomic_write_bytes

REASONS = {
    errno.EEXIST: "exists already; --force (force=True) replaces it",
    errno.EISDIR: "is a folder; name a file in it",
    errno.ENOENT: "its folder does not exist; create it first",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.EROFS: "is on a read-only file system; choose another folder",
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EFBIG: "the file system does not take a file of this size; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ELOOP: "the path goes round in symbolic links",
}


def check_output(path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """`path` if a file can be written there, as far as that is known before the work; else OutputError.

    For minutes of work not to end in "exists already". `write_output` checks again when it writes.
    """
    target = _as_path(path)
    try:
        _refuse_special(target, force)
        if not os.path.isdir(target.parent):
            os.stat(target.parent)  # says why: missing, or no permission on the way
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _worded(target, error) from error
    return target


def write_output(path: str | os.PathLike[str], data: bytes, *, force: bool = False) -> Path:
    """Write a new file, atomically. Without `force` an existing file stays, even one that appears meanwhile."""
    target = _as_path(path)
    try:
        _refuse_special(target, force)
        atomic_write_bytes(target, data, overwrite=force)
    except OSError as error:
        raise _worded(target, error) from error
    return target


def _as_path(path: str | os.PathLike[str]) -> Path:
    """The path, if it can name a file at all."""
    name = os.fspath(path)
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        raise OutputError(f"output {name!r:.200} is not a possible file name") from None
    if not name or b"\0" in encoded:
        raise OutputError(f"output {name!r:.200} is not a possible file name")
    if name.endswith(os.sep) or Path(name).name in ("", ".."):
        raise OutputError(f"output {name!r:.200} {REASONS[errno.EISDIR]}")
    return Path(name)


def _refuse_special(target: Path, force: bool) -> None:
    """Refuse a folder, a device or a pipe (replacing one would remove it), and without `force` any file."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if os.path.lexists(target):
        mode = os.lstat(target).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise OSError(errno.EINVAL, "exists and is not a regular file; choose another name")
        if not force:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _worded(target: Path, error: OSError) -> OutputError:
    reason = REASONS.get(error.errno or 0, error.strerror or str(error))
    return OutputError(f"output {str(target)!r:.200} {reason}")
