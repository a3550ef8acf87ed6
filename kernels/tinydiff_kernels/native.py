"""Kernels compiled ahead of time: a shared library in this package, called through ctypes. No Numba, no LLVM.

    native/tinydiff-{target}-{hash}.so      made by `python -m tinydiff_kernels.build_aot`

The hash is that of this package's sources: a library made from other sources is not used. Inside, every kernel has one
symbol for each path, `{operation}__{path}`. TINYDIFF_NATIVE=0 ignores the library, another value names one to use.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from tinydiff_kernels.cpu import architecture
from tinydiff_kernels.errors import KernelError
from tinydiff_kernels.source_hash import source_hash

Kernel = Callable[[int, int, int], None]
FOLDER = Path(__file__).parent / "native"
NATIVE_VARIABLE = "TINYDIFF_NATIVE"
HASH_DIGITS = 16


def target() -> str:
    """This machine in the words of `build_aot`: "aarch64-linux", "aarch64-android" or "x86_64-linux"."""
    android = sys.platform == "android" or (sys.platform == "linux" and not platform.libc_ver()[0])  # bionic, musl
    return f"{architecture(platform.machine())}-{'android' if android else 'linux'}"


def file_name(target_name: str) -> str:
    return f"tinydiff-{target_name}-{source_hash()[:HASH_DIGITS]}.so"


def symbol(operation: str, path: str) -> str:
    return f"{operation}__{path}"


@lru_cache(maxsize=1)
def library() -> tuple[ctypes.CDLL | None, str]:
    """(the library, where it lies) or (None, why there is none). KernelError where a named one does not load."""
    named = os.environ.get(NATIVE_VARIABLE, "")
    if named == "0":
        return None, f"{NATIVE_VARIABLE}=0"
    file = Path(named) if named else FOLDER / file_name(target())
    if not file.is_file():
        if named:
            raise KernelError(f"{NATIVE_VARIABLE}={named}: there is no such file")
        return None, "no library for this machine and version; compiled by Numba when first used"
    try:
        return ctypes.CDLL(str(file)), str(file)
    except OSError as error:
        if named:
            raise KernelError(f"{NATIVE_VARIABLE}={named}: {error}") from error
        return None, f"{file} does not load: {error}"


@lru_cache(maxsize=256)
def function(operation: str, path: str) -> Kernel | None:
    """A kernel of the library for a path, or None where there is no library or it lacks this kernel."""
    loaded, _ = library()
    found = None if loaded is None else getattr(loaded, symbol(operation, path), None)
    if found is None:
        return None
    found.restype, found.argtypes = None, [ctypes.c_int64] * 3
    kernel: Kernel = found
    return kernel
