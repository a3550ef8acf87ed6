"""Tables of bad input: every row ends in one or two lines that say what and where, the right exit code, and no file.

Usage (exit code 2): what was asked for cannot work. Error (1): a file, a model, the disk.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cli_tools import Cli, refused
from miniatures import write_folder

import tinydiff
from tinydiff.errors import InvalidArgumentError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "bk_tiny", "bk_tiny")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


# ------------------------------------------------------------------------------------------------ arguments

ARGUMENTS = [  # what is wrong, exit code, words of the error, arguments after `generate`
    ("prompt with NUL", 2, "prompt|NUL", ["a\0b"]),
    ("prompt not UTF-8", 2, "prompt|not valid Unicode", ["a\udcffb"]),
    ("negative prompt with NUL", 2, "negative prompt|NUL", ["a", "--negative", "b\0"]),
    ("negative prompt not UTF-8", 2, "negative prompt|UTF-8", ["a", "--negative", "b\udcff"]),
    ("no prompt", 2, "prompt is missing|tinydiff generate", []),
    ("two prompts", 2, "unexpected argument 'cat'|quotes", ["a", "cat"]),
    ("width 0", 2, "--size|width|0", ["a", "--size", "0x64"]),
    ("height 0", 2, "--size|height|0", ["a", "--size", "64x0"]),
    ("width 7", 2, "--size|width|not 7", ["a", "--size", "7x64"]),
    ("width 100000", 2, "--size|width|100000", ["a", "--size", "100000x64"]),
    ("height 100000", 2, "--size|height|100000", ["a", "--size", "64x100000"]),
    ("width not a multiple", 2, "--size|width 30 is not a multiple of", ["a", "--size", "30x64"]),
    ("height not a multiple", 2, "--size|height 30 is not a multiple of", ["a", "--size", "64x30"]),
    ("size without x", 2, "--size|WIDTHxHEIGHT|'512'", ["a", "--size", "512"]),
    ("size negative", 2, "--size|WIDTHxHEIGHT", ["a", "--size=-8x8"]),
    ("size of text", 2, "--size|WIDTHxHEIGHT", ["a", "--size", "bigxsmall"]),
    ("size of huge digits", 2, "--size", ["a", "--size", "9" * 5000 + "x8"]),
    ("steps 0", 2, "--steps|from 1 to|not 0", ["a", "--steps", "0"]),
    ("steps 10^6", 2, "--steps|1000000", ["a", "--steps", "1000000"]),
    ("steps negative", 2, "--steps|-3", ["a", "--steps", "-3"]),
    ("steps 1.5", 2, "--steps|whole number|'1.5'", ["a", "--steps", "1.5"]),
    ("steps without value", 2, "--steps|expected one argument", ["a", "--steps"]),
    ("cfg nan", 2, "--cfg|finite|nan", ["a", "--cfg", "nan"]),
    ("cfg inf", 2, "--cfg|finite|inf", ["a", "--cfg", "inf"]),
    ("cfg 1e300", 2, "--cfg|finite", ["a", "--cfg", "1e300"]),
    ("cfg text", 2, "--cfg|high", ["a", "--cfg", "high"]),
    ("seed negative", 2, "--seed|-1", ["a", "--seed", "-1"]),
    ("seed 2^64", 2, f"--seed|2^64|{2**64}", ["a", "--seed", str(2**64)]),
    ("seed text", 2, "--seed|whole number|'lucky'", ["a", "--seed", "lucky"]),
    ("seed of 5000 digits", 2, "--seed|whole number", ["a", "--seed", "1" * 5000]),
    ("seed in other digits", 2, "--seed|whole number", ["a", "--seed", "٣"]),
    ("unknown sampler", 2, "--sampler|'eulr'|'euler'|list", ["a", "--sampler", "eulr"]),
    ("misspelt schedule type", 2, "--sampler|'DPM++ 2M Karras'", ["a", "--sampler", "dpm++ 2m karas"]),
    ("unknown sampler, nothing near", 2, "--sampler|'zzzzzz'|list", ["a", "--sampler", "zzzzzz"]),
    ("empty sampler", 2, "--sampler", ["a", "--sampler", ""]),
    ("batch 0", 2, "--batch|0", ["a", "--batch", "0"]),
    ("batch 10^9", 2, "--batch|1000000000", ["a", "--batch", "1000000000"]),
    ("clip-skip 0", 2, "--clip-skip|0", ["a", "--clip-skip", "0"]),
    ("clip-skip beyond the layers", 2, "--clip-skip 4|1 to 3", ["a", "--clip-skip", "4"]),
    ("eta nan", 2, "--eta|finite", ["a", "--eta", "nan"]),
    ("guidance-rescale 2", 2, "--guidance-rescale|0 to 1", ["a", "--guidance-rescale", "2"]),
    ("unknown prediction type", 2, "--prediction-type|'epsilom'|'epsilon'", ["a", "--prediction-type", "epsilom"]),
    ("unknown weights", 2, "--weights|'int9'|'int8'", ["a", "--weights", "int9"]),
    ("weights without kernels", 2, "--weights|int8|'numba'", ["a", "--weights", "int8", "--backend", "reference"]),
    ("interval of one", 2, "--guidance-interval|0.2:0.8", ["a", "--guidance-interval", "0.5"]),
    ("interval of text", 2, "--guidance-interval|0.2:0.8", ["a", "--guidance-interval", "a:b"]),
    ("interval backwards", 2, "--guidance-interval|0 to 1", ["a", "--guidance-interval", "0.8:0.2"]),
    ("interval above 1", 2, "--guidance-interval|0 to 1", ["a", "--guidance-interval", "0:2"]),
    ("memory of text", 2, "--memory|300MB", ["a", "--memory", "lots"]),
    ("memory 0", 2, "--memory|300MB", ["a", "--memory", "0"]),
    ("too little memory", 1, "memory=1MB is too small|is the least", ["a", "--memory", "1MB"]),
    ("unknown backend", 2, "--backend|'refrence'|'reference'", ["a", "--backend", "refrence"]),
    ("threads 0", 2, "--threads|0", ["a", "--threads", "0"]),
    ("threads 10^6", 2, "--threads|1000000", ["a", "--threads", "1000000"]),
    ("unknown flag", 2, "'--stpes'|--steps", ["a", "--stpes", "3"]),
    ("unknown flag with a value", 2, "'--colour'", ["a", "--colour=red"]),
    ("abbreviated flag", 2, "'--samp'|--sampler", ["a", "--samp", "euler"]),
    ("model that is nowhere", 1, "'no/such/folder/model'", ["a", "--model", "no/such/folder/model"]),
    ("model with NUL", 2, "--model|path", ["a", "--model", "a\0b"]),
    ("model that is empty text", 2, "--model|path", ["a", "--model", ""]),
    ("hub id that is not in the cache", 1, "'org/name'|tinydiff pull org/name", ["a", "--model", "org/name"]),
    ("vae that is nowhere", 1, "'no-vae'|no such file", ["a", "--vae", "no-vae"]),
]  # fmt: skip


@pytest.mark.parametrize(("code", "words", "args"), [r[1:] for r in ARGUMENTS], ids=[r[0] for r in ARGUMENTS])
def test_arguments(cli: Cli, model: Path, code: int, words: str, args: list[str]) -> None:
    own = [] if "--model" in args else ["--model", str(model)]
    refused(cli, code, words, "generate", *args, *own)


COMMANDS = [
    ("no command", 2, "what shall be done", []),
    ("unknown command", 2, "'genrate'|'generate'", ["genrate", "x"]),
    ("a prompt without command", 2, "tinydiff generate PROMPT", ["a red apple"]),
    ("unknown flag before the command", 2, "'--verzion'|--version", ["--verzion"]),
    ("unknown flag of info", 2, "'--jsn'|--json", ["info", "--jsn"]),
    ("info of two", 2, "unexpected argument", ["info", "a", "b"]),
    ("info of nothing there", 1, "'nowhere'|no such", ["info", "nowhere"]),
    ("pull without a name", 2, "HUB_ID", ["pull"]),
    ("pull of no hub id", 1, "'model.ckpt'|org/name", ["pull", "model.ckpt"]),
    ("doctor with an argument", 2, "unexpected argument", ["doctor", "x"]),
]


@pytest.mark.parametrize(("code", "words", "args"), [r[1:] for r in COMMANDS], ids=[r[0] for r in COMMANDS])
def test_commands(cli: Cli, code: int, words: str, args: list[str]) -> None:
    refused(cli, code, words, *args)


GOOD = [
    ("empty prompt", [""]),
    ("prompt of blanks and newlines", [" \n\t "]),
    ("prompt of emoji and accents", ["ein Fähnchen 🚩 at <|endoftext|>"]),
    ("prompt of 10,000 characters", ["cat dog " * 1250]),
    ("prompt that begins with a dash", ["--steps", "1", "--", "-1 apples"]),
    ("seed 2^64 - 1", ["a", "--seed", str(2**64 - 1)]),
    ("seed 0", ["a", "--seed", "0"]),
    ("cfg 0", ["a", "--cfg", "0"]),
    ("negative cfg", ["a", "--cfg", "-2"]),
]


@pytest.mark.parametrize("args", [r[1] for r in GOOD], ids=[r[0] for r in GOOD])
def test_odd_but_fine(cli: Cli, model: Path, args: list[str]) -> None:
    result = cli("generate", "--model", model, "--size", "8x8", *([] if "--steps" in args else ["--steps", "1"]), *args)
    assert result.code == 0, result.err
    assert result.paths[0].exists()


# ------------------------------------------------------------------------------------------------ output


def _taken(cwd: Path) -> None:
    (cwd / "x.png").write_text("mine")


def _folder(cwd: Path) -> None:
    (cwd / "x.png").mkdir()


def _file_as_folder(cwd: Path) -> None:
    (cwd / "f").write_text("")


def _second_taken(cwd: Path) -> None:
    (cwd / "x-2.png").write_text("mine")


def _pipe(cwd: Path) -> None:
    os.mkfifo(cwd / "x.png")


def _nothing(cwd: Path) -> None:
    pass


OUTPUTS: list[tuple[str, int, str, list[str], Callable[[Path], None]]] = [
    ("file exists", 1, "'x.png' exists|--force", ["-o", "x.png"], _taken),
    ("file of a batch exists", 1, "'x-2.png' exists|--force", ["-o", "x.png", "--batch", "2"], _second_taken),
    ("output is a folder", 1, "'x.png' is a folder", ["-o", "x.png"], _folder),
    ("output is a folder, with --force", 1, "'x.png' is a folder", ["-o", "x.png", "--force"], _folder),
    ("output ends in a slash", 1, "'y.png/' is a folder", ["-o", "y.png/"], _nothing),
    ("output is a pipe, with --force", 1, "not a regular file", ["-o", "x.png", "--force"], _pipe),
    ("folder missing", 1, "'no/x.png'|folder does not exist", ["-o", "no/x.png"], _nothing),
    ("folder is a file", 1, "'f/x.png'|file", ["-o", "f/x.png"], _file_as_folder),
    ("another suffix", 2, "'x.jpg'|.png", ["-o", "x.jpg"], _nothing),
    ("no suffix", 2, "'x'|.png", ["-o", "x"], _nothing),
    ("empty name", 1, "''|file name", ["-o", ""], _nothing),
    ("name with NUL", 1, "file name", ["-o", "a\0.png"], _nothing),
    ("name too long", 1, "too long", ["-o", "n" * 300 + ".png"], _nothing),
]


@pytest.mark.parametrize(("code", "words", "args", "prepare"), [r[1:] for r in OUTPUTS], ids=[r[0] for r in OUTPUTS])
def test_output_is_judged_before_any_work(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str, args: list[str],
    prepare: Callable[[Path], None],
) -> None:  # fmt: skip
    def work(*args: object) -> None:
        raise AssertionError("the model was opened before the output was checked")

    monkeypatch.setattr("tinydiff.commands.generate.load", work)
    prepare(cli.cwd)
    refused(cli, code, words, "generate", "a", "--model", model, *args)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path | None]]:
    """`mounted(options)` is the folder of a small file system of its own, or None where that is not allowed."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    done = []

    def mount(options: str) -> Path | None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() != 0 or shutil.which("mount") is None:
            return None
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        done.append(folder)
        return folder

    yield mount
    os.chdir(tmp_path)  # a current folder keeps its file system busy
    for place in done:
        subprocess.run(["umount", str(place)], check=True)


