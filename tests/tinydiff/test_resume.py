"""`tinydiff resume`: runs killed without a word are told of, and their pictures finished to the same pixels."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import Cli, finish, refused, start
from miniatures import write_folder
from numpy.typing import NDArray
from PIL import Image

from tinydiff.breadcrumb import Process
from tinydiff.commands.watching import KEPT, journal_folder, journals
from tinydiff.errors import JournalError
from tinydiff_weights.safetensors import open_safetensors
from tinydiff_weights.write import save_safetensors

# The process kills itself: MOMENT is an expression that is true when the time has come.
KILLED = """
import os, sys
import tinydiff.image
import tinydiff.pipeline as pipeline
from tinydiff.cli import main
from tinydiff.denoise import Loop
def before(function, moment):
    def called(*args, **more):
        if moment(*args):
            print("ready", flush=True)
            os.kill(os.getpid(), {signal})
        return function(*args, **more)
    return called
def after(function):
    def called(*args, **more):
        result = function(*args, **more)
        os.kill(os.getpid(), {signal})
        return result
    return called
{patch}
sys.exit(main(sys.argv[1:]))
"""
AT_STEP = "Loop.step = before(Loop.step, lambda loop: loop.index == 3)"
IN_DECODE = "pipeline.decode = before(pipeline.decode, lambda *args: True)"
WHEN_WRITTEN = "tinydiff.image.save_png = after(tinydiff.image.save_png)"
MAKE = ("generate", "a cat", "--steps", "5", "--size", "32x16", "--seed", "3", "--sampler", "Euler a", "--batch", "2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "sd1", "sd1")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    for name in ("TERMUX_VERSION", "ANDROID_ROOT", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return Cli(tmp_path, monkeypatch, capsys)


def pixels(*paths: Path) -> list[NDArray[np.uint8]]:
    return [np.asarray(Image.open(path)) for path in paths]


def killed(cli: Cli, model: Path, patch: str, *more: str, by: int = signal.SIGKILL) -> str:
    """A run that ends at the moment of `patch`; what it said on stderr."""
    code = KILLED.format(patch=patch, signal=int(by))
    out = cli.cwd / "x.png"
    process = start(cli.folder, *MAKE, "--model", str(model), "-o", str(out), *more, code=code, kernels=False)
    result = finish(process)
    assert result.code == (130 if by == signal.SIGINT else -by), result.err
    return result.err


REFERENCE = ("--backend", "reference")


@pytest.mark.parametrize(
    ("patch", "stage", "steps"),
    [(AT_STEP, "denoising", 3), (IN_DECODE, "VAE decode", 5), (WHEN_WRITTEN, "VAE decode", 5)],
    ids=["at a step", "in the decoder", "between the pictures"],
)
def test_a_killed_picture_is_told_of_and_finished(cli: Cli, model: Path, patch: str, stage: str, steps: int) -> None:
    killed(cli, model, patch, "--journal", *REFERENCE)
    (journal,) = journals()
    assert cli(*MAKE, "--model", model, *REFERENCE, "-o", "whole.png", "--quiet").err.startswith(
        f"tinydiff: warning: the last run was killed in {stage}: try "
    )
    result = cli("resume")
    assert result.code == 0, result.err
    assert f"going on after step {steps} of 5" in result.err
    assert "killed" not in result.err  # it was said before
    assert result.paths == [cli.cwd / "x-1.png", cli.cwd / "x-2.png"]
    for one, other in zip(pixels(*result.paths), pixels(Path("whole-1.png"), Path("whole-2.png")), strict=True):
        assert np.array_equal(one, other)
    assert not journal.exists()
    assert cli.files() == ["whole-1.png", "whole-2.png", "x-1.png", "x-2.png"]
    refused(cli, 1, "no interrupted picture|--journal", "resume")


def test_a_kill_at_a_random_moment(cli: Cli, model: Path) -> None:
    make = (*MAKE, "--model", str(model), *REFERENCE, "--steps", "30")
    assert cli(*make, "-o", "whole.png").code == 0
    ready = "Loop.step = before(Loop.step, lambda loop: loop.index == 0)"
    for number in range(2):
        name = f"x{number}.journal"
        arguments = (*make, "-o", str(cli.cwd / f"x{number}.png"), "--journal", str(cli.cwd / name))
        process = start(cli.folder, *arguments, code=KILLED.format(patch=ready, signal=0), kernels=False)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        finish(process)
        if (cli.cwd / name).exists():  # else it was done
            result = cli("resume", name)
            assert result.code == 0, result.err
        assert not [file for file in cli.files() if name in file]
        for picture in (1, 2):
            assert np.array_equal(*pixels(Path(f"x{number}-{picture}.png"), Path(f"whole-{picture}.png")))


def test_ctrl_c_keeps_the_journal_and_is_no_silent_kill(cli: Cli, model: Path) -> None:
    err = killed(cli, model, AT_STEP, "--journal", *REFERENCE, by=signal.SIGINT)
    (journal,) = journals()
    assert f"tinydiff resume '{journal}'" in err
    result = cli("resume", "-o", "y.png")
    assert result.code == 0
    assert "killed" not in result.err
    assert cli.files() == ["y-1.png", "y-2.png"]


def test_a_picture_in_the_way_is_not_replaced(cli: Cli, model: Path) -> None:
    killed(cli, model, AT_STEP, "--journal", *REFERENCE)
    (cli.cwd / "x-1.png").write_bytes(b"mine")
    result = cli("resume")
    assert result.code == 1
    assert "exists already" in result.err
    assert (cli.cwd / "x-1.png").read_bytes() == b"mine"
    assert cli("resume", "--force", "-o", "x.png").code == 0  # the journal had stayed
    assert pixels(cli.cwd / "x-1.png")[0].shape == (16, 32, 3)


def test_another_model_is_refused(cli: Cli, tmp_path: Path) -> None:
    model = write_folder(tmp_path / "model", "sd1")
    killed(cli, model, AT_STEP, "--journal", *REFERENCE)
    write_folder(model, "sd1", seed=1)
    result = cli("resume")
    assert result.code == 1
    assert "the model is not the one of this picture" in result.err
    assert "Put the model back" in result.err
    assert len(journals()) == 1


# ------------------------------------------------------------------------------------------------ the setting


def test_phones_keep_a_journal_unasked(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr("tinydiff.journal.write_journal", lambda path, loop, run: seen.append(True))
    arguments = (*MAKE, "--model", model, *REFERENCE, "--force", "-o", "x.png")
    for variable, flags, expected in (
        (None, (), 0), ("TERMUX_VERSION", (), 6), ("ANDROID_ROOT", (), 6), ("TERMUX_VERSION", ("--journal", "off"), 0),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            if variable is not None:
                patch.setenv(variable, "x")
            seen.clear()
            assert cli(*arguments, *flags).code == 0
            assert len(seen) == expected


def test_a_journal_that_cannot_be_written_stops_only_who_asked_for_it(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, loop: Any, run: Any) -> None:
        raise JournalError(path, "cannot be written: No space left on device")

    monkeypatch.setattr("tinydiff.journal.write_journal", fail)
    arguments = (*MAKE, "--model", model, *REFERENCE, "-o", "x.png")
    refused(cli, 1, "journal|No space left", *arguments, "--journal", "--quiet")
    monkeypatch.setenv("TERMUX_VERSION", "x")
    result = cli(*arguments, "--quiet")
    assert result.code == 0
    assert result.err.count("No space left") == 1
    assert "going on without" in result.err


def test_names_of_journals(cli: Cli, model: Path) -> None:
    refused(cli, 2, "--journal must be on, off|.journal|a prompt goes before", "generate", "--journal", "a cat")
    (cli.cwd / "x.journal").write_bytes(b"old")
    refused(cli, 1, "x.journal|unfinished picture|resume", *MAKE, "--model", model, "--journal", "x.journal")
    refused(cli, 1, "y.journal|no such file", "resume", "y.journal")


def test_unfinished_pictures_do_not_pile_up(cli: Cli, model: Path) -> None:
    journal_folder().mkdir(parents=True)
    for number in range(KEPT + 3):
        old = journal_folder() / f"{number}.journal"
        old.write_bytes(b"")
        os.utime(old, (number, number))
    assert cli(*MAKE, "--model", model, *REFERENCE, "-o", "x.png", "--journal").code == 0
    assert [path.stem for path in journals()] == [str(n) for n in range(KEPT + 2, 3, -1)]


# ------------------------------------------------------------------------------------------- hostile journals


@pytest.fixture(scope="module")
def journal(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    arguments = (*MAKE, "--model", str(model), "-o", "x.png", "--journal", "x.journal", *REFERENCE)
    code = KILLED.format(patch=AT_STEP, signal=9)
    finish(start(folder, *arguments, code=code, kernels=False))
    return folder / "x.journal"


HOSTILE: dict[str, tuple[int, str, Callable[[dict[str, Any]], object]]] = {
    "nothing": (1, "how its picture was asked for", lambda run: run.clear()),
    "a prompt that is none": (1, "how its picture was asked for", lambda run: run.update(prompt=3)),
    "a prompt with NUL": (2, "prompt", lambda run: run.update(prompt="\0")),
    "settings that are none": (1, "how its picture was asked for", lambda run: run["settings"].update(steps=3)),
    "an unknown setting": (1, "'x'", lambda run: run["settings"].update(x="1")),
    "a setting of the run's own": (1, "'quiet'", lambda run: run["settings"].update(quiet="1")),
    "steps that are none": (2, "steps|many", lambda run: run["settings"].update(steps="many")),
    "other steps": (1, "scheduler", lambda run: run["settings"].update(steps="7")),
    "a size that is none": (2, "size", lambda run: run["settings"].update(size="0x0")),
    "a size that no memory holds": (1, "latents", lambda run: run["settings"].update(size="8192x8192", batch="64")),
    "no seed": (2, "seed", lambda run: run["settings"].pop("seed")),
    "another seed": (1, "seed", lambda run: run["settings"].update(seed="4")),
    "an unknown sampler": (2, "sampler", lambda run: run["settings"].update(sampler="x")),
    "a model that is gone": (1, "no such file", lambda run: run["settings"].update(model="/nowhere/at.all")),
    "another model": (1, "not the one of this picture", lambda run: run["model"].update(files={})),
    "a place that is none": (1, "folder does not exist", lambda run: run.update(output="/nowhere/at/all.png")),
    "a process that is alive": (1, "still at this picture", lambda run: run.update(Process.of(os.getppid()).to_json())),
    "a process that is none": (1, "how its picture was asked for", lambda run: run.update(pid=-1)),
}


@pytest.mark.parametrize("edit", HOSTILE)
def test_a_hostile_journal_is_refused(edit: str, cli: Cli, journal: Path) -> None:
    code, words, change = HOSTILE[edit]
    file = open_safetensors(journal)
    run = json.loads(file.metadata["run"])
    change(run)
    save_safetensors(cli.cwd / "x.journal", file.tensors, {**file.metadata, "run": json.dumps(run)})
    refused(cli, code, words, "resume", "x.journal", "--quiet")


def test_a_journal_of_another_version_is_finished_with_a_warning(cli: Cli, journal: Path) -> None:
    file = open_safetensors(journal)
    run = {**json.loads(file.metadata["run"]), "version": "0.0.1", "output": None}
    save_safetensors(cli.cwd / "x.journal", file.tensors, {**file.metadata, "run": json.dumps(run)})
    result = cli("resume", "x.journal", "--quiet")
    assert result.code == 0
    assert "version 0.0.1" in result.err
    assert cli.files() == ["3-1.png", "3-2.png"]
