"""Flag before environment before config file before the model's default; a bad value names the place it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_tools import Cli, refused
from miniatures import write_folder

from tinydiff.commands.settings import READERS, config_file, flag_of, read, settle, unknown_variables, variable_of
from tinydiff.errors import InvalidArgumentError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "bk_tiny", "bk_tiny")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def test_order_of_places(tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    file = tmp_path / "tinydiff" / "config.toml"
    found = settle({"steps": None}, environment)
    assert (found["steps"], found.place("steps")) == (None, "--steps")
    file.parent.mkdir()
    file.write_text("steps = 5\nclip-skip = 2\nsize = '64x32'\n")
    found = settle({"steps": None}, environment)
    assert (found["steps"], found["clip_skip"], found["size"]) == (5, 2, (64, 32))
    assert found.place("steps") == f"'steps' in {str(file)!r}"
    environment["TINYDIFF_STEPS"] = "6"
    found = settle({"steps": None}, environment)
    assert (found["steps"], found.place("steps")) == (6, "TINYDIFF_STEPS")
    found = settle({"steps": "7"}, environment)
    assert (found["steps"], found.place("steps"), found["clip_skip"]) == (7, "--steps", 2)


def test_every_setting_has_a_flag(cli: Cli) -> None:
    shown = cli("generate", "--help").out
    for name in READERS:
        assert f"{flag_of(name)} " in shown or f"{flag_of(name)}\n" in shown, name


def test_settings_reach_the_command(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYDIFF_MODEL", str(model))
    monkeypatch.setenv("TINYDIFF_QUIET", "yes")
    cli.config('steps = 1\nsize = "8x16"\nseed = 9\nno-metadata = true\ncfg = 2\n')
    result = cli("generate", "a")
    assert (result.code, result.out, result.err) == (0, "9-1.png\n", "")
    assert f"path          {model}" in cli("info").out


READ = [
    ("steps", "20", 20), ("steps", 20, 20), ("seed", str(2**64 - 1), 2**64 - 1), ("cfg", "7.5", 7.5), ("cfg", 7, 7.0),
    ("size", "512x768", (512, 768)), ("size", "8X8", (8, 8)), ("memory", "300MB", 300 * 2**20), ("memory", "100", 100),
    ("memory", "Auto", "auto"), ("memory", "1.5g", 3 * 2**29), ("quiet", "on", True), ("quiet", "0", False),
    ("quiet", True, True),
    ("model", "a b", "a b"), ("negative", "", ""), ("sampler", "Euler a", "Euler a"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "expected"), READ)
def test_values_that_are_read(name: str, value: object, expected: object) -> None:
    assert read(name, value, "here") == expected
    assert type(read(name, value, "here")) is type(expected)


UNREADABLE = [
    ("steps", "1.5", "a whole number"), ("steps", 1.5, "a whole number"), ("steps", True, "a whole number"),
    ("steps", "", "a whole number"), ("steps", "0x10", "a whole number"), ("steps", "1_000", "a whole number"),
    ("steps", [20], "a plain value"), ("cfg", "nan", "a finite number"), ("cfg", float("inf"), "a finite number"),
    ("cfg", "7,5", "a finite number"), ("size", 512, "text in quotes"), ("size", "512", "WIDTHxHEIGHT"),
    ("memory", "-1GB", "300MB"), ("memory", "1TB", "300MB"), ("quiet", "maybe", "true or false"),
    ("quiet", 1, "a plain value"), ("model", "", "a path"), ("model", 7, "text in quotes"), ("negative", False, "text"),
    ("sampler", {"a": 1}, "text in quotes"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "wanted"), UNREADABLE)
def test_values_that_are_not(name: str, value: object, wanted: str) -> None:
    with pytest.raises(InvalidArgumentError, match="here must be ") as caught:
        read(name, value, "here")
    assert wanted in str(caught.value)


CONFIGS = [
    ("not TOML", "steps = \n", "config.toml|not valid TOML|line 1"),
    ("not UTF-8", b"model = '\xff'\n", "config.toml|not UTF-8"),
    ("unknown key", "stpes = 3\n", "config.toml|'stpes'|'steps'"),
    ("a table", "[generate]\nsteps = 3\n", "config.toml|unknown key 'generate'"),
    ("wrong value", "steps = 'many'\n", "'steps' in |config.toml|whole number|'many'"),
    ("value out of range", "steps = 0\n", "'steps' in |config.toml|from 1 to"),
    ("bad size", "size = '7x64'\n", "'size' in |config.toml|width"),
    ("bad seed", "seed = -1\n", "'seed' in |config.toml|-1"),
    ("unknown sampler", "sampler = 'eulr'\n", "'sampler' in |config.toml|'euler'"),
    ("unknown backend", "backend = 'refrence'\n", "'backend' in |config.toml|'reference'"),
    ("larger than 1 MB", "#" * (2**20 + 1), "config.toml|larger"),
    ("nested deeply", "a = " + "[" * 5000, "config.toml"),
]


@pytest.mark.parametrize(("content", "words"), [r[1:] for r in CONFIGS], ids=[r[0] for r in CONFIGS])
def test_bad_config_files(cli: Cli, model: Path, content: str | bytes, words: str) -> None:
    cli.config(content)
    refused(cli, 2, words, "generate", "a", "--model", model)


def test_a_config_file_that_is_a_folder(cli: Cli) -> None:
    cli.config("").unlink()
    (cli.folder / "config" / "tinydiff" / "config.toml").mkdir()
    refused(cli, 2, "config.toml|cannot be read", "generate", "a")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("TINYDIFF_STEPS", "0", "TINYDIFF_STEPS must be"),
        ("TINYDIFF_CFG", "high", "TINYDIFF_CFG must be a finite number"),
        ("TINYDIFF_SIZE", "7x7", "TINYDIFF_SIZE: width"),
        ("TINYDIFF_WEIGHTS", "int9", "unknown TINYDIFF_WEIGHTS 'int9'"),
        ("TINYDIFF_PREDICTION_TYPE", "x", "TINYDIFF_PREDICTION_TYPE"),
        ("TINYDIFF_THREADS", "-1", "TINYDIFF_THREADS must be"),
    ],
)
def test_bad_variables(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    refused(cli, 2, words, "generate", "a", "--model", model)


def test_where_the_config_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert config_file({"XDG_CONFIG_HOME": "/x"}) == Path("/x/tinydiff/config.toml")
    for ignored in ({}, {"XDG_CONFIG_HOME": ""}, {"XDG_CONFIG_HOME": "relative"}):
        assert config_file(ignored) == Path("/home/me/.config/tinydiff/config.toml")


def test_misspelt_variables_are_named() -> None:
    (complaint,) = unknown_variables(
        {"TINYDIFF_MODLE": "x", "TINYDIFF_DEBUG": "1", "OTHER": "", variable_of("cfg"): "1"}
    )
    assert complaint == "TINYDIFF_MODLE is no setting; did you mean TINYDIFF_MODEL?"


def test_an_empty_variable_counts_as_none() -> None:
    assert settle({}, {"TINYDIFF_STEPS": "", "XDG_CONFIG_HOME": "/nowhere"})["steps"] is None
