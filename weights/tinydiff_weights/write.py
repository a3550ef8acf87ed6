"""Files appear whole or not at all: written under another name, flushed to the disk, then renamed.

    name.<random>.tmp  --write, fsync-->  rename to name  --fsync folder-->  done

A reader never sees half a file, a crash leaves the old one, and a failure removes the temporary one. This
also keeps mapped models safe: a model file is replaced by a new one and never rewritten in place.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.safetensors import StoredTensor

# What file systems without hard links (FUSE on a phone's shared storage, exFAT) answer to link().
_NO_LINKS = frozenset([errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES])


class _Output(io.RawIOBase):
    """A file object on a descriptor that writes everything it is given, or raises."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self.descriptor, offset, whence)

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]
        return size


@contextlib.contextmanager
def atomic_write(path: str | Path, *, overwrite: bool = True, durable: bool = True) -> Iterator[BinaryIO]:
    """Write `path` through the file object given; it appears when the block ends without an exception.

    overwrite=False raises FileExistsError if `path` exists by then, also if it appeared meanwhile. Every
    failure is an OSError (no folder, no permission, disk full, `path` is a folder): the caller words it for
    its user. The mode is 0666 less the umask, as for any new file. durable=False leaves the flushing to the system: for
    what is worth nothing after a loss of power.
    """
    path = Path(path)
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary, renamed = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp"), False
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            yield cast("BinaryIO", _Output(descriptor))
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if overwrite:
            os.replace(temporary, path)
            renamed = True
        else:
            publish_new(temporary, path)
    finally:
        if not renamed:
            with contextlib.suppress(OSError):  # what came before matters: the file is whole, or why it is not
                os.unlink(temporary)
    if durable:
        fsync_folder(path.parent)


def atomic_write_bytes(path: str | Path, data: bytes, *, overwrite: bool = True, durable: bool = True) -> None:
    """`atomic_write` of bytes that are at hand."""
    with atomic_write(path, overwrite=overwrite, durable=durable) as file:
        file.write(data)


def publish_new(temporary: Path, path: Path) -> None:
    """Name `temporary` `path` unless that is taken: link() then refuses, rename() would replace."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Claim the name with an empty file first, which fails if it is taken, then put the real one over it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        try:
            os.replace(temporary, path)
        except OSError:
            os.unlink(path)
            raise


def fsync_folder(folder: Path) -> None:
    """Make the new name durable. Some file systems refuse this; the file itself is complete either way."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_safetensors(
    path: str | Path,
    tensors: Mapping[str, StoredTensor | NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = True,
) -> None:
    """Write a safetensors file atomically, one tensor in memory at a time.

    Tensors lie by falling element size, then by name, after a header padded to 8 bytes: every one is aligned
    and the file depends on its content only. Raises ModelFileError.
    """
    stored = [
        t if isinstance(t, StoredTensor) else StoredTensor.from_array(name, np.asarray(t), str(path))
        for name, t in tensors.items()
    ]
    rows = sorted(zip(tensors, stored, strict=True), key=lambda row: (-row[1].raw.itemsize, row[0]))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name, tensor in rows:
        offsets = [position, position + tensor.nbytes]
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    try:
        with atomic_write(path, overwrite=overwrite) as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, tensor in rows:
                if tensor.nbytes:
                    file.write(np.ascontiguousarray(tensor.raw).reshape(-1).view(np.uint8).data)
    except OSError as error:
        raise ModelFileError(path, f"cannot be written: {error.strerror or error}") from error
