"""Compile all kernels ahead of time into one shared library for a machine that has neither Numba nor LLVM.

    python -m tinydiff_kernels.build_aot [--target aarch64-linux|aarch64-android|x86_64-linux] [--output FILE]

The library holds every kernel for every path of the architecture; `native.py` finds it and `dispatch.py` picks the
path. It needs Numba here and a linker: LLVM's `ld.lld` (Debian: `apt install lld`), or another one that makes files for
the target. By default the file goes into this package, where it is looked for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tinydiff_kernels import aot, dispatch, elf, native
from tinydiff_kernels.errors import KernelError
from tinydiff_kernels.source_hash import source_hash

MACHINES = {"aarch64-linux": "aarch64", "aarch64-android": "aarch64-android", "x86_64-linux": "x86_64"}
SIGNATURE = "void(int64, int64, int64)"
PAGE = 16384  # Android 15 has pages of this size on some phones


def paths_of(arch: str) -> list[dispatch.Path]:
    return [path for path in dispatch.PATHS if path.arch in (None, arch)]


def exports_of(path: dispatch.Path) -> aot.Exports:
    """symbol -> (function, signature) of every kernel, as this path runs it."""
    return {
        native.symbol(operation, path.name): (dispatch.source(operation, path), SIGNATURE)
        for operation in dispatch.COMPILED
    }


def build(
    target: str, output: Path, *, linker: str | None = None, paths: Sequence[dispatch.Path] | None = None
) -> None:
    """Compile, link, and look at what came out; `paths`: only these. Raises KernelError or OSError."""
    if target not in MACHINES:
        raise KernelError(f"unknown target {target!r}; known: {', '.join(MACHINES)}")
    machines = {path: aot.Machine.of(path, MACHINES[target]) for path in paths or paths_of(target.split("-")[0])}
    base = aot.Machine.of(dispatch.BY_NAME["generic"], MACHINES[target])
    linker = linker or aot.find_linker(base.triple)
    output.parent.mkdir(parents=True, exist_ok=True)
    sources = source_hash()
    objects, wanted = [aot.constant_object(native.SOURCES, sources.encode(), base)], {native.SOURCES}
    for path, machine in machines.items():
        exports = exports_of(path)
        print(f"{path.name}: {len(exports)} kernels", file=sys.stderr, flush=True)
        objects.append(aot.compile_object(exports, machine).object)
        wanted |= set(exports)
    if source_hash() != sources:
        raise KernelError("the sources were changed while they were compiled; start again")
    aot.link_shared(objects, output, linker)
    _verify(elf.read(output.read_bytes()), wanted)


def _verify(made: elf.Elf, wanted: set[str]) -> None:
    """What phones insist on, whatever the linker."""
    if made.undefined or made.needed:
        raise KernelError(f"the library needs {', '.join(sorted((*made.undefined, *made.needed)))} from elsewhere")
    if missing := wanted - made.defined:
        raise KernelError(f"the library lacks {', '.join(sorted(missing))}")
    if any(alignment % PAGE for alignment in made.alignments):
        raise KernelError(f"the library's segments are aligned to {min(made.alignments)} bytes, not to {PAGE}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tinydiff_kernels.build_aot", description=__doc__.split("\n")[0])
    parser.add_argument("--target", choices=MACHINES, default=native.target(), help="default: this machine")
    parser.add_argument("--output", type=Path, help="the library to write; default: into this package")
    parser.add_argument("--linker", help="default: ld.lld, or the linker of the target's architecture")
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
