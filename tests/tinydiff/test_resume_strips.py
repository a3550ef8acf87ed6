"""A picture that was begun in strips is finished in the same strips, whatever would be planned by then.

Values kept in 16 bits change a few of the picture's bits, so that another plan would show.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_tools import Cli, compiled_kernels, finish, refused, start
from miniatures import write_folder
from numpy.typing import NDArray
from PIL import Image

import tinydiff
from tinydiff.journal import read_journal
from tinydiff.memory import stages
from tinydiff.vae import VAE
from tinydiff_kernels.compiled.strip_plan import plan_strips
from tinydiff_kernels.rows import rows_from_nchw
from tinydiff_weights.safetensors import open_safetensors
from tinydiff_weights.write import save_safetensors

MAKE = ("generate", "a cat", "--steps", "2", "--size", "128x96", "--seed", "3", "--memory", "4GB", "--threads", "1")
# A run whose plan is the one given, and that kills itself in the decoder, after so many kernels.
KILLED = """
import os, sys
import tinydiff.pipeline as pipeline
from tinydiff.cli import main
from tinydiff.memory.keeper import Keeper
from tinydiff_kernels.compiled.program import Program
words, left = sys.argv[1], [int(sys.argv[2])]
init, decode, run = Keeper.__init__, pipeline.decode, Program.run
def planned(self, budget):
    init(self, budget)
    self.follow(words)
def until(after):
    def counted(step):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), 9)
        after(step)
    return counted
def watched(*args):
    Program.run = lambda self, *a, after, **more: run(self, *a, after=until(after), **more)
    return decode(*args)
Keeper.__init__, pipeline.decode = planned, watched
sys.exit(main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiled_kernels()
    return write_folder(tmp_path_factory.mktemp("models") / "sd1", "sd1")


@pytest.fixture(scope="module")
def strips(model: Path) -> str:
    """Of the decoder: all that could be kept is kept in 16 bits, which is planned only where memory is very short."""
    vae = tinydiff.Pipeline.from_pretrained(model, threads=1).vae
    assert isinstance(vae, VAE)
    latents = np.zeros((1, 4, 12, 16), np.float32)
    kinds = stages.kinds_of(vae.backend)
    plan = plan_strips(lambda b: vae.forward_decode(b, rows_from_nchw(latents)), kinds, budget=0, threads=1)
    assert plan.policy is not None
    return f"8:{plan.policy.modes.replace('k', 'h')}"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    return Cli(tmp_path, monkeypatch, capsys)


def pixels(name: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(name))


def plan_of(name: str) -> str:
    with Image.open(name) as image:
        (record,) = (json.loads(text) for text in image.text.values() if "memory_plan" in text)  # type: ignore[attr-defined]
    return str(record["extra"]["memory_plan"])


@pytest.fixture(scope="module")
def journal(model: Path, strips: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run that was killed between two kernels of the decoder."""
    folder = tmp_path_factory.mktemp("killed")
    arguments = (*MAKE, "--model", str(model), "-o", "x.png", "--journal", "x.journal")
    result = finish(start(folder, f"4096 MB, VAE {strips}", "60", *arguments, code=KILLED))
    assert result.code == -9, result.err
    return folder / "x.journal"


def test_killed_between_strips_it_goes_on_in_the_same(cli: Cli, model: Path, strips: str, journal: Path) -> None:
    pipe = tinydiff.Pipeline.from_pretrained(model, threads=1, memory="4GB")
    assert pipe.model.keeper is not None
    pipe.model.keeper.follow(f"4096 MB, VAE {strips}")
    wanted = pipe("a cat", width=128, height=96, num_inference_steps=2, seed=3).images[0]
    assert cli(*MAKE, "--model", model, "-o", "whole.png").code == 0
    assert plan_of("whole.png") == "4096 MB, VAE whole"  # what this memory asks for
    assert not np.array_equal(pixels("whole.png"), np.asarray(wanted))

    assert read_journal(journal).run["plan"] == f"4096 MB, VAE {strips}"
    shutil.copy(journal, "x.journal")
    result = cli("resume", "x.journal", "-o", "x.png")
    assert result.code == 0, result.err
    assert "going on after step 3 of 3" in result.err
    np.testing.assert_array_equal(pixels("x.png"), np.asarray(wanted))
    assert plan_of("x.png") == f"4096 MB, VAE {strips}"
    assert cli.files() == ["whole.png", "x.png"]


def test_a_plan_that_is_none_is_refused(cli: Cli, strips: str, journal: Path) -> None:
    file = open_safetensors(journal)
    run = json.loads(file.metadata["run"])
    for plan, words in (
        ("4096 MB, VAE 8:kk", "a strip policy of 2 operations was given to a network of"),
        ("4096 MB, VAE 7:kk", "not a strip policy"),
        (f"4096 MB, VAE {10**9}:{strips[2:]}", "not a strip policy"),
        ("4096 MB, VAE x", "not a strip policy"),
    ):
        metadata = {**file.metadata, "run": json.dumps({**run, "plan": plan})}
        save_safetensors(cli.cwd / "x.journal", file.tensors, metadata)
        refused(cli, 1, words, "resume", "x.journal", "--quiet")
