"""What the hot loops of the kernels cost on ARM cores, by llvm-mca's models: no ARM machine is needed.

    python bench/mca.py --mca LLVM_MCA [--show] [KERNEL...]         or LLVM_MCA=... in the environment

Each kernel is compiled for a path; its hot loop is the innermost one with most of a marker instruction. Columns:

    work      marker instructions in the loop: the products that must be made
    limit     cycles in which the core could issue only those
    all       cycles in which it could issue the whole loop, dependencies aside ("Block RThroughput")
    cycles    cycles an iteration takes in the simulation, first-level cache hits
    over      cycles above `limit`, in per cent: what everything else costs

Models: LLVM has its own for A53, A55, A510 and Neoverse N1 (an A76 for servers); A76 borrows A57's, A710 Neoverse N2's.
llvm-mca must be as new as llvmlite's LLVM (Debian: package llvm-22).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tinydiff_kernels import aot, dispatch
from tinydiff_kernels.errors import KernelError

SIGNATURE = "void(int64, int64, int64)"
ITERATIONS = 200


@dataclass(frozen=True)
class Case:
    """`marker` matches the mnemonic of the instructions that do the work."""

    kernel: str
    path: str
    marker: str
    cores: tuple[str, ...]


CASES = (
    Case("matmul_i8", "i8mm", "smmla", ("cortex-a510", "cortex-a710")),
    Case("matmul_i8", "dotprod", "sdot", ("cortex-a55", "cortex-a76", "neoverse-n1")),
    Case("matmul_i8", "neon", "smull2?|smlal2?", ("cortex-a53", "cortex-a57")),
    Case("matmul_i4", "dotprod", "sdot", ("cortex-a55", "cortex-a76", "neoverse-n1", "cortex-a710")),
    Case("matmul_i4", "neon", "smull2?|smlal2?", ("cortex-a53", "cortex-a57")),
    Case("matmul_f32", "neon", "fmla", ("cortex-a53", "cortex-a55", "cortex-a76", "neoverse-n1", "cortex-a710")),
    Case("matmul_f16", "neon", "fmla", ("cortex-a53", "cortex-a55", "cortex-a76", "neoverse-n1", "cortex-a710")),
    Case("attention_f32", "neon", "fmla", ("cortex-a55", "cortex-a76", "neoverse-n1", "cortex-a710")),
    Case("attention_i8", "dotprod", "sdot", ("cortex-a55", "cortex-a76", "neoverse-n1", "cortex-a710")),
    Case("attention_i8", "neon", "smull2?|smlal2?", ("cortex-a53", "cortex-a57")),
)


def assembly(kernel: str, path: dispatch.Path) -> str:
    source = dispatch.source(kernel, path)
    return aot.compile_object({kernel: (source, SIGNATURE)}, aot.Machine.of(path, "aarch64")).assembly


def instructions(lines: list[str]) -> list[str]:
    """Without labels, directives and comments."""
    code = (line.split("//")[0].strip() for line in lines)
    return [line for line in code if line and not line.endswith(":") and not line.startswith(".")]


def loops(text: str) -> Iterator[list[str]]:
    """Instructions of each innermost loop: from a label to the last branch back to it, no other such branch between."""
    lines, labels, found = text.splitlines(), dict[str, int](), list[tuple[int, int]]()
    for at, line in enumerate(lines):
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = at
        elif (branch := re.match(r"\s+(?:b(?:\.\w+)?|cbn?z|tbn?z)\s.*?(\.L\w+)", line)) and branch[1] in labels:
            found.append((labels[branch[1]], at))
    for start, end in found:
        if not any(start <= s and e <= end and (s, e) != (start, end) for s, e in found):
            yield instructions(lines[start : end + 1])


def is_work(line: str, marker: str) -> bool:
    return re.fullmatch(marker, line.split()[0]) is not None


def hot_loop(text: str, marker: str) -> list[str]:
    best = max(loops(text), key=lambda loop: sum(is_work(line, marker) for line in loop), default=[])
    if not any(is_work(line, marker) for line in best):
        raise KernelError(f"no loop has the instruction {marker}")
    return best


def simulate(mca: str, core: str, features: str, loop: list[str]) -> tuple[float, float]:
    """(cycles an iteration, cycles by resources alone) of a loop body."""
    attributes = ["-mtriple=aarch64", f"-mcpu={core}", f"-mattr={features}", f"-iterations={ITERATIONS}"]
    done = subprocess.run([mca, *attributes], input="\n".join(loop), capture_output=True, text=True, check=False)
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    resources = re.search(r"Block RThroughput:\s+([\d.]+)", done.stdout)
    if total is None or resources is None:
        raise KernelError(f"{mca} failed: {done.stderr.strip()[:500]}")
    return int(total[1]) / ITERATIONS, float(resources[1])


def measure(mca: str, case: Case, *, show: bool) -> Iterator[str]:
    path = dispatch.BY_NAME[case.path]
    loop = hot_loop(assembly(case.kernel, path), case.marker)
    work = [line for line in loop if is_work(line, case.marker)]
    spills = sum("[sp" in line for line in loop)
    moves = sum(re.match(r"(mov|fmov)\s", line) is not None for line in loop)
    if show:
        yield "\n".join(f"        {line}" for line in loop)
    for core in case.cores:
        cycles, everything = simulate(mca, core, path.llvm_features, loop)
        _, limit = simulate(mca, core, path.llvm_features, work)
        yield (
            f"{case.kernel:14}{case.path:8} {core:12}{len(loop):5}{spills:7}{moves:6}{len(work):6}"
            f"{limit:7.1f}{everything:7.1f}{cycles:8.1f}{100 * (cycles / limit - 1):6.0f} %"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="default: all that are listed in this file")
    parser.add_argument("--mca", default=os.environ.get("LLVM_MCA", "llvm-mca"), help="llvm-mca, version 22 or newer")
    parser.add_argument("--show", action="store_true", help="print the loops")
    given = parser.parse_args()
    print("kernel        path     core        instr spills moves  work  limit    all  cycles  over")
    for case in CASES:
        if not given.kernels or case.kernel in given.kernels:
            for line in measure(given.mca, case, show=given.show):
                print(line, flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KernelError, OSError) as error:
        sys.exit(f"mca: {error}")
