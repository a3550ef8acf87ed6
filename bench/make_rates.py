"""How fast cores run the kernels, by llvm-mca and by counted instructions: tinydiff/bench/rates.json, for `bench
predict`.

    TINYDIFF_ARM=DIR python bench/make_rates.py         (DIR as for the gate: bench/gate/setup.sh)

Of every kernel on every path: multiply-adds and instructions in an iteration of its hot loop, and the cycles that
each core's model gives it. What a call executes beyond its hot loop (epilogues, softmax, norms) comes from the
gate's counts of fixed calls.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.gate import ROOT, builds, compare
from tinydiff_kernels import dispatch

OUTPUT = ROOT / "tinydiff/bench/rates.json"
ITERATIONS = 200
PRODUCTS = (  # marker instruction -> multiply-adds
    (r"smmla", 32),
    (r"sdot", 16),
    (r"smull2?|smlal2?", 8),
    (r"fmla", 4),
    (r"vpdpbusd .*%zmm\d+", 64),
    (r"vfmadd\d+ps .*%zmm\d+", 16),
    (r"vpmaddubsw .*%ymm\d+", 32),
    (r"vpmaddwd .*%ymm\d+", 16),
    (r"vfmadd\d+ps .*%ymm\d+", 8),
)
KERNELS = ("matmul_f32", "matmul_f16", "matmul_i8", "matmul_i4", "attention_f32", "attention_i8")


@dataclass(frozen=True)
class Target:
    """A path, its architecture, and LLVM's names of the cores whose kernels it runs. Neoverse N1 is an A76 for
    servers."""

    path: str
    arch: str
    cores: tuple[str, ...]


TARGETS = (
    Target("neon", "aarch64", ("cortex-a53", "cortex-a72")),
    Target("dotprod", "aarch64", ("cortex-a55", "neoverse-n1")),
    Target("i8mm", "aarch64", ("cortex-a510", "cortex-a710", "cortex-a715", "cortex-x3")),
    Target("avx2", "x86_64", ("haswell", "znver3")),
    Target("avx512vnni", "x86_64", ("skylake-avx512",)),
)


def loops(assembly: str, comment: str) -> Iterator[list[str]]:
    """Instructions of each innermost loop, of either architecture."""
    lines, labels, found = assembly.splitlines(), dict[str, int](), list[tuple[int, int]]()
    for at, line in enumerate(lines):
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = at
        elif (branch := re.match(r"\s+(?:b(?:\.\w+)?|cbn?z|tbn?z|j\w+)\s.*?(\.L\w+)", line)) and branch[1] in labels:
            found.append((labels[branch[1]], at))
    for start, end in found:
        if not any(start <= s and e <= end and (s, e) != (start, end) for s, e in found):
            code = (line.split(comment)[0].strip() for line in lines[start : end + 1])
            yield [line for line in code if line and not line.endswith(":") and not line.startswith(".")]


def products(line: str) -> int:
    spaced = re.sub(r"\s+", " ", line)
    return next((count for pattern, count in PRODUCTS if re.match(rf"(?:{pattern})(?=\s|$|\W)", spaced)), 0)


def all_products(loop: list[str]) -> int:
    """After vpmaddubsw, vpmaddwd adds what has been multiplied."""
    added = any(line.startswith("vpmaddubsw") for line in loop)
    return sum(products(line) for line in loop if not (added and line.startswith("vpmaddwd")))


def hot(assembly: str, arch: str) -> list[str]:
    """The innermost loop that is densest in products: polynomials of epilogues multiply too, and do other things."""
    return max(loops(assembly, "//" if arch == "aarch64" else "#"), key=lambda loop: all_products(loop) / len(loop))


def cycles(arch: str, core: str, features: str, loop: list[str]) -> float:
    command = [str(builds.tools() / "bin/llvm-mca"), f"-mtriple={arch}", f"-mcpu={core}", f"-iterations={ITERATIONS}"]
    command += [f"-mattr={features}"] if arch == "aarch64" else []
    done = subprocess.run(command, input="\n".join(loop), capture_output=True, text=True, check=False)
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if total is None:
        raise SystemExit(f"llvm-mca failed for {core}: {done.stderr[:500]}")
    return int(total[1]) / ITERATIONS


def measured() -> dict[str, dict[str, dict[str, object]]]:
    """path -> kernel -> its hot loop and what cores make of it."""
    found: dict[str, dict[str, dict[str, object]]] = {}
    for target in TARGETS:
        made = builds.compiled(builds.Build(target.arch, target.path, KERNELS))
        for kernel in KERNELS:
            loop = hot(made.function(kernel), target.arch)
            features = dispatch.BY_NAME[target.path].llvm_features
            found.setdefault(target.path, {})[kernel] = {
                "products": all_products(loop),
                "instructions": len(loop),
                "cycles": {core: round(cycles(target.arch, core, features, loop), 2) for core in target.cores},
            }
            print(target.path, kernel, found[target.path][kernel], flush=True)
    return found


def main() -> None:
    counted, _ = compare.read()
    data = {
        "about": "made by bench/make_rates.py with llvm-mca 22; extra: instructions of the gate's fixed calls",
        "hot_loops": measured(),
        "counted": dict(counted["instructions"]),
    }
    OUTPUT.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
