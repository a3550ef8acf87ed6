"""Detection of CPUs that are not here: made-up /proc and /sys trees of phones and servers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tinydiff_kernels import cpu

ZEN3 = """processor\t: 0
model name\t: AMD EPYC 7763
flags\t\t: fpu sse2 avx avx2 fma f16c bmi2

processor\t: 1
model name\t: AMD EPYC 7763
flags\t\t: fpu sse2 avx avx2 fma f16c bmi2
"""
ICE_LAKE = "model name : Xeon\nflags : sse2 avx2 fma f16c avx512f avx512bw avx512vl avx512_vnni\n"
ALDER_LAKE = "model name : i7\nflags : sse2 avx2 fma f16c avx_vnni\n"
ARM_BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp"


def arm_core(number: int, part: int, features: str) -> str:
    return f"processor\t: {number}\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU part\t: {part:#x}\n\n"


SNAPDRAGON = "".join(
    arm_core(n, part, ARM_BASE + " asimddp i8mm bf16") for n, part in enumerate([0xD46] * 4 + [0xD47] * 3 + [0xD48])
)


def tree(root: Path, cpuinfo: str, files: dict[str, str] | None = None) -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(cpuinfo)
    for name, text in (files or {}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def capacities(values: list[int]) -> dict[str, str]:
    return {f"sys/devices/system/cpu/cpu{n}/cpu_capacity": f"{v}\n" for n, v in enumerate(values)}


def test_phone_with_three_kinds_of_cores(tmp_path: Path) -> None:
    root = tree(tmp_path, SNAPDRAGON, capacities([280] * 4 + [800] * 3 + [1024]))
    found = cpu.detect(root, "aarch64", list(range(8)))
    assert found.features == {"neon", "dotprod", "i8mm"}
    assert [(c.capacity, c.cores) for c in found.clusters] == [(1.0, (7,)), (0.781, (4, 5, 6)), (0.273, (0, 1, 2, 3))]
    assert found.big_cores == 4
    assert found.model == "1 x Cortex-X2 + 3 x Cortex-A710 + 4 x Cortex-A510"


def test_frequency_stands_in_for_capacity(tmp_path: Path) -> None:
    files = {
        f"sys/devices/system/cpu/cpu{n}/cpufreq/cpuinfo_max_freq": f"{f}\n" for n, f in enumerate([900, 900, 2400])
    }
    found = cpu.detect(tree(tmp_path, SNAPDRAGON, files), "arm64", [0, 1, 2])
    assert [c.cores for c in found.clusters] == [(2,), (0, 1)]
    assert found.big_cores == 1


def test_only_cores_that_this_process_may_use_count(tmp_path: Path) -> None:
    root = tree(tmp_path, SNAPDRAGON, capacities([280] * 4 + [800] * 3 + [1024]))
    assert cpu.detect(root, "aarch64", [0, 1, 2]).big_cores == 3  # the little ones are all there is
    assert cpu.detect(root, "aarch64", [3, 4]).big_cores == 1


def test_a_feature_counts_only_where_every_core_has_it(tmp_path: Path) -> None:
    mixed = arm_core(0, 0xD05, ARM_BASE + " asimddp") + arm_core(1, 0xD03, ARM_BASE)
    assert cpu.detect(tree(tmp_path, mixed), "aarch64", [0, 1]).features == {"neon"}


@pytest.mark.parametrize(
    ("hwcap", "expected"),
    [
        (None, {"neon", "dotprod", "i8mm"}),
        ({cpu.AT_HWCAP: 1 << 1 | 1 << 20, cpu.AT_HWCAP2: 1 << 13}, {"neon", "dotprod", "i8mm"}),
        ({cpu.AT_HWCAP: 1 << 1 | 1 << 20, cpu.AT_HWCAP2: 0}, {"neon", "dotprod"}),
        ({cpu.AT_HWCAP: 1 << 1, cpu.AT_HWCAP2: 0}, {"neon"}),
    ],
)
def test_auxiliary_vector_and_cpuinfo_must_agree(hwcap: dict[int, int] | None, expected: set[str]) -> None:
    assert cpu.arm_features(SNAPDRAGON, hwcap) == expected


def test_auxiliary_vector_alone_is_enough() -> None:
    assert cpu.arm_features("", {cpu.AT_HWCAP: 1 << 1 | 1 << 20, cpu.AT_HWCAP2: 0}) == {"neon", "dotprod"}
    assert cpu.arm_features("", None) == frozenset()


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (ZEN3, {"avx2", "fma", "f16c"}),
        (ICE_LAKE, {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni"}),
        (ALDER_LAKE, {"avx2", "fma", "f16c", "avxvnni"}),
        ("flags : sse2 ssse3\n", set()),
        ("", set()),
    ],
)
def test_x86_features(tmp_path: Path, cpuinfo: str, expected: set[str]) -> None:
    assert cpu.detect(tree(tmp_path, cpuinfo), "AMD64", [0]).features == expected


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    siblings = {
        f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": f"{n % 2},{n % 2 + 2}\n" for n in range(4)
    }
    assert cpu.detect(tree(tmp_path, ZEN3, siblings), "x86_64", [0, 1, 2, 3]).big_cores == 2


@pytest.mark.parametrize(
    ("files", "quota", "threads"),
    [
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5, 2),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None, 8),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None, 8),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "20000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 0.2, 1),
        ({"sys/fs/cgroup/cpu.max": "rubbish"}, None, 8),
    ],
)
def test_cgroup_quota(tmp_path: Path, files: dict[str, str], quota: float | None, threads: int) -> None:
    found = cpu.detect(tree(tmp_path, ZEN3, files), "x86_64", list(range(8)))
    assert found.quota == quota
    assert found.big_cores == threads


@pytest.mark.parametrize(
    ("text", "cores"),
    [("0-3,8\n", [0, 1, 2, 3, 8]), ("5", [5]), ("", []), ("x-3", []), ("3-", []), ("0-99999999", list(range(4096)))],
)
def test_cpu_list(text: str, cores: list[int]) -> None:
    assert cpu.cpu_list(text) == cores


@pytest.mark.parametrize("cpuinfo", ["", "\0\0\0", "CPU part : zz\nCPU implementer : 0x41\nFeatures :\n", "flags"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64", ""])
def test_rubbish_gives_the_generic_cpu(tmp_path: Path, cpuinfo: str, machine: str) -> None:
    files = {
        "sys/devices/system/cpu/cpu0/cpu_capacity": "-7",
        "sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "a",
    }
    found = cpu.detect(tree(tmp_path, cpuinfo, files), machine, [0])
    assert found.features == frozenset()
    assert found.big_cores == 1
    assert found.clusters[0].cores == (0,)


def test_unknown_arm_cores_are_named_by_number() -> None:
    text = "CPU implementer : 0x61\nCPU part : 0x022\nCPU implementer : 0x77\nCPU part : 0x1\n"
    assert cpu._model("aarch64", text) == "1 x implementer 0x77 part 0x1 + 1 x Apple part 0x022"


FULL = frozenset({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni"})


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, FULL),
        ({"NUMBA_CPU_NAME": "x86-64"}, frozenset()),
        ({"NUMBA_CPU_NAME": "x86-64-v3"}, {"avx2", "fma", "f16c"}),
        ({"NUMBA_CPU_NAME": "znver4"}, FULL),
        ({"NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c"}, {"avx2", "fma", "f16c"}),
        ({"NUMBA_CPU_FEATURES": "-avx512vnni"}, FULL - {"avx512vnni"}),
        ({"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+avx2, +neon"}, {"avx2"}),
    ],
)
def test_numbas_variables_can_only_take_away(environment: dict[str, str], expected: set[str]) -> None:
    whole = cpu.Cpu("x86_64", "test", FULL, (), None)
    assert cpu.limited(whole, environment).features == expected


def test_this_machine() -> None:
    here = cpu.this_cpu()
    assert 1 <= here.big_cores <= (os.cpu_count() or 1)
    assert here.arch == cpu.architecture(here.arch)
