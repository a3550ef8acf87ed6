"""Runs the fixed calls inside an emulator that counts.  driver.py PATH... OPERATION,... FOLDER...

TINYDIFF_NATIVE names the library. Prints, for every call of a kernel, a line `path kernel call`, in their order. After
each, the emulator is told: callgrind watches the functions themselves; the counting plugin (`count.c`) takes the number
of a system call that does not exist.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

paths, operations, *folders = sys.argv[1:]
sys.path[:0] = folders

from bench.gate.calls import all_calls  # noqa: E402
from tinydiff_kernels import dispatch, native  # noqa: E402

Kernel = Callable[[int, int, int], None]
RANGE, MARK = 0x7D00, 0x7D01  # as in count.c


def tell_range() -> None:
    """Where the library's code lies, for the plugin."""
    library = str(Path(os.environ[native.NATIVE_VARIABLE]).resolve())
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(library)]
    code = [[int(word, 16) for word in fields[0].split("-")] for fields in mapped if "x" in fields[1]]
    system_call(RANGE, min(start for start, _ in code), max(end for _, end in code))


def system_call(number: int, *arguments: int) -> None:
    ctypes.CDLL(None).syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))


def counted(operation: str, path: str, order: list[tuple[str, str]], *, marks: bool) -> Kernel:
    kernel = native.function(operation, path)
    assert kernel is not None, native.library()[1]

    def call(*words: int) -> None:
        kernel(*words)
        if marks:
            system_call(MARK)
        order.append((path, operation))

    return call


def main() -> None:
    emulated = os.environ.get("TINYDIFF_COUNTED") == "plugin"
    native.library()
    if emulated:
        tell_range()
    order: list[tuple[str, str]] = []
    for path in paths.split(","):
        kernels = {name: counted(name, path, order, marks=emulated) for name in operations.split(",")}
        for name, call in all_calls(kernels, signed=dispatch.BY_NAME[path].signed_bytes):
            before = len(order)
            call()
            for made_path, operation in order[before:]:
                print(made_path, operation, name, sep="\t")


main()
