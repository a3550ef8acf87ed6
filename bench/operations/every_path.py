"""The kernel suite on every path that this machine can run, one process for each.

    python bench/operations/every_path.py --shapes sd15-unet-512 --results DIR      times: DIR/PATH.json, and its table
    python bench/operations/every_path.py --shapes all --benchmark-disable          only checked against the reference

    --paths avx512vnni,avx2     only these: on large shapes generic, without vectors, takes hours

All other arguments are the suite's (`test_operations.py`) and pytest's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), *(str(ROOT / part) for part in ("kernels", "weights"))]

from bench.operations import table  # noqa: E402
from tinydiff_kernels import dispatch  # noqa: E402


def run(path: str, arguments: list[str], results: Path) -> bool:
    """Whether every row agreed with the reference."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "bench/operations", *arguments]
    file = None if "--benchmark-disable" in arguments else (results / f"{path}.json").resolve()
    print(f"path {path}", flush=True)
    done = subprocess.run(
        [*command, *([f"--benchmark-json={file}", "--benchmark-columns=median"] if file else [])],
        cwd=ROOT,
        env={**os.environ, dispatch.PATH_VARIABLE: path},
        check=False,
    )
    if done.returncode == 0 and file:
        print("\n".join(table.lines(json.loads(file.read_text(encoding="utf-8")))), flush=True)
    return done.returncode == 0


def main() -> int:
    possible = [path.name for path in dispatch.available()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", default=",".join(possible), help=f"of {', '.join(possible)} (default: all)")
    parser.add_argument(
        "--results", type=Path, default=Path("operations"), help="folder for JSON, if anything is timed"
    )
    options, arguments = parser.parse_known_args()
    paths = options.paths.split(",")
    if unknown := [path for path in paths if path not in possible]:
        parser.error(f"this machine cannot run {unknown[0]}; it can: {', '.join(possible)}")
    options.results.mkdir(parents=True, exist_ok=True)
    failed = [path for path in paths if not run(path, arguments, options.results)]
    print(f"{len(paths) - len(failed)} of {len(paths)} paths agree with the reference", *failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
