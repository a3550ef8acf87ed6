"""The kernel suite runs: shapes of a file are checked and timed, and the table has a row for each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cli_tools import environment, give_kernels

ROOT = Path(__file__).resolve().parents[2]


def test_a_small_file_of_shapes(tmp_path: Path) -> None:
    result = tmp_path / "out.json"
    suite = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "bench/operations", "--weights", "f32,i8"]
    suite += ["--shapes", "embedded-text_encoder", f"--benchmark-json={result}", "--benchmark-min-rounds=1"]
    suite += ["--benchmark-max-time=0.001"]
    give_kernels(tmp_path)  # the suite compiles kernels of its own, for the roofline, which stay here
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # no worker of others
    plain |= environment(tmp_path)
    variables = {**plain, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "kernels", "weights"))}
    table = [sys.executable, "bench/operations/table.py", str(result)]
    for command in (suite, table):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=variables, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if "%" in line]
    shapes = (ROOT / "bench/shapes/embedded-text_encoder.txt").read_text().splitlines()
    assert len(rows) >= len([line for line in shapes if line and not line.startswith("#")])
    assert any(" i8 " in row and "linear" in row for row in rows)
