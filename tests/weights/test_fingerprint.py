"""A model's fingerprint: the same for the same bytes, another for every part that counts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from miniatures import write_folder

from tinydiff_weights import fingerprint as module
from tinydiff_weights.fingerprint import fingerprint, what_changed
from tinydiff_weights.open import open_model


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_folder(tmp_path / "model", "sd1")


def rewrite(file: Path) -> None:
    """Change the last byte, by a new file."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()
    file.write_bytes(data)


def test_every_part_counts(model: Path, tmp_path: Path) -> None:
    saved = fingerprint(open_model(model))
    assert what_changed(saved, open_model(model)) is None
    for part in ("unet", "vae", "text_encoder"):
        copy = tmp_path / "copy"
        shutil.copytree(model, copy)
        (file,) = (model / part).glob("*.safetensors")
        rewrite(file)
        assert what_changed(saved, open_model(model)) == f"{str(file)!r} was changed"
        shutil.rmtree(model)
        copy.rename(model)
        assert what_changed(saved, open_model(model)) is None  # other times, the same bytes
    with open(model / "tokenizer" / "merges.txt", "a") as stream:
        stream.write("x y\n")
    assert what_changed(saved, open_model(model)) == "a config or tokenizer was changed"


def test_a_large_file_is_known_by_size_and_time_unless_its_hash_is(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL", 0)
    saved = fingerprint(open_model(model))
    assert all(row[2] is None for row in saved["files"].values())
    assert what_changed(saved, open_model(model)) is None
    file = max(saved["files"])
    os.utime(file, ns=(1, 1))
    assert what_changed(saved, open_model(model)) == f"{file!r} was changed"


@pytest.mark.parametrize("saved", [{}, {"files": 3}, {"files": {}, "configs": ""}])
def test_a_fingerprint_of_a_wrong_form_is_none(saved: dict[str, object], model: Path) -> None:
    assert what_changed(saved, open_model(model)) == "it consists of other files"
    rows = {file: [np.pi] for file in fingerprint(open_model(model))["files"]}
    assert "was changed" in str(what_changed({"files": rows}, open_model(model)))
