"""Nothing but `tinydiff pull` opens a socket."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from cli_tools import Cli
from miniatures import write_folder
from PIL import Image

from tinydiff_weights.open import open_model


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every attempt to use the network fails, and is counted."""
    attempts: list[object] = []

    def blocked(*args: object, **more: object) -> None:
        attempts.append(args)
        raise OSError("no network in this test")

    class Blocked(socket.socket):
        def __init__(self, *args: object, **more: object) -> None:
            blocked(*args)

    monkeypatch.setattr(socket, "socket", Blocked)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, blocked)
    return attempts


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_model_from_its_folder(cli: Cli, sockets: list[object], family: str) -> None:
    model = write_folder(cli.folder / family, family)
    result = cli("generate", "a red cat", "--model", model, "--steps", "1", "--size", "16x16", "-o", "x.png")
    assert (result.code, result.out) == (0, "x.png\n"), result.err
    assert cli("info", model, "--hash").code == 0
    assert cli("doctor").code == 0
    assert sockets == []


def test_the_embedded_model(cli: Cli, sockets: list[object]) -> None:
    """In its own size, which nobody names."""
    result = cli("generate", "a red apple", "--steps", "1", "-o", "x.png")
    assert (result.code, result.out) == (0, "x.png\n"), result.err
    own = open_model().defaults
    with Image.open(cli.cwd / "x.png") as picture:
        assert picture.size == (own["width"], own["height"])
    assert sockets == []


def test_a_hub_id_from_the_cache_or_not_at_all(cli: Cli, sockets: list[object]) -> None:
    assert cli("generate", "a", "--model", "org/name").code == 1
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = cli.folder / "huggingface" / "hub" / "models--org--name"
    write_folder(place / "snapshots" / commit, "bk_tiny")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    result = cli("generate", "a", "--model", "org/name", "--steps", "1", "--size", "16x16", "-o", "x.png")
    assert result.code == 0, result.err
    assert sockets == []


def test_the_block_works(sockets: list[object]) -> None:
    with pytest.raises(OSError, match="no network"):
        socket.socket()
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("localhost", 1))
    assert len(sockets) == 2
