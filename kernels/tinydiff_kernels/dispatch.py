"""Which kernel runs where: the paths, the choice, and one literal table operation -> path -> function.

A path is a set of instructions and the way code is compiled for it; the table's kernels of one path may use all
of them. TINYDIFF_PATH forces a path; one that the CPU lacks is a PathError, never an illegal instruction.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module

from tinydiff_kernels import checked, native
from tinydiff_kernels.cpu import Cpu, this_cpu
from tinydiff_kernels.errors import KernelError, PathError

PATH_VARIABLE = "TINYDIFF_PATH"


@dataclass(frozen=True, slots=True)
class Path:
    """One way to compile kernels: for the base of the architecture plus the features named, on every machine alike."""

    name: str
    arch: str | None  # None: any
    features: tuple[str, ...]  # LLVM's names; the CPU must have all of them
    means: str

    @property
    def llvm_features(self) -> str:
        return ",".join(f"+{f}" for f in self.features)

    def llvm_cpu(self, arch: str) -> str:
        """LLVM's name of the architecture's base: what the path's features are added to."""
        return {"x86_64": "x86-64"}.get(arch, "generic")

    @property
    def signed_bytes(self) -> bool:
        """Quantised activations are stored less 128: ARM's dot products take bytes of one sign."""
        return "neon" in self.features

    def runs_on(self, cpu: Cpu) -> bool:
        return self.arch in (None, cpu.arch) and cpu.features.issuperset(self.features)


_AVX2 = ("avx2", "fma", "f16c")

PATHS = (  # best first within an architecture
    Path("i8mm", "aarch64", ("neon", "dotprod", "i8mm"), "8-bit matrix products: Cortex-A510, A710, X2 and newer"),
    Path("dotprod", "aarch64", ("neon", "dotprod"), "8-bit dot products: Cortex-A55, A76, X1"),
    Path("neon", "aarch64", ("neon",), "every 64-bit ARM: Cortex-A53, A72"),
    Path(
        "avx512vnni",
        "x86_64",
        (*_AVX2, "avx512f", "avx512bw", "avx512vl", "avx512vnni"),
        "512-bit vectors with 8-bit dot products: Ice Lake, Zen 4 and newer",
    ),
    Path("avxvnni", "x86_64", (*_AVX2, "avxvnni"), "256-bit vectors with 8-bit dot products: Alder Lake and newer"),
    Path("avx2", "x86_64", _AVX2, "256-bit vectors and fused multiply-add: Haswell, Zen and newer"),
    Path("generic", None, (), "any CPU: what every machine of the architecture has"),
)
BY_NAME = {path.name: path for path in PATHS}

# operation -> path -> "module:function". A path without a row of its own takes the next path below it that has one.
# One source often serves several paths: compiled for each, it becomes different instructions.
_MATMUL = "tinydiff_kernels.matmul."
_F32, _F32_WIDE = _MATMUL + "float32:matmul_f32", _MATMUL + "float32:matmul_f32_wide"
_F16, _F16_WIDE = _MATMUL + "float32:matmul_f16", _MATMUL + "float32:matmul_f16_wide"
_I8, _I8_WIDE, _I8_LANES = (_MATMUL + "int8:matmul_i8" + end for end in ("", "_wide", "_lanes"))
_OUTER, _PAIRS, _I4 = (
    _MATMUL + where for where in ("outer:matmul_i8_outer", "pairs:matmul_i8_pairs", "int4:matmul_i4")
)
_NORM = "tinydiff_kernels.norm."
_ATTENTION = "tinydiff_kernels.attention.float32:attention_f32"
_ATTENTION_I8 = "tinydiff_kernels.attention.int8:attention_i8"
KERNELS: dict[str, dict[str, str]] = {
    "matmul_f32": {"neon": _F32 + "_lanes", "avx512vnni": _F32_WIDE, "avx2": _F32, "generic": _F32},
    "matmul_f16": {"neon": _F16 + "_lanes", "avx512vnni": _F16_WIDE, "avx2": _F16, "generic": _F16},
    "matmul_i8": {
        "i8mm": _OUTER,
        "dotprod": _I8_LANES,
        "neon": _PAIRS,
        "avx512vnni": _I8_WIDE,
        "avx2": _I8,
        "generic": _I8,
    },
    "matmul_i8_limited": {
        "i8mm": _OUTER,
        "dotprod": _I8_LANES,
        "neon": _PAIRS,
        "avx512vnni": _I8_WIDE,
        "avxvnni": _I8,
        "avx2": _I8 + "_limited",
        "generic": _I8,
    },
    "matmul_i4": {
        "dotprod": _MATMUL + "int4_lanes:matmul_i4_lanes",
        "neon": _MATMUL + "int4_pairs:matmul_i4_pairs",
        "avx512vnni": _MATMUL + "int4_wide:matmul_i4_wide",
        "avxvnni": _I4,
        "avx2": _MATMUL + "int4_narrow:matmul_i4_narrow",
        "generic": _I4,
    },
    "norm_stats": {"generic": _NORM + "stats:norm_stats"},
    "norm_fold": {"generic": _NORM + "fold:norm_fold"},
    "norm_apply": {"generic": _NORM + "apply:norm_apply"},
    "rows_norm": {"generic": _NORM + "rows_kernel:rows_norm"},
    "elementwise": {"generic": "tinydiff_kernels.elementwise.kernel:elementwise"},
    "attention_f32": {
        "neon": _ATTENTION,
        "avx512vnni": _ATTENTION + "_wide",
        "avx2": _ATTENTION,
        "generic": _ATTENTION,
    },
    "keys_i8": {"generic": "tinydiff_kernels.attention.keys_i8:keys_i8"},
    "attention_i8": {
        "dotprod": _ATTENTION_I8 + "_lanes",
        "neon": _ATTENTION_I8 + "_narrow",
        "avx512vnni": _ATTENTION_I8 + "_wide",
        "avxvnni": _ATTENTION_I8,
        "avx2": _ATTENTION_I8 + "_pairs",
        "generic": _ATTENTION_I8,
    },
}

