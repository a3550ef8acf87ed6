"""Each peer is started by the interpreter of its own environment; one that is missing is a row that says so."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import compare
from bench.peers import commands

ROOT = Path(__file__).resolve().parents[2]
PEER = """
import os, sys
name, script, *rest = sys.argv[1:]
script = script.rpartition("/")[2]
with open(os.environ["STARTED"], "a") as log:
    print(name, script, *rest, file=log)
if rest[-1] == "convert" or script == "export.py":
    sys.exit("broken" in rest)
print("ready", '{"program": "%s", "version": "", "load_seconds": 1.0, "disk": 1}' % name, flush=True)
for line in sys.stdin:
    print("none" if line.startswith("output") else 1, flush=True)
"""

Make = Callable[..., argparse.Namespace]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Options with a folder of environments, whose interpreters write down that they were started."""
    (tmp_path / "peer.py").write_text(PEER)

    def environments(*names: str, **flags: object) -> argparse.Namespace:
        for name in names:
            python = tmp_path / "peers" / name / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "peer.py"}" {name} "$@"\n')
            python.chmod(0o755)
        given = {"peers": tmp_path / "peers", "model": "model", "packed": None, "file": "file", "part": "unet"}
        return argparse.Namespace(**(given | {"size": 256, "threads": 1, "avx2": False} | flags))

    return environments


def started(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


def variables(folder: Path) -> dict[str, str]:
    return {**os.environ, "STARTED": str(folder / "log")}


def test_each_has_its_own_and_one_is_missing(make: Make, tmp_path: Path) -> None:
    options = make("torch", "onnxruntime", "sdcpp-avx2", avx2=True)
    names = ["torch", "onnxruntime:int8", "openvino:int8", "sdcpp:q8_0"]
    programs = [compare.Program(n, commands.command_of(n, options), variables(tmp_path)) for n in names]
    try:
        compare.collect(programs, 1, hold=False)
    finally:
        for program in programs:
            program.end()
    assert started(tmp_path) == [
        "torch torch_diffusers.py unet model eager 256 1",
        "onnxruntime onnxruntime_step.py unet model int8 256 1",
        "sdcpp-avx2 sdcpp.py file q8_0 256 1",
    ]
    rows = {row[0]: row[-1] for row in compare.rows(programs)}
    assert rows["openvino:int8"] == "no environment openvino: bench/peers/make_env.sh makes it"
    assert [p.seconds for p in programs] == [[1.0], [1.0], [], [1.0]]


def test_torch_exports_and_the_program_quantises(make: Make, tmp_path: Path) -> None:
    options = make("torch", "openvino")
    for name in ("torch", "openvino:f32", "openvino:int8"):
        assert commands.convert(name, options, variables(tmp_path))
    export = "torch export.py openvino unet model 256"
    assert started(tmp_path) == [export, export, "openvino openvino_step.py unet model int8 256 1 convert"]
    assert not commands.convert("onnxruntime:int8", options, variables(tmp_path))
    assert started(tmp_path)[3:] == ["torch export.py onnxruntime unet model 256"]


def test_nothing_is_quantised_after_a_failed_export(make: Make, tmp_path: Path) -> None:
    options = make("torch", "openvino", part="broken")
    assert not commands.convert("openvino:int8", options, variables(tmp_path))
    assert len(started(tmp_path)) == 1


def test_the_script_makes_every_environment_that_is_asked_for(make: Make) -> None:
    asked = {
        Path(commands.interpreter(kind, make(avx2=avx2))).parents[1].name
        for kind in commands.SCRIPTS
        if kind != "ours"
        for avx2 in (False, True)
    }
    script = (ROOT / "bench/peers/make_env.sh").read_text()
    made = re.search(r"^NAMES=\((.*)\)$", script, re.MULTILINE)
    assert made
    assert asked == set(made[1].split()) == set(re.findall(r"^  \[(.+)\]=", script, re.MULTILINE))
