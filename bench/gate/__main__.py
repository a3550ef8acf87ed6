"""The regression gate.

    TINYDIFF_ARM=DIR python -m bench.gate             compare with figures.json; exit code 1 where they differ
    TINYDIFF_ARM=DIR python -m bench.gate --update    keep what was found: reviewed with the change that made it

DIR is made by tests/neon/setup_arm.sh and bench/gate/setup.sh.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench.gate import compare
from bench.gate.builds import BUILDS, compiled, linked
from bench.gate.counting import instructions
from bench.gate.cycles import cycles
from bench.gate.planned import arena_bytes
from tinydiff_kernels import _numba


def figures() -> compare.Figures:
    """Section -> name -> figure."""
    made = [compiled(build) for build in BUILDS]
    counted: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for arch in ("x86_64", "aarch64"):
            mine = [m for m in made if m.build.arch == arch]
            library = linked(mine, Path(folder) / f"{arch}.so")
            counted |= instructions([m.build for m in mine], library)
    return {
        "instructions": counted,
        "cycles": cycles(made),
        "arena bytes": arena_bytes(),
        "functions": {m.build.path: m.functions for m in made},
    }


def versions() -> dict[str, str]:
    return {"numba": _numba.version, "llvmlite": _numba.llvmlite_version}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description="Counts against those that are kept.")
    parser.add_argument("--update", action="store_true", help="keep what was found")
    given = parser.parse_args()
    found = figures()
    total = sum(map(len, found.values()))
    if given.update:
        compare.write(found, versions())
        print(f"{total} figures are kept in {compare.KEPT}; review them with the change that made them")
        return 0
    kept, made_with = compare.read()
    lines = compare.changes(kept, found)
    print("\n".join(lines) if lines else f"{total} figures are as kept, within {compare.TOLERANCE:.0%}")
    if lines:
        print(_advice(made_with))
    return 1 if lines else 0


def _advice(made_with: Mapping[str, str]) -> str:
    here = versions()
    text = "If this is meant: python -m bench.gate --update, in the same change."
    if made_with != here:
        text += f" The kept figures were made with {made_with}, these with {here}: another compiler may be the cause."
    return text


if __name__ == "__main__":
    sys.exit(main())