TEAM: dict[str, dict[str, str]] = {  # how threads run the kernels above (team.py)
    "team_lead": {"generic": "tinydiff_kernels.team_kernels:team_lead"},
    "team_follow": {"generic": "tinydiff_kernels.team_kernels:team_follow"},
}
COMPILED = {**KERNELS, **TEAM}  # all that is compiled for a path


@dataclass(frozen=True, slots=True)
class Choice:
    """The path that kernels run on, and why, in words for `doctor`."""

    path: Path
    why: str


def available(cpu: Cpu | None = None) -> list[Path]:
    """Paths that a CPU can run, best first; `generic` is always among them."""
    cpu = cpu or this_cpu()
    return [path for path in PATHS if path.runs_on(cpu)]


def choose(cpu: Cpu | None = None, forced: str | None = None) -> Choice:
    """The path to use: the one that TINYDIFF_PATH (or `forced`) names, else the best that the CPU can run."""
    cpu = cpu or this_cpu()
    name = os.environ.get(PATH_VARIABLE, "") if forced is None else forced
    possible = available(cpu)
    if not name:
        best = possible[0]
        return Choice(best, f"best of {', '.join(p.name for p in possible)} that {cpu.model} runs")
    if name not in BY_NAME:
        near = get_close_matches(name, BY_NAME, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise PathError(f"{PATH_VARIABLE}={name}: no such path{hint} Known: {', '.join(BY_NAME)}.")
    path = BY_NAME[name]
    if path not in possible:
        raise PathError(
            f"{PATH_VARIABLE}={name}: {_lacking(path, cpu)}. It can run: {', '.join(p.name for p in possible)}."
        )
    return Choice(path, f"{PATH_VARIABLE} asks for it")


def _lacking(path: Path, cpu: Cpu) -> str:
    if path.arch not in (None, cpu.arch):
        return f"this path is for {path.arch}, and this CPU ({cpu.model}) is {cpu.arch}"
    missing = [f for f in path.features if f not in cpu.features]
    return f"this CPU ({cpu.model}) lacks {', '.join(missing)}"


def rows_for(path: Path) -> list[str]:
    """Paths whose kernels a path may use, best first: its own, then those that need a subset of its features."""
    own = set(path.features)
    return [p.name for p in PATHS if (p.arch in (None, path.arch)) and own.issuperset(p.features)]


def find(operation: str, path: Path) -> tuple[str, str]:
    """(path of the row, "module:function") of the kernel for an operation on a path. Raises KernelError without one."""
    rows = KERNELS.get(operation, TEAM.get(operation))
    if rows is None:
        raise KernelError(f"no kernel is called {operation!r}; known: {', '.join(KERNELS) or 'none'}")
    for name in rows_for(path):
        if name in rows:
            return name, rows[name]
    raise KernelError(f"the kernel {operation!r} has no row for the path {path.name}")


def source(operation: str, path: Path) -> Callable[..., None]:
    """The kernel's Python function. Its module, and with it Numba, is imported here."""
    _, where = find(operation, path)
    module, name = where.split(":")
    function: Callable[..., None] = getattr(import_module(module), name)
    return function


@lru_cache(maxsize=256)
def kernel(operation: str) -> Callable[[int, int, int], None]:
    """The kernel(desc, counter, cancel) for an operation on the path in use.

    From the library that was compiled ahead of time, where there is one; else compiled by Numba at its first call.
    """
    ahead = None if checked.asked() else native.function(operation, choose().path.name)
    if ahead is not None:
        return ahead
    from tinydiff_kernels import _jit

    compiled: Callable[[int, int, int], None] = _jit.jitted(source(operation, _jit.settings().path))
    return compiled


@dataclass(frozen=True, slots=True)
class Running:
    """How one operation is computed: a function of the table, compiled for a path, and by whom."""

    operation: str
    function: str
    path: str
    made_by: str  # "library" (ahead of time) or "Numba" (in this process)
    why: str  # this function


def running(choice: Choice, operations: Iterable[str] | None = None) -> list[Running]:
    """What runs each operation. Imports no kernel and no Numba."""
    found = []
    for operation in KERNELS if operations is None else operations:
        row, where = find(operation, choice.path)
        if len(KERNELS[operation]) == 1:
            why = "one source for all paths"
        else:
            why = f"the source for {row}" + ("" if row == choice.path.name else ", the best row that it can run")
        ahead = not checked.asked() and native.function(operation, choice.path.name) is not None
        made_by = "library" if ahead else "Numba"
        found.append(Running(operation, where.split(":")[1], choice.path.name, made_by, why))
    return found


def report(operations: Iterable[str] | None = None, cpu: Cpu | None = None) -> list[str]:
    """Lines for `doctor`: CPU, path and why, where kernels come from, then each operation's kernel."""
    cpu = cpu or this_cpu()
    choice = choose(cpu)
    cores = ", ".join(f"{c.physical} cores at {c.capacity:.0%}" for c in cpu.clusters)
    lines = [f"cpu: {cpu.model} ({cpu.arch}; {cores})", f"features: {', '.join(sorted(cpu.features)) or 'none known'}"]
    lines.append(f"path: {choice.path.name}, {choice.path.means}; {choice.why}")
    lines.append(f"kernels: {native.library()[1]}")
    lines += [f"{r.operation}: {r.function} for {r.path}, {r.made_by}; {r.why}" for r in running(choice, operations)]
    return lines
