"""Kernels compiled ahead of time: a shared library in this package, called through ctypes. No Numba, no LLVM.

    native/tinydiff-{target}-{hash}.so      made by `python -m tinydiff_kernels.build_aot`

The hash is that of this package's sources, in the name and in the library: one made from other sources is not used.
Inside, every kernel has one symbol for each path, `{operation}__{path}`. TINYDIFF_NATIVE=0 ignores the library,
another value names one to use.
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
SOURCES = "tinydiff_sources"  # symbol of the hash in the library
MAKE = "python -m tinydiff_kernels.build_aot makes one"


def target() -> str:
    """This machine in the words of `build_aot`: "aarch64-linux", "aarch64-android" or "x86_64-linux"."""
    android = hasattr(sys, "getandroidapilevel")  # Termux' Python says "linux" before 3.13
    return f"{architecture(platform.machine())}-{'android' if android else sys.platform}"


def targets() -> list[str]:
    """Libraries that run here, best first: Android's needs nothing of Android and runs on any 64-bit ARM Linux."""
    here = target()
    return [here, "aarch64-android"] if here == "aarch64-linux" else [here]


def file_name(target_name: str) -> str:
    return f"tinydiff-{target_name}-{source_hash()[:HASH_DIGITS]}.so"


def symbol(operation: str, path: str) -> str:
    return f"{operation}__{path}"


@lru_cache(maxsize=1)
def library() -> tuple[ctypes.CDLL | None, str]:
    """(the library, where it lies) or (None, why there is none). KernelError where a named one cannot be used."""
    named = os.environ.get(NATIVE_VARIABLE, "")
    if named == "0":
        return None, f"no library: {NATIVE_VARIABLE}=0"
    if named:
        loaded, problem = _load(Path(named))
        if loaded is None:
            raise KernelError(f"{NATIVE_VARIABLE}={named}: {problem}")
        return loaded, named
    found = [file for name in targets() if (file := FOLDER / file_name(name)).is_file()]
    if found:
        loaded, problem = _load(found[0])
        return loaded, str(found[0]) if loaded is not None else f"{found[0]}: {problem}"
    others = [file.name for name in targets() for file in FOLDER.glob(f"tinydiff-{name}-*.so")]
    if others:
        return (
            None,
            f"no library: {others[0]} was made from other sources; python -m tinydiff_kernels.build_aot makes one",
        )
    return None, "no library for this machine in this installation"


def _load(file: Path) -> tuple[ctypes.CDLL | None, str]:
    """(the library, "") or (None, what is wrong with it)."""
    if not file.is_file():
        return None, "there is no such file"
    try:
        loaded = ctypes.CDLL(str(file.absolute()))
        made_from = bytes((ctypes.c_char * len(source_hash())).in_dll(loaded, SOURCES)).decode("ascii", "replace")
    except OSError as error:
        return None, f"it does not load: {error}"
    except ValueError:
        return None, "it is no library of tinydiff's kernels"
    if made_from != source_hash():
        return None, f"it was made from other sources; {MAKE}"
    return loaded, ""


@lru_cache(maxsize=256)
def function(operation: str, path: str) -> Kernel | None:
    """A kernel of the library for a path, or None where there is no library, or one without this path."""
    loaded, _ = library()
    found = None if loaded is None else getattr(loaded, symbol(operation, path), None)
    if found is None:
        return None
    found.restype, found.argtypes = None, [ctypes.c_int64] * 3
    kernel: Kernel = found
    return kernel
