"""Bringing pages of mapped files into memory before they are needed, and letting them go when they are not.

What works is not what the manual pages suggest. MADV_WILLNEED reads one read-ahead window at most; MADV_POPULATE_READ
(Linux 5.14) reads all that is asked for, and where a kernel does not know it a byte of every page is touched. madvise
DONTNEED takes pages out of this process but leaves them in the file cache; posix_fadvise DONTNEED takes them out of the
cache, but only pages that no process has mapped: so the one, then the other.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_weights.mapping import FileIdentity, FileMapping, mapping_of

POPULATE_READ = 22  # MADV_POPULATE_READ; Python's mmap has no name for it
STEP = 2**21  # bytes brought in by one call: between two calls a stop is heeded
PAGE = mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Region:
    """Whole pages of a mapping: bytes `start` to `stop` of the file."""

    mapping: FileMapping
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


def regions(arrays: Iterable[NDArray[Any]]) -> list[Region]:
    """The pages under arrays that are views of mapped files, joined where they touch; of other arrays none."""
    found: dict[int, tuple[FileMapping, list[tuple[int, int]]]] = {}
    for array in arrays:
        mapping = mapping_of(array)
        if mapping is None or not array.size:
            continue
        low, high = np.lib.array_utils.byte_bounds(array)
        base = address(mapping)
        pages = (low - base) // PAGE * PAGE, min(-(-(high - base) // PAGE) * PAGE, len(mapping))
        found.setdefault(id(mapping), (mapping, []))[1].append(pages)
    return [Region(m, start, stop) for m, spans in found.values() for start, stop in _joined(spans)]


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        else:
            joined.append((start, stop))
    return joined


def address(mapping: FileMapping) -> int:
    """Where the mapping begins in memory."""
    return int(np.frombuffer(mapping, np.uint8, 1).ctypes.data)


def bring_in(region: Region) -> None:
    """Read pages into memory; STEP bytes at most are sensible. The interpreter's lock is not held meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    start = address(region.mapping) + region.start
    done = libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(region.nbytes), POPULATE_READ)
    if done != 0:
        np.frombuffer(region.mapping, np.uint8, region.nbytes, region.start)[::PAGE].max(initial=0)


def let_go(region: Region) -> None:
    """Take pages out of this process, and out of the file cache. They are read again by whoever looks again.

    Nothing happens where somebody else in this process uses the mapping (see `hold`).
    """
    mapping = region.mapping
    if users(mapping) > 1 or not region.nbytes:
        return
    with contextlib.suppress(OSError):  # advice: what is not taken is not wrong
        mapping.madvise(mmap.MADV_DONTNEED, region.start, region.nbytes)
        _forget(mapping, region)


def _forget(mapping: FileMapping, region: Region) -> None:
    descriptor = os.open(mapping.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if FileIdentity.of(os.fstat(descriptor)) == mapping.identity:
            os.posix_fadvise(descriptor, region.start, region.nbytes, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


# Who uses a mapping: pipelines say so, and are forgotten when they are gone.
_users: weakref.WeakKeyDictionary[FileMapping, weakref.WeakSet[Any]] = weakref.WeakKeyDictionary()


def hold(arrays: Iterable[NDArray[Any]], user: object) -> None:
    """`user` (a model) uses the mappings under these arrays, as long as it lives."""
    for mapping in {id(m): m for a in arrays if (m := mapping_of(a)) is not None}.values():
        _users.setdefault(mapping, weakref.WeakSet()).add(user)


def users(mapping: FileMapping) -> int:
    """How many hold it."""
    return len(_users.get(mapping, ()))
