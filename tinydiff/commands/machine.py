"""What the system says about this machine: CPU, memory, limits. Linux; elsewhere what is not known is None."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinydiff.memory.limits import cgroup_folders, cgroup_limit, text_of

# Features of /proc/cpuinfo that decide how fast the kernels can be.
FEATURES = {
    "x86_64": ("avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    "aarch64": ("asimd", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm"),
}
FEATURES["amd64"], FEATURES["arm64"] = FEATURES["x86_64"], FEATURES["aarch64"]
# "CPU implementer" and "CPU part" of cores that phones and small computers have.
ARM_CORES = {
    "0x41": {
        "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57",
        "0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76",
        "0xd0c": "Neoverse-N1", "0xd0d": "Cortex-A77", "0xd40": "Neoverse-V1", "0xd41": "Cortex-A78",
        "0xd44": "Cortex-X1", "0xd46": "Cortex-A510", "0xd47": "Cortex-A710", "0xd48": "Cortex-X2",
        "0xd49": "Neoverse-N2", "0xd4d": "Cortex-A715", "0xd4e": "Cortex-X3", "0xd4f": "Neoverse-V2",
        "0xd80": "Cortex-A520", "0xd81": "Cortex-A720", "0xd82": "Cortex-X4",
    },
    "0x51": {
        "0x800": "Kryo 260 Gold", "0x801": "Kryo 260 Silver", "0x804": "Kryo 485 Gold", "0x805": "Kryo 485 Silver",
    },
    "0x61": {"0x022": "Apple M1 Icestorm", "0x023": "Apple M1 Firestorm"},
}  # fmt: skip


def cpu(root: Path = Path("/")) -> dict[str, Any]:
    """Architecture, model names, SIMD features, cores, and clusters of equal cores, the fastest first."""
    architecture = platform.machine().lower()
    fields = _cpuinfo(text_of(root / "proc/cpuinfo"))
    flags = {word for key in ("flags", "Features") for line in fields.get(key, ()) for word in line.split()}
    wanted = FEATURES.get(architecture, ())
    return {
        "architecture": architecture,
        "models": _models(fields) or [platform.processor() or "unknown"],
        "features": [name for name in wanted if name in flags],
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "quota_cores": _quota(root),
        "clusters": _clusters(root),
    }


def memory(root: Path = Path("/")) -> dict[str, int | None]:
    """Bytes: the machine's, what is available now, and the tightest limit on this process."""
    info = dict(re.findall(r"^(\w+):\s+(\d+) kB", text_of(root / "proc/meminfo"), re.MULTILINE))

    def field(name: str) -> int | None:
        return int(info[name]) * 1024 if name in info else None

    return {
        "total": field("MemTotal"),
        "available": field("MemAvailable"),
        "swap_free": field("SwapFree"),
        "cgroup_limit": cgroup_limit(root),
        "address_space_limit": _address_space_limit(),
    }


# ------------------------------------------------------------------------------------------------ CPU


def _cpuinfo(text: str) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), []).append(value.strip())
    return fields


def _models(fields: dict[str, list[str]]) -> list[str]:
    if "model name" in fields:
        return _unique(fields["model name"])
    pairs = zip(fields.get("CPU implementer", ()), fields.get("CPU part", ()), strict=False)
    cores = [ARM_CORES.get(maker, {}).get(part, f"ARM core {maker}/{part}") for maker, part in pairs]
    return _unique(cores) or _unique(fields.get("Hardware", []))


def _unique(names: Sequence[str]) -> list[str]:
    return [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]


def _clusters(root: Path) -> list[dict[str, int]]:
    """Cores by their highest clock (or capacity, where there is no cpufreq)."""
    groups: dict[int, int] = {}
    for folder in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*")):
        value = text_of(folder / "cpufreq/cpuinfo_max_freq") or text_of(folder / "cpu_capacity")
        if value.strip().isdigit():
            groups[int(value)] = groups.get(int(value), 0) + 1
    return [{"cores": groups[speed], "max_khz_or_capacity": speed} for speed in sorted(groups, reverse=True)]


def _quota(root: Path) -> float | None:
    """CPUs' worth of time that the control groups allow, None without a limit."""
    found = []
    for folder in cgroup_folders(root, "cpu"):
        quota, _, period = text_of(folder / "cpu.max").strip().partition(" ")
        if not period:
            quota, period = text_of(folder / "cpu.cfs_quota_us").strip(), text_of(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            found.append(int(quota) / int(period))
    return min(found, default=None)


# ------------------------------------------------------------------------------------------------ memory


def _address_space_limit() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft
