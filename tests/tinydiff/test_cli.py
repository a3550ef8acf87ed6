"""`tinydiff generate` on a miniature model, and what all commands have in common."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_tools import Cli, finish, start
from miniatures import write_folder
from PIL import Image

from tinydiff import __version__
from tinydiff.commands import generate
from tinydiff.commands.parser import build
from tinydiff.metadata import read_png
from tinydiff.schedulers import make, names

SMALL = ("--steps", "1", "--size", "16x16")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "bk_tiny", "bk_tiny")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


# ------------------------------------------------------------------------------------------------ the tree


def test_help_names_every_command(cli: Cli) -> None:
    result = cli("--help")
    assert (result.code, result.err) == (0, "")
    assert all(f"\n    {name} " in result.out for name in build()[1])


def test_every_flag_of_the_documented_interface_exists(cli: Cli) -> None:
    shown = cli("generate", "--help").out
    flags = "-o --force --model --vae --negative --steps --cfg --size --seed --sampler --batch --clip-skip --weights"
    for flag in f"{flags} --memory --backend --threads --no-metadata --quiet --guidance-interval".split():
        assert flag in shown, flag


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"tinydiff {__version__}\n"


# ------------------------------------------------------------------------------------------------ pictures


def test_a_picture_its_path_and_a_summary(cli: Cli, model: Path) -> None:
    result = cli("generate", "a red cat", "--model", model, "--steps", "2", "--size", "24x16", "--seed", "7")
    assert (result.code, result.out) == (0, "7-1.png\n")
    assert pixels("7-1.png").shape == (16, 24, 3)
    assert result.err.startswith("tinydiff: seed 7, ")
    assert "s/step" in result.err
    assert cli.files() == ["7-1.png"]


def test_the_png_says_how_it_was_made(cli: Cli, model: Path) -> None:
    prompt, negative = 'a "cat", at: night', "red,\nblue"
    made = cli(
        "generate", prompt, "--negative", negative, "--model", model, "--steps", "3", "--size", "16x16", "--cfg", "4",
        "--sampler", "DPM++ 2M Karras", "--clip-skip", "2", "--seed", "5", "-o", "x.png",
    )  # fmt: skip
    assert made.code == 0, made.err
    found = read_png("x.png")
    expected = {
        "Prompt": prompt, "Negative prompt": negative, "Steps": "3", "Sampler": "DPM++ 2M", "Schedule type": "Karras",
        "CFG scale": "4", "Seed": "5", "Size-1": "16", "Size-2": "16", "Clip skip": "2", "Model": "bk_tiny",
    }  # fmt: skip
    assert expected.items() <= found.parameters.items()
    record = found.record
    assert (record["version"], record["prompt"], record["negative_prompt"]) == (__version__, prompt, negative)
    assert record["timings"]["total"] > 0
    assert len(record["timings"]["steps"]) == 3
    assert record["extra"]["scheduler"] == "DPMSolverMultistepScheduler"
    told = json.loads(cli("info", model, "--json", "--hash").out)["sha256"]
    assert record["model_hash"] == told
    assert found.parameters["Model hash"] == told[:10]


def test_no_metadata(cli: Cli, model: Path) -> None:
    cli("generate", "a cat", "--model", model, *SMALL, "-o", "x.png", "--no-metadata")
    assert read_png("x.png").texts == {}


def test_quiet_says_only_the_path(cli: Cli, model: Path) -> None:
    result = cli("generate", "a cat", "--model", model, *SMALL, "-o", "x.png", "--quiet")
    assert (result.code, result.out, result.err) == (0, "x.png\n", "")


def test_a_batch_numbers_its_files_and_counts_its_seeds(cli: Cli, model: Path) -> None:
    result = cli("generate", "a cat", "--model", model, *SMALL, "--seed", "5", "--batch", "2", "-o", "c.png")
    assert result.out.split() == ["c-1.png", "c-2.png"]
    assert [read_png(p).record["seed"] for p in result.paths] == [5, 6]
    cli("generate", "a cat", "--model", model, *SMALL, "--seed", "6", "-o", "six.png")
    difference = pixels("c-2.png").astype(int) - pixels("six.png").astype(int)
    assert np.abs(difference).max() <= 1
    assert (pixels("c-1.png") != pixels("c-2.png")).any()


def test_default_names_pass_over_what_exists(cli: Cli, model: Path) -> None:
    Path("5-1.png").write_text("mine")
    Path("5-3.png").symlink_to("nowhere")
    result = cli("generate", "a cat", "--model", model, *SMALL, "--seed", "5", "--batch", "2", "--force")
    assert result.out.split() == ["5-2.png", "5-4.png"]
    assert Path("5-1.png").read_text() == "mine"


def test_a_default_name_taken_during_the_work_is_passed_over(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = generate.load

    def meanwhile(*args):  # type: ignore[no-untyped-def]
        Path("5-1.png").write_text("theirs")
        return load(*args)

    monkeypatch.setattr(generate, "load", meanwhile)
    assert cli("generate", "a cat", "--model", model, *SMALL, "--seed", "5").out == "5-2.png\n"
    assert Path("5-1.png").read_text() == "theirs"


def test_force_replaces_and_nothing_else_does(cli: Cli, model: Path) -> None:
    Path("x.png").write_text("mine")
    arguments = ("generate", "a cat", "--model", model, *SMALL, "-o", "x.png")
    refused = cli(*arguments)
    assert (refused.code, refused.out) == (1, "")
    assert "--force" in refused.err
    assert Path("x.png").read_text() == "mine"
    assert cli(*arguments, "--force").code == 0
    assert pixels("x.png").shape == (16, 16, 3)
    assert cli.files() == ["x.png"]


def test_the_same_seed_gives_the_same_pixels_and_a_new_one_others(cli: Cli, model: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        cli("generate", "a cat", "--model", model, *SMALL, "--seed", seed, "-o", f"{name}.png")
    assert (pixels("a.png") == pixels("b.png")).all()
    assert (pixels("a.png") != pixels("c.png")).any()
    seeds = {cli("generate", "a cat", "--model", model, *SMALL).out for _ in range(2)}
    assert len(seeds) == 2


def test_prompt_from_standard_input(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("a wêird cat\n".encode())))
    cli("generate", "-", "--model", model, *SMALL, "--seed", "1", "-o", "stdin.png")
    cli("generate", "a wêird cat", "--model", model, *SMALL, "--seed", "1", "-o", "argument.png")
    assert read_png("stdin.png").parameters["Prompt"] == "a wêird cat"
    assert (pixels("stdin.png") == pixels("argument.png")).all()


def test_each_setting_reaches_the_picture(cli: Cli, model: Path) -> None:
    def picture(*more: str) -> bytes:
        base = ("--model", str(model), "--steps", "2", "--size", "16x16", "--seed", "1", "-o", "x.png", "--force")
        result = cli("generate", "a red cat", *base, *more)
        assert result.code == 0, result.err
        return pixels("x.png").tobytes()

    plain = picture()
    assert picture("--clip-skip", "1") == plain  # the last layer, as without the flag
    changes = [
        ("--clip-skip", "2"), ("--negative", "a dog"), ("--cfg", "2"), ("--sampler", "euler"), ("--steps", "3"),
        ("--prediction-type", "v_prediction"), ("--guidance-rescale", "0.7"), ("--weights", "float16"),
        ("--sampler", "ddim", "--eta", "1"), ("--sampler", "ddim"),
    ]  # fmt: skip
    found = {plain, *(picture(*change) for change in changes)}
    assert len(found) == 1 + len(changes)


def test_another_vae(cli: Cli, model: Path) -> None:
    other = write_folder(cli.folder / "other", "sd1", seed=3, taesd=True)
    arguments = ("generate", "a cat", "--model", model, *SMALL, "--seed", "1")
    cli(*arguments, "-o", "own.png")
    result = cli(*arguments, "-o", "vae.png", "--vae", other / "vae")
    assert result.code == 0, result.err
    assert (pixels("own.png") != pixels("vae.png")).any()
    assert read_png("vae.png").parameters["VAE"] == "vae"


def test_sampler_list_needs_no_prompt_and_every_name_works(cli: Cli) -> None:
    result = cli("generate", "--sampler", "list")
    assert (result.code, result.err) == (0, "")
    assert len(result.out.splitlines()) == len(names()) > 15
    for line, sampler in zip(result.out.splitlines(), names(), strict=True):
        assert (sampler.name in line, sampler.short in line, sampler.class_name in line) == (True, True, True)
        assert make(sampler.name).config["_class_name"] == make(sampler.short).config["_class_name"]


# ------------------------------------------------------------------------------------------------ warnings, threads


def test_dropped_words_are_named_in_one_line(cli: Cli, model: Path) -> None:
    result = cli("generate", "cat " * 80 + "dog", "--model", model, *SMALL, "--quiet")
    assert result.code == 0
    (line,) = result.err.splitlines()
    assert line.startswith("tinydiff: warning: the prompt is longer than 75 tokens; ")
    assert line.endswith("dog")


def test_hints_of_the_model_are_shown_unless_quiet(cli: Cli, model: Path) -> None:
    copy = cli.folder / "unsaid"
    shutil.copytree(model, copy)
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": None}))
    told = cli("generate", "a cat", "--model", copy, *SMALL)
    assert told.err.startswith("tinydiff: warning: prediction type found by a trial forward")
    assert cli("generate", "a cat", "--model", copy, *SMALL, "--quiet").err == ""


def test_threads_are_set_before_numpy_is_loaded(tmp_path: Path) -> None:
    """In a process where loading the model shows what NumPy found in its environment."""
    code = """
import os, sys
import tinydiff.commands.generate as generate, tinydiff.cli as cli
limit = generate.limit_threads
def limit_threads(settings):
    global before
    before = "numpy" in sys.modules
    limit(settings)
generate.limit_threads = limit_threads
def load(settings, console): raise SystemExit(f"{before} {os.environ['OPENBLAS_NUM_THREADS']}")
generate.load = load
cli._outcome = lambda error, *rest: print(error) or 0
cli.main(["generate", "x", "--threads", "3"])
"""
    assert finish(start(tmp_path, code=code)).out == "False 3\n"


# ------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), 1, "out of memory"),
        (KeyError("oops"), 1, "internal error, please report it: KeyError: 'oops'"),
        (OSError(28, "No space left on device", "/x/y"), 1, "'/x/y': the disk is full"),
        (OSError(5, "Input/output error", "/x/y"), 1, "'/x/y': Input/output error"),
        (RecursionError("deep"), 1, "internal error"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_no_traceback_whatever_happens(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str
) -> None:
    def fails(*args: object) -> None:
        raise error

    monkeypatch.setattr(generate, "check", fails)
    result = cli("generate", "x")
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert "Traceback" not in result.err
    assert len(result.err.splitlines()) <= 2


def test_debug_shows_the_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYDIFF_DEBUG", "1")
    result = cli("generate", "x", "--model", "nowhere")
    assert result.code == 1
    assert result.err.startswith("tinydiff: error: 'nowhere'")
    assert "Traceback" in result.err


def test_control_characters_of_a_stranger_do_not_reach_the_terminal(cli: Cli) -> None:
    result = cli("info", "no\x1b[31mthing\x07")
    assert result.code == 1
    assert "\x1b" not in result.err
    assert "\x07" not in result.err


def test_standard_output_full_or_closed(tmp_path: Path) -> None:
    process = start(tmp_path, "--help")
    assert process.stdout is not None
    process.stdout.close()  # nobody reads: EPIPE, or nothing if it fits the pipe's buffer before that
    process.stdout = None
    assert "Traceback" not in finish(process).err
    full = f"{sys.executable} -m tinydiff --version > /dev/full"
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(["sh", "-c", full], env=variables, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "tinydiff: error: the disk is full; free some space\n")


def test_a_name_that_is_not_utf8_is_written_and_printed_as_it_is(cli: Cli, model: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    script = (
        f"import sys; from tinydiff.cli import main; sys.exit(main(['generate', 'x', '-o', {name!r}, *sys.argv[1:]]))"
    )
    process = start(tmp_path, "--model", str(model), *SMALL, code=script)
    assert process.stdout is not None
    raw = process.stdout.buffer.read()  # type: ignore[attr-defined]
    process.wait(60)
    assert process.stderr is not None
    process.stderr.close()
    process.stdout.close()
    assert raw == b"caf\xe9.png\n"
    assert os.path.exists(os.fsencode(tmp_path) + b"/caf\xe9.png")
