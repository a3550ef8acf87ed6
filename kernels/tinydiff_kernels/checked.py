"""Kernels that check every address (TINYDIFF_CHECK=1): which buffers they may touch, and what they did wrong.

Numba's bounds check sees arrays, not the raw addresses that kernels use. Compiled with TINYDIFF_CHECK=1, each
load and store first looks its bytes up in a table of registered buffers. An access outside of them touches
nothing: loads read zeros, stores are dropped, and the first one is remembered until `raise_if_violated`.

    with checked.buffers(a, b, writable=(c,)):
        pool.run(kernel, ...)        # calls raise_if_violated itself

The table is one int64 array: a few counters, 256 bytes of zeros to load from, 256 to store to, then the ranges.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels.errors import CheckedAccessError, KernelError

CHECK_VARIABLE = "TINYDIFF_CHECK"
COUNT, VIOLATIONS, ADDRESS, SIZE, KIND = range(5)
ZEROS, SINK, RANGES = 8, 40, 72  # indices of int64 words
RANGE_WORDS = 3  # start, end, may be written
MAX_RANGES = 4096
TABLE_WORDS = RANGES + RANGE_WORDS * MAX_RANGES
SYMBOL = "tinydiff_check_table"  # its name in a library compiled ahead of time

_lock = threading.RLock()
_own: NDArray[np.int64] = np.zeros(TABLE_WORDS, np.int64)
_tables: list[NDArray[np.int64]] = [_own]
_owners: list[object] = []  # of the tables that others made


def asked() -> bool:
    """Does TINYDIFF_CHECK ask for kernels that check every address?"""
    return os.environ.get(CHECK_VARIABLE, "") not in ("", "0")


def active() -> bool:
    """Can a checked kernel run in this process?"""
    return asked() or len(_tables) > 1


def table_address() -> int:
    """Where kernels compiled in this process find the table."""
    return int(_own.ctypes.data)


def attach(library: ctypes.CDLL) -> None:
    """Let a checked library that was compiled ahead of time see the same buffers; once for each library."""
    attach_address(ctypes.addressof(ctypes.c_int64.in_dll(library, SYMBOL)), library)


def attach_address(address: int, owner: object) -> None:
    """The same for code whose table is at this address. Its owner is kept, so that it stays loaded while attached."""
    words: Any = (ctypes.c_int64 * TABLE_WORDS).from_address(address)
    theirs: NDArray[np.int64] = np.frombuffer(words, np.int64)
    with _lock:
        if any(table.ctypes.data == address for table in _tables):
            return
        theirs[:] = _own
        _tables.append(theirs)
        _owners.append(owner)


def detach_libraries() -> None:
    """Forget them: kernels of this process run unchecked again, unless TINYDIFF_CHECK asks."""
    with _lock:
        del _tables[1:], _owners[:]


def register(buffer: NDArray[Any], *, writable: bool) -> None:
    """Allow access to the bytes of a C-contiguous array. The caller keeps it alive until `unregister`."""
    if not buffer.flags.c_contiguous:
        raise KernelError("only C-contiguous buffers can be registered for checked kernels")
    start = int(buffer.ctypes.data)
    with _lock:
        for table in _tables:
            count = int(table[COUNT])
            if count >= MAX_RANGES:
                raise KernelError(f"more than {MAX_RANGES} buffers registered for checked kernels")
            first = RANGES + RANGE_WORDS * count
            table[first : first + RANGE_WORDS] = start, start + buffer.nbytes, int(writable)
            table[COUNT] = count + 1


def unregister(buffer: NDArray[Any]) -> None:
    """Forget the latest registration of this array."""
    start = int(buffer.ctypes.data)
    with _lock:
        for table in _tables:
            count = int(table[COUNT])
            ranges = table[RANGES : RANGES + RANGE_WORDS * count].reshape(count, RANGE_WORDS)
            same = np.flatnonzero((ranges[:, 0] == start) & (ranges[:, 1] == start + buffer.nbytes))
            if same.size == 0:
                raise KernelError("this buffer is not registered")
            ranges[same[-1] : count - 1] = ranges[same[-1] + 1 :].copy()
            table[COUNT] = count - 1


@contextmanager
def buffers(*readable: NDArray[Any], writable: Sequence[NDArray[Any]] = ()) -> Iterator[None]:
    """Register arrays for the time of a `with` block."""
    done: list[NDArray[Any]] = []
    try:
        for array in (*readable, *writable):
            register(array, writable=any(array is w for w in writable))
            done.append(array)
        yield
    finally:
        for array in reversed(done):
            unregister(array)


def raise_if_violated() -> None:
    """Raise CheckedAccessError for the first bad access since the last call, if there was one."""
    with _lock:
        for table in _tables:
            violations, address, size, kind = (int(v) for v in table[VIOLATIONS : KIND + 1])
            if violations:
                table[VIOLATIONS : KIND + 1] = 0
                table[SINK:RANGES] = 0
                near = _describe(address, size)
                raise CheckedAccessError(
                    f"a kernel tried to {'store' if kind else 'load'} {size} bytes at {address:#x}, {near};"
                    f" {violations} bad accesses in all"
                )


def _describe(address: int, size: int) -> str:
    """Where an address lies with respect to the closest registered buffer."""
    count = int(_own[COUNT])
    if count == 0:
        return "with no buffer registered"
    ranges = _own[RANGES : RANGES + RANGE_WORDS * count].reshape(count, RANGE_WORDS)
    distance = np.maximum(ranges[:, 0] - address, address + size - ranges[:, 1])
    start, end, writable = (int(v) for v in ranges[int(distance.argmin())])
    if start <= address and address + size <= end:
        return "in a buffer that is " + ("writable" if writable else "not writable")
    return f"byte {address - start} of the closest buffer, which has {end - start}"
