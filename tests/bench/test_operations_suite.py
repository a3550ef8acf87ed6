"""The kernel suite runs: shapes of a file are checked and timed, and the table has a row for each. Attention in
integers, which no small file has, is checked and not timed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cli_tools import environment, give_kernels

ROOT = Path(__file__).resolve().parents[2]


INTEGERS = "attention,images=1,heads=8,queries=256,keys=256,width=80,causal=0,i8"


def run(folder: Path, *commands: list[str]) -> str:
    """What the last of the commands prints. The suite compiles kernels of its own, which stay in the folder."""
    give_kernels(folder)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # no worker of others
    plain |= environment(folder)
    variables = {**plain, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "kernels", "weights"))}
    for command in commands:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env=variables, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_a_small_file_of_shapes(tmp_path: Path) -> None:
    result = tmp_path / "out.json"
    suite = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "bench/operations", "--weights", "f32,i8"]
    suite += ["--shapes", "embedded-text_encoder", f"--benchmark-json={result}", "--benchmark-min-rounds=1"]
    suite += ["--benchmark-max-time=0.001"]
    printed = run(tmp_path, suite, ["bench/operations/table.py", str(result)])
    rows = [line for line in printed.splitlines() if "%" in line]
    shapes = (ROOT / "bench/shapes/embedded-text_encoder.txt").read_text().splitlines()
    assert len(rows) >= len([line for line in shapes if line and not line.startswith("#")])
    assert any(" i8 " in row and "linear" in row for row in rows)


def test_attention_in_integers(tmp_path: Path) -> None:
    one = f"bench/operations/test_operations.py::test_operation[{INTEGERS}]"
    suite = ["-m", "pytest", "-q", "-p", "no:cacheprovider", one, "--shapes", "sd15-unet-256", "--benchmark-disable"]
    assert "1 passed" in run(tmp_path, suite)
