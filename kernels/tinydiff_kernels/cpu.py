"""What this CPU can do, and which of its cores are the big ones. Reads text files only; Numba is not imported.

Instruction sets, by LLVM's names, come from /proc/cpuinfo ("flags" on x86, "Features" on ARM) and on ARM from the
kernel's HWCAP words too: LLVM's own detection knows ARM cores by name only and misses dotprod and i8mm on
unknown ones. On x86 Linux lists a feature only if it also saves its registers. Elsewhere than on Linux and
Android nothing is detected, and the generic path runs.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

# LLVM's name -> name in /proc/cpuinfo
X86_FLAGS = {
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avxvnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512vnni": "avx512_vnni",
}
# LLVM's name -> (name in /proc/cpuinfo, getauxval key, bit); linux/arch/arm64/include/uapi/asm/hwcap.h
AT_HWCAP, AT_HWCAP2 = 16, 26
ARM_FLAGS = {
    "neon": ("asimd", AT_HWCAP, 1),
    "dotprod": ("asimddp", AT_HWCAP, 20),
    "i8mm": ("i8mm", AT_HWCAP2, 13),
}
ARM_IMPLEMENTERS = {0x41: "ARM", 0x48: "HiSilicon", 0x51: "Qualcomm", 0x53: "Samsung", 0x61: "Apple", 0xC0: "Ampere"}
ARM_PARTS = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD48: "Cortex-X2",
    0xD49: "Neoverse-N2",
    0xD4D: "Cortex-A715",
    0xD4E: "Cortex-X3",
    0xD80: "Cortex-A520",
    0xD81: "Cortex-A720",
    0xD82: "Cortex-X4",
}
BIG_SHARE = 0.5  # cores with at least this share of the fastest core's capacity count as big


@dataclass(frozen=True, slots=True)
class Cluster:
    """Cores of one speed. `capacity` is relative to the fastest (1.0); `cores` are numbers that Linux gives them."""

    capacity: float
    cores: tuple[int, ...]
    physical: int  # cores that do not share their execution units with another one listed


@dataclass(frozen=True, slots=True)
class Cpu:
    """`arch` is "x86_64", "aarch64" or another machine name; `features` are LLVM's names; clusters fastest first."""

    arch: str
    model: str
    features: frozenset[str]
    clusters: tuple[Cluster, ...]
    quota: float | None  # cores' worth of time that a cgroup allows, None where unlimited

    @property
    def big_cores(self) -> int:
        """Physical cores in the fast clusters, at most the quota: the default number of threads."""
        count = sum(c.physical for c in self.clusters if c.capacity >= BIG_SHARE)
        if self.quota is not None:
            count = min(count, int(self.quota + 0.5))
        return max(1, count)


def architecture(machine: str) -> str:
    """One name for each architecture: platform.machine() says amd64, x86_64, arm64 or aarch64."""
    known = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64", "armv8l": "armv8l"}
    name = machine.lower()
    return known.get(name, name)


def _fields(cpuinfo: str, name: str) -> list[str]:
    """The value of a /proc/cpuinfo field, once for each core that lists it."""
    return [m.group(1).strip() for m in re.finditer(rf"^{re.escape(name)}[ \t]*:(.*)$", cpuinfo, re.MULTILINE)]


def _common_words(lines: list[str]) -> frozenset[str]:
    """Words that every core lists: threads move between cores, so only those count."""
    if not lines:
        return frozenset()
    return frozenset.intersection(*(frozenset(line.split()) for line in lines))


def x86_features(cpuinfo: str) -> frozenset[str]:
    """Features by LLVM's names from the text of /proc/cpuinfo on x86."""
    flags = _common_words(_fields(cpuinfo, "flags"))
    return frozenset(name for name, flag in X86_FLAGS.items() if flag in flags)


def arm_features(cpuinfo: str, hwcap: dict[int, int] | None) -> frozenset[str]:
    """Features by LLVM's names on ARM: what both the auxiliary vector and every core listed promise."""
    listed = _common_words(_fields(cpuinfo, "Features"))
    found = set()
    for name, (flag, key, bit) in ARM_FLAGS.items():
        says = []
        if listed:
            says.append(flag in listed)
        if hwcap is not None:
            says.append(bool(hwcap.get(key, 0) >> bit & 1))
        if says and all(says):
            found.add(name)
    return frozenset(found)


def read_hwcap() -> dict[int, int] | None:
    """HWCAP and HWCAP2 through the C library; None where there is no getauxval (macOS, Windows)."""
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError, TypeError):
        return None
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return {key: int(getauxval(key)) for key in (AT_HWCAP, AT_HWCAP2)}


