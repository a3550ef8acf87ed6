"""Breadcrumbs: a run that is gone is told of once, a living one never, and junk is nobody's run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinydiff.breadcrumb import Breadcrumb, Process, killed_runs, state_folder

DIE = """
import os, pathlib, sys
from tinydiff.breadcrumb import Breadcrumb
crumb = Breadcrumb(pathlib.Path(sys.argv[1]), planned_mib=430, journal=pathlib.Path("x.journal"))
crumb.stage("denoising")
crumb.stage("VAE decode")
os.kill(os.getpid(), 9)
"""


def test_a_killed_run_is_told_of_once(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", DIE, tmp_path]).returncode == -9
    (run,) = killed_runs(tmp_path)
    assert (run.stage, run.planned_mib, run.journal) == ("VAE decode", 430, Path("x.journal"))
    assert killed_runs(tmp_path) == []
    assert os.listdir(tmp_path) == []


def test_a_living_run_is_not(tmp_path: Path) -> None:
    crumb = Breadcrumb(tmp_path)
    crumb.stage("denoising")
    assert killed_runs(tmp_path) == []
    assert len(os.listdir(tmp_path)) == 1
    crumb.remove()
    crumb.stage("VAE decode")  # a stage after the end writes nothing
    assert os.listdir(tmp_path) == []


def test_a_process_that_has_the_number_of_a_dead_one_is_another() -> None:
    own = Process.current()
    assert own.alive
    assert own.started
    assert not Process(own.pid, "some boot 12").alive
    assert not Process(2**22 + 1, own.started).alive  # above Linux's largest number


@pytest.mark.parametrize(
    "text", ["", "[" * 9999, "3", "{}", '{"pid": -1, "started": ""}', '{"pid": true, "started": 1}']
)
def test_what_is_no_breadcrumb_goes_in_silence(text: str, tmp_path: Path) -> None:
    (tmp_path / "1-x.json").write_text(text)
    assert killed_runs(tmp_path) == []
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_to_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    crumb = Breadcrumb(tmp_path / "file" / "runs")
    crumb.stage("denoising")
    crumb.remove()
    assert killed_runs(tmp_path / "file" / "runs") == []


def test_where_state_lies(tmp_path: Path) -> None:
    assert state_folder({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "tinydiff"
    home = Path.home() / ".local" / "state" / "tinydiff"
    assert state_folder({}) == state_folder({"XDG_STATE_HOME": "relative"}) == home
