"""The kernel suite runs: shapes of a file are checked and timed, and the table has a row for each. Attention in
integers, which no small file has, is checked and not timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_tools import environment, give_kernels

from bench.operations import every_path
from tinydiff_kernels import dispatch

ROOT = Path(__file__).resolve().parents[2]


INTEGERS = "attention,images=1,heads=8,queries=256,keys=256,width=80,causal=0,i8"


def run(folder: Path, *command: str) -> str:
    """What the command prints. The suite compiles kernels of its own, which stay in the folder."""
    give_kernels(folder)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # no worker of others
    plain |= environment(folder)
    variables = {**plain, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "kernels", "weights"))}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env=variables, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_a_small_file_of_shapes(tmp_path: Path) -> None:
    path = dispatch.available()[0].name
    suite = ["--shapes", "embedded-text_encoder", "--benchmark-min-rounds=1", "--benchmark-max-time=0.001"]
    printed = run(tmp_path, "bench/operations/every_path.py", "--paths", path, "--results", str(tmp_path), *suite)
    rows = [line for line in printed.splitlines() if "%  " in line]
    shapes = (ROOT / "bench/shapes/embedded-text_encoder.txt").read_text().splitlines()
    assert len(rows) >= len([line for line in shapes if line and not line.startswith("#")])
    assert any(" i8 " in row and "linear" in row for row in rows)
    assert "1 of 1 paths agree" in printed
    record = json.loads((tmp_path / f"{path}.json").read_text())
    assert record["machine_info"]["tinydiff"]["path"] == path
    assert "node" not in record["machine_info"]  # names of machines are not published


def test_attention_in_integers(tmp_path: Path) -> None:
    one = f"bench/operations/test_operations.py::test_operation[{INTEGERS}]"
    suite = ["-m", "pytest", "-q", "-p", "no:cacheprovider", one, "--shapes", "sd15-unet-256", "--benchmark-disable"]
    assert "1 passed" in run(tmp_path, *suite)


def test_a_path_that_fails_is_named_and_the_others_still_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def suite(command: list[str], env: dict[str, str], **_settings: object) -> subprocess.CompletedProcess[str]:
        ran.append((env["TINYDIFF_PATH"], any("json" in word for word in command)))
        return subprocess.CompletedProcess(command, len(ran) == 1)

    monkeypatch.setattr(subprocess, "run", suite)
    monkeypatch.setattr(sys, "argv", ["every_path", "--benchmark-disable", "--results", str(tmp_path)])
    assert every_path.main() == 1
    paths = [path.name for path in dispatch.available()]
    assert ran == [(path, False) for path in paths]
    assert f"{len(paths) - 1} of {len(paths)} paths agree with the reference {paths[0]}" in capsys.readouterr().out
