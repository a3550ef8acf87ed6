"""Remembered SHA-256 of model files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.hashes import cache_folder, cached_sha256, sha256_of


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(3 * 2**20 + 5))
    return path


def test_computed_once_then_remembered(model: Path, tmp_path: Path) -> None:
    cache, seen = tmp_path / "cache", []
    assert cached_sha256(model, cache) is None
    digest = sha256_of(model, cache, lambda done, total: seen.append((done, total)))
    assert digest == hashlib.sha256(model.read_bytes()).hexdigest()
    assert seen[-1] == (model.stat().st_size, model.stat().st_size)
    assert len(seen) == 4
    assert cached_sha256(model, cache) == digest
    assert sha256_of(model, cache, lambda *_: pytest.fail("hashed again")) == digest


def test_a_changed_file_is_hashed_again(model: Path, tmp_path: Path) -> None:
    first = sha256_of(model, tmp_path / "cache")
    model.write_bytes(b"\1" * (3 * 2**20 + 5))
    os.utime(model, ns=(1, 1))
    assert cached_sha256(model, tmp_path / "cache") is None
    assert sha256_of(model, tmp_path / "cache") != first
    model.write_bytes(b"")
    assert sha256_of(model, tmp_path / "cache") == hashlib.sha256().hexdigest()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"[" * 10**5, b'{"a": 1}', b'{"PATH": [1, 2, "short"]}']
)
def test_a_damaged_memory_is_ignored_and_mended(model: Path, tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "hashes.json").write_bytes(content.replace(b"PATH", os.fsencode(model)))
    assert cached_sha256(model, cache) is None
    digest = sha256_of(model, cache)
    assert cached_sha256(model, cache) == digest
    assert list(json.loads((cache / "hashes.json").read_bytes())) == [str(model)]


def test_a_memory_that_cannot_be_written_does_no_harm(model: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    assert len(sha256_of(model, blocked / "cache")) == 64


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}").write_bytes(b"")
    (tmp_path / "hashes.json").write_text(json.dumps({f"/{i}": [0, i, "0" * 64] for i in range(1500)}))
    sha256_of(tmp_path / "0", tmp_path)
    table = json.loads((tmp_path / "hashes.json").read_text())
    assert len(table) == 1000
    assert list(table)[-1] == str(tmp_path / "0")


def test_missing_file(tmp_path: Path) -> None:
    assert cached_sha256(tmp_path / "none", tmp_path) is None
    with pytest.raises(ModelFileError, match="no such file"):
        sha256_of(tmp_path / "none", tmp_path)


def test_cache_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tinydiff"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification: ignore it
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/tinydiff")