def test_read_only_folder(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, mounted: Callable[[str], Path | None]
) -> None:
    folder = mounted("ro,size=64k")
    if folder is None:
        folder = cli.cwd / "locked"
        folder.mkdir(mode=0o555)
        if os.access(folder, os.W_OK):  # root without mounts: only the question can be answered differently
            monkeypatch.setattr(os, "access", lambda path, mode, **more: False)
    refused(cli, 1, "x.png|permission", "generate", "a", "--model", model, "-o", folder / "x.png")
    monkeypatch.chdir(folder)
    assert cli("generate", "a", "--model", model).code == 1


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["new", "replacing"])
def test_disk_full(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, mounted: Callable[[str], Path | None], force: tuple[str]
) -> None:
    folder = mounted("size=16k")
    if folder is None:
        folder = cli.cwd

        def full(descriptor: int, data: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "write", full)
    else:
        (folder / "filler").write_bytes(b"x" * 12000)
    if force:
        (folder / "x.png").write_text("mine")
    before = sorted(os.listdir(folder))
    small = ("--steps", "1", "--size", "64x64", "--quiet")
    refused(cli, 1, "x.png|disk is full", "generate", "a", "--model", model, *small, "-o", folder / "x.png", *force)
    assert sorted(os.listdir(folder)) == before
    if force:
        assert (folder / "x.png").read_text() == "mine"


# ------------------------------------------------------------------------------------------------ standard input

STDIN = [
    ("not UTF-8", b"a\xffb", "standard input|not UTF-8|byte 1"),
    ("NUL", b"a\0b", "prompt|NUL"),
    ("larger than 1 MB", b"a" * (2**20 + 1), "standard input|larger than 1 MB"),
]


@pytest.mark.parametrize(("data", "words"), [r[1:] for r in STDIN], ids=[r[0] for r in STDIN])
def test_standard_input(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    refused(cli, 2, words, "generate", "-", "--model", model)


def test_standard_input_closed(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert cli("generate", "-", "--model", model, "--steps", "1", "--size", "8x8").code == 0  # the empty prompt


# ------------------------------------------------------------------------------------------------ Python interface


@pytest.fixture(scope="module")
def pipe(model: Path) -> tinydiff.Pipeline:
    return tinydiff.Pipeline.from_pretrained(model)


CALLS = [
    ("latents of a wrong shape", {"latents": np.zeros((1, 4, 3, 4))}, r"shape \(1, 4, 3, 4\).*\(1, 4, 4, 4\)"),
    ("latents of a wrong batch", {"latents": np.zeros((2, 4, 4, 4))}, "latents have shape"),
    ("latents without a batch", {"latents": np.zeros((4, 4, 4))}, "latents have shape"),
    ("latents of text", {"latents": np.full((1, 4, 4, 4), "a")}, "latents must be numbers"),
    ("latents with NaN", {"latents": np.full((1, 4, 4, 4), np.nan)}, "latents hold NaN"),
    ("latents of unequal lists", {"latents": [[1.0], [2.0, 3.0]]}, "latents must be an array"),
    ("callback that is none", {"callback_on_step_end": 3}, "callback_on_step_end must be a function"),
    ("callback that returns text", {"callback_on_step_end": lambda *a: "x"}, "must return a dict or None, not str"),
    (
        "callback with latents of a wrong shape",
        {"callback_on_step_end": lambda *a: {"latents": np.zeros((1, 4, 9, 9))}},
        r"latents of callback_on_step_end have shape \(1, 4, 9, 9\)",
    ),
    (
        "callback with NaN",
        {"callback_on_step_end": lambda p, i, t, v: {"latents": v["latents"] * np.nan}},
        "latents of callback_on_step_end hold NaN",
    ),
    ("prompt of bytes", {"prompt": b"cat"}, "prompt must be text"),
    ("prompt that is a list", {"prompt": ["cat"]}, "prompt must be text"),
    ("negative prompt of a number", {"negative_prompt": 3}, "negative prompt must be text"),
    ("unknown output type", {"output_type": "jpg"}, "unknown output_type 'jpg'"),
    ("width text", {"width": "16"}, "width must be a whole number"),
    ("width True", {"width": True}, "width must be a whole number"),
    ("steps 0", {"num_inference_steps": 0}, "num_inference_steps"),
    ("steps 10^6", {"num_inference_steps": 10**6}, "num_inference_steps"),
    ("guidance nan", {"guidance_scale": float("nan")}, "guidance_scale"),
    ("seed negative", {"seed": -1}, "seed"),
    ("seed 2^64", {"seed": 2**64}, "seed"),
    ("seed text", {"seed": "1"}, "seed"),
    ("seed 1.0", {"seed": 1.0}, "seed"),
    ("images 0", {"num_images_per_prompt": 0}, "num_images_per_prompt"),
    ("unknown scheduler", {"scheduler": "eulr"}, "'eulr'"),
    ("scheduler of a number", {"scheduler": 3}, "scheduler must be"),
    ("clip_skip -1", {"clip_skip": -1}, "clip_skip"),
    ("clip_skip 50", {"clip_skip": 50}, "clip_skip 50"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), [r[1:] for r in CALLS], ids=[r[0] for r in CALLS])
def test_calls(pipe: tinydiff.Pipeline, change: dict[str, object], words: str) -> None:
    arguments = {"prompt": "cat", "width": 16, "height": 16, "num_inference_steps": 1, "output_type": "latent"} | change
    if "latents" in change:
        factor = pipe.vae.config.factor
        arguments |= {"width": 4 * factor, "height": 4 * factor}
    with pytest.raises(InvalidArgumentError, match=words):
        pipe(**arguments)


def test_number_of_rows(capsys: pytest.CaptureFixture[str]) -> None:
    tables = {
        "arguments": ARGUMENTS, "commands": COMMANDS, "odd but fine": GOOD, "outputs": OUTPUTS, "disk": range(3),
        "standard input": STDIN, "calls": CALLS,
    }  # fmt: skip
    counts = {name: len(rows) for name, rows in tables.items()}
    with capsys.disabled():
        print(f"\ntables of bad input: {sum(counts.values())} rows {counts}")
    assert sum(counts.values()) > 100
