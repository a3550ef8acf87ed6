"""Cycles that the hot loops take on LLVM's models of ARM cores; the loops are those of `bench/mca.py`."""

from __future__ import annotations

from collections.abc import Sequence

from bench import mca
from bench.gate.builds import Made, tools
from tinydiff_kernels import dispatch


def cycles(made: Sequence[Made]) -> dict[str, float]:
    """`kernel path core` -> cycles an iteration of the hot loop."""
    by_path = {m.build.path: m for m in made}
    program, found = str(tools() / "bin/llvm-mca"), dict[str, float]()
    for case in mca.CASES:
        path = case.path if case.kernel in by_path[case.path].build.operations else "dotprod"
        loop = mca.hot_loop(by_path[path].function(case.kernel), case.marker)
        for core in case.cores:
            taken, _ = mca.simulate(program, core, dispatch.BY_NAME[path].llvm_features, loop)
            found[f"{case.kernel} {path} {core}"] = taken
    return found
