"""Ctrl-C and SIGTERM: exit code 130, no traceback, no half file, at whatever moment they come."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cli_tools import Cli, Result, finish, start
from miniatures import write_folder
from PIL import Image

from tinydiff.commands.interrupts import Interrupts
from tinydiff_weights import write

# Each program says "ready" on stdout when the moment for the signal has come.
AT_THE_FIRST_STEP = """
import sys
from tinydiff.cli import main
from tinydiff.denoise import Loop
step = Loop.step
def told(self):
    print("ready", flush=True)
    step(self)
Loop.step = told
sys.exit(main(sys.argv[1:]))
"""
IN_A_LONG_OPERATION = """
import sys, time
from tinydiff.cli import main
from tinydiff_kernels.reference import Reference
def execute(self, operation):
    print("ready", flush=True)
    time.sleep(60)
Reference.execute = execute
sys.exit(main(sys.argv[1:]))
"""
WHILE_LOADING = """
import sys, time
from tinydiff.cli import main
import tinydiff.commands.generate as generate
def load(*args):
    print("ready", flush=True)
    time.sleep(60)
generate.load = load
sys.exit(main(sys.argv[1:]))
"""
WHILE_PULLING = """
import sys, time, threading
from tinydiff.cli import main
import tinydiff_weights.hub_pull as hub_pull
def pull(*args, **more):
    print("ready", flush=True)
    threading.Thread(target=time.sleep, args=(60,)).start()  # Python would wait for it
    time.sleep(60)
hub_pull.pull = pull
sys.exit(main(["pull", "org/name"]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "sd1", "sd1")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def ready(folder: Path, code: str, model: Path, *more: str) -> subprocess.Popen[str]:
    arguments = ("generate", "a", "--model", str(model), "--steps", "999", "-o", "x.png", *more)
    process = start(folder, *arguments, code=code)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def interrupted(result: Result, folder: Path) -> None:
    assert result.code == 130
    assert result.err in ("", "tinydiff: interrupted\n")
    left = [path for path in folder.rglob("*") if path.is_file() and folder / "cache" not in path.parents]
    assert left == []  # beside the kernels that `start` put there


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_after_the_current_operation(tmp_path: Path, model: Path, number: signal.Signals) -> None:
    process = ready(tmp_path, AT_THE_FIRST_STEP, model)
    process.send_signal(number)
    result = finish(process)
    interrupted(result, tmp_path)
    assert result.err == "tinydiff: interrupted\n"
    assert result.out.count("ready") <= 1  # no further step, or one that began before the signal came


def test_the_second_signal_ends_at_once(tmp_path: Path, model: Path) -> None:
    process = ready(tmp_path, IN_A_LONG_OPERATION, model, "--backend", "reference")
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)  # the operation goes on
    process.send_signal(signal.SIGINT)
    interrupted(finish(process, 30), tmp_path)  # it goes on for 60 s


def test_while_loading(tmp_path: Path, model: Path) -> None:
    process = ready(tmp_path, WHILE_LOADING, model)
    process.send_signal(signal.SIGINT)
    interrupted(finish(process), tmp_path)


def test_while_pulling(tmp_path: Path, model: Path) -> None:
    process = ready(tmp_path, WHILE_PULLING, model)
    process.send_signal(signal.SIGINT)
    result = finish(process, 5)
    assert result.code == 130
    assert result.err == "tinydiff: interrupted; the same command goes on with what is missing\n"


# ------------------------------------------------------------------------------------------ while a file is written


def send(times: int) -> None:
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("times", "files"), [(1, ["x-1.png"]), (2, [])], ids=["first", "second"])
def test_while_writing(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, times: int, files: list[str]) -> None:
    """One signal: the file is finished, the next one is not begun. Two: the temporary file is removed."""
    fsync, pending = os.fsync, [times]

    def signalled(descriptor: int) -> None:
        send(pending.pop() if pending else 0)
        fsync(descriptor)

    monkeypatch.setattr(write.os, "fsync", signalled)
    arguments = ("--steps", "1", "--size", "16x16", "--batch", "2", "--quiet", "--no-metadata")
    result = cli("generate", "a", "--model", model, *arguments, "-o", "x.png")
    assert (result.code, result.out.split(), result.err) == (130, files, "")
    assert cli.files() == files
    for name in files:
        with Image.open(name) as picture:
            assert np.asarray(picture).shape == (16, 16, 3)


# ------------------------------------------------------------------------------------------------ the handler itself


@pytest.fixture
def interrupts(monkeypatch: pytest.MonkeyPatch) -> Interrupts:
    made = Interrupts()
    monkeypatch.setattr("tinydiff.commands.interrupts.leave", lambda: pytest.fail("left"))
    return made


def test_handlers_are_put_back(interrupts: Interrupts) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    interrupts.install()
    assert signal.getsignal(signal.SIGINT) == interrupts._handle
    interrupts.restore()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_swallowed_interrupt_is_raised_again(interrupts: Interrupts) -> None:
    interrupts.install()
    try:
        with pytest.raises(KeyboardInterrupt):
            send(1)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        with pytest.raises(KeyboardInterrupt), interrupts.gently(lambda: None):
            pytest.fail("began although a signal had come")
    finally:
        interrupts.restore()


def test_modes_end_with_their_block(interrupts: Interrupts) -> None:
    stopped: list[int] = []
    interrupts.install()
    try:
        with interrupts.gently(lambda: stopped.append(1)):
            send(1)
        assert stopped == [1]
    finally:
        interrupts.restore()
    again = Interrupts()
    again.install()
    try:
        with again.gently(lambda: stopped.append(2)):
            pass
        with pytest.raises(KeyboardInterrupt):
            send(1)
        assert stopped == [1]
    finally:
        again.restore()
