"""Compile all kernels ahead of time into one shared library for a machine that has neither Numba nor LLVM.

    python -m tinydiff_kernels.build_aot --target aarch64-linux|aarch64-android|x86_64-linux [--output FILE]

The library holds every kernel for every path of the architecture; `native.py` finds it and `dispatch.py` picks the
path. It needs a linker: LLVM's `ld.lld` (Debian: `apt install lld`). By default the file goes into this package, so
that `pip wheel .` afterwards makes a wheel with it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tinydiff_kernels import aot, dispatch, native
from tinydiff_kernels.errors import KernelError

TARGETS = {"aarch64-linux": "aarch64", "aarch64-android": "aarch64-android", "x86_64-linux": "x86_64"}
SIGNATURE = "void(int64, int64, int64)"


def paths_of(arch: str) -> list[dispatch.Path]:
    return [path for path in dispatch.PATHS if path.arch in (None, arch)]


def exports_of(path: dispatch.Path, operations: Sequence[str] | None = None) -> aot.Exports:
    """symbol -> (function, signature) of every kernel, as this path runs it."""
    return {
        native.symbol(operation, path.name): (dispatch.source(operation, path), SIGNATURE)
        for operation in (dispatch.KERNELS if operations is None else operations)
    }


def build(target: str, output: Path, *, linker: str = "ld.lld") -> None:
    """Compile and link. Raises KernelError with what went wrong."""
    if target not in TARGETS:
        raise KernelError(f"unknown target {target!r}; known: {', '.join(TARGETS)}")
    machine_name = TARGETS[target]
    objects = []
    for path in paths_of(machine_name.split("-")[0]):
        exports = exports_of(path)
        print(f"{path.name}: {len(exports)} kernels", file=sys.stderr, flush=True)
        compiled = aot.compile_object(exports, aot.Machine.of(path, machine_name))
        if compiled.undefined:
            raise KernelError(f"{path.name}: the code needs {', '.join(compiled.undefined)} from elsewhere")
        objects.append(compiled.object)
    output.parent.mkdir(parents=True, exist_ok=True)
    aot.link_shared(objects, output, linker=linker)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tinydiff_kernels.build_aot", description=__doc__)
    parser.add_argument("--target", choices=TARGETS, default=native.target())
    parser.add_argument("--output", type=Path, help="the library to write; default: into this package")
    parser.add_argument("--linker", default="ld.lld", help="LLVM's linker")
    given = parser.parse_args(arguments)
    output = given.output or native.FOLDER / native.file_name(given.target)
    try:
        build(given.target, output, linker=given.linker)
    except (KernelError, OSError) as error:
        print(f"build_aot: {error}", file=sys.stderr)
        return 1
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