def _model(arch: str, cpuinfo: str) -> str:
    """A name for people. ARM cores are numbers in /proc/cpuinfo; the fastest kinds come last there."""
    if arch == "x86_64":
        return next(iter(_fields(cpuinfo, "model name")), "unknown x86-64")
    kinds = []
    pairs = zip(_fields(cpuinfo, "CPU implementer"), _fields(cpuinfo, "CPU part"), strict=False)
    for maker, part in pairs:
        try:
            number, vendor = int(part, 16), int(maker, 16)
        except ValueError:
            continue
        name = ARM_PARTS.get(number) if vendor == 0x41 else None
        kinds.append(name or f"{ARM_IMPLEMENTERS.get(vendor, f'implementer {maker}')} part {part}")
    counts = {k: kinds.count(k) for k in reversed(kinds)}
    return " + ".join(f"{n} x {k}" for k, n in counts.items()) or f"unknown {arch}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        value = float(_read(path))
    except ValueError:
        return None
    return value if value > 0 else None


def cpu_list(text: str) -> list[int]:
    """Linux' list format: "0-3,8" -> [0, 1, 2, 3, 8]. Text that is not one gives []."""
    cores: list[int] = []
    for word in text.strip().split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word.strip())
        if match is None:
            return []
        first = int(match.group(1))
        last = int(match.group(2) or first)
        cores.extend(range(first, min(last, first + 4095) + 1))
    return cores


def clusters(sys_cpu: Path, usable: list[int]) -> tuple[Cluster, ...]:
    """Group cores by `cpu_capacity` (the kernel's own measure), else by their highest frequency, else all alike."""
    folders = {core: sys_cpu / f"cpu{core}" for core in usable}
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        speeds = {core: _number(folder / name) for core, folder in folders.items()}
        if speeds and all(s is not None for s in speeds.values()):
            break
    else:
        speeds = dict.fromkeys(usable, 1.0)
    known = {core: float(s or 1.0) for core, s in speeds.items()}
    fastest = max(known.values(), default=1.0)
    grouped: dict[float, list[int]] = {}
    for core, speed in known.items():
        grouped.setdefault(round(speed / fastest, 3), []).append(core)
    made = []
    for capacity, cores in sorted(grouped.items(), reverse=True):
        siblings = {tuple(cpu_list(_read(folders[c] / "topology/thread_siblings_list"))) or (c,) for c in cores}
        made.append(Cluster(capacity, tuple(sorted(cores)), len(siblings)))
    return tuple(made)


def cgroup_quota(sys_cgroup: Path) -> float | None:
    """Cores' worth of time allowed by cgroup v2 (`cpu.max`) or v1 (`cpu.cfs_quota_us`); None where unlimited."""
    words = _read(sys_cgroup / "cpu.max").split()
    if not words:
        words = [_read(sys_cgroup / f"cpu/cpu.cfs_{n}_us").strip() for n in ("quota", "period")]
    try:
        quota, period = float(words[0]), float(words[1])
    except (ValueError, IndexError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def detect(root: Path = Path("/"), machine: str | None = None, usable: list[int] | None = None) -> Cpu:
    """Look at this machine; `root`, `machine` and `usable` exist for tests."""
    here = root == Path("/")
    arch = architecture(machine or platform.machine())
    cpuinfo = _read(root / "proc/cpuinfo")
    if arch == "x86_64":
        features = x86_features(cpuinfo)
    elif arch == "aarch64":
        features = arm_features(cpuinfo, read_hwcap() if here else None)
    else:
        features = frozenset()
    if usable is None:
        usable = (
            sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
        )
    found = clusters(root / "sys/devices/system/cpu", usable)
    return Cpu(arch, _model(arch, cpuinfo), features, found, cgroup_quota(root / "sys/fs/cgroup"))


# features by the processor names that stand for a level and not for one model
LEVELS: dict[str, frozenset[str]] = {
    "x86-64": frozenset(),
    "x86-64-v2": frozenset(),
    "x86-64-v3": frozenset({"avx2", "fma", "f16c"}),
    "x86-64-v4": frozenset({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl"}),
}


def limited(cpu: Cpu, environment: Mapping[str, str]) -> Cpu:
    """Honour NUMBA_CPU_NAME (where it names a level: x86-64-v3) and NUMBA_CPU_FEATURES: they can only take away."""
    features = cpu.features
    words = [w.strip() for w in environment.get("NUMBA_CPU_FEATURES", "").split(",") if w.strip()]
    listed = {w[1:] for w in words if w.startswith("+")}
    name = environment.get("NUMBA_CPU_NAME", "")
    if name in LEVELS:
        features &= LEVELS[name] | listed
    elif listed:
        features &= listed
    return replace(cpu, features=features - {w[1:] for w in words if w.startswith("-")})


@lru_cache(maxsize=1)
def this_cpu() -> Cpu:
    """The CPU this process runs on, looked at once."""
    return limited(detect(), os.environ)
