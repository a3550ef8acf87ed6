"""Libraries for the gate: every kernel for one path of each architecture, and those that other ARM paths do
otherwise."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tinydiff_kernels import aot, dispatch, native
from tinydiff_kernels.build_aot import SIGNATURE
from tinydiff_kernels.source_hash import source_hash

ALL = tuple(dispatch.KERNELS)
FOLDER_VARIABLE = "TINYDIFF_ARM"


@dataclass(frozen=True)
class Build:
    """What is compiled for a path; the rest would be the same instructions again."""

    arch: str
    path: str
    operations: tuple[str, ...]


BUILDS = (
    Build("x86_64", "avx2", ALL),  # x86-64-v3
    Build("aarch64", "dotprod", ALL),
    Build("aarch64", "i8mm", ("matmul_i8",)),
    Build("aarch64", "neon", ("matmul_i8", "matmul_i4", "keys_i8", "attention_i8")),
)


@dataclass(frozen=True)
class Made:
    build: Build
    object: bytes
    assembly: str

    @property
    def functions(self) -> int:
        """Functions of machine code: one a kernel, and those that LLVM did not inline."""
        return len(re.findall(r"^\s*\.type\s+\S+,@function", self.assembly, re.MULTILINE))

    def function(self, operation: str) -> str:
        """The assembly of one kernel with the functions that it calls."""
        bodies = dict(re.findall(r"^([^\s.][^\s:]*):(.*?)^\.Lfunc_end", self.assembly, re.MULTILINE | re.DOTALL))
        wanted = [native.symbol(operation, self.build.path)]
        for name in wanted:  # grows
            called = re.findall(r"^\s+(?:bl|callq?)\s+(\S+)", bodies[name], re.MULTILINE)
            wanted += [other for other in dict.fromkeys(called) if other in bodies and other not in wanted]
        return "\n".join(bodies[name] for name in wanted)


def compiled(build: Build) -> Made:
    path = dispatch.BY_NAME[build.path]
    exports: aot.Exports = {
        native.symbol(operation, path.name): (dispatch.source(operation, path), SIGNATURE)
        for operation in build.operations
    }
    made = aot.compile_object(exports, aot.Machine.of(path, build.arch))
    return Made(build, made.object, made.assembly)


def linked(made: list[Made], output: Path) -> Path:
    """One library of objects of the same architecture, as `build_aot` makes them."""
    arch = made[0].build.arch
    base = aot.Machine.of(dispatch.BY_NAME["generic"], arch)
    objects = [aot.constant_object(native.SOURCES, source_hash().encode(), base), *(m.object for m in made)]
    aot.link_shared(objects, output, aot.find_linker(base.triple))
    return output


def tools() -> Path:
    """The folder that setup.sh made."""
    folder = Path(os.environ.get(FOLDER_VARIABLE, "")) / "gate"
    if not (folder / "ready").exists():
        raise SystemExit(f"set {FOLDER_VARIABLE} to a folder made by tests/neon/setup_arm.sh and bench/gate/setup.sh")
    return folder
