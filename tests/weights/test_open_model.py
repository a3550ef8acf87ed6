"""open_model: what each kind of path leads to, and what is refused before anything is read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from master import MASTER

from tinydiff_weights.errors import ModelFileError, TinyDiffError, UnsupportedModelError
from tinydiff_weights.open import DEFAULT_MODEL, open_model, open_vae
from tinydiff_weights.write import save_safetensors

ZIP = b"PK\x03\x04" + bytes(60)
PICKLE = b"\x80\x02}q\x00(X\x0a\x00\x00\x00state_dictq\x01."

REFUSED: list[tuple[str, bytes, str]] = [
    ("model.ckpt", ZIP, "zip archive.*torch.load"),
    ("model.ckpt", PICKLE, "Python pickle.*torch.load"),
    ("model.ckpt", b"", ".ckpt files are Python pickles.*torch.load"),
    ("model.pt", b"anything at all, long enough", ".pt files are Python pickles"),
    ("model.PTH", b"anything", ".PTH files are Python pickles"),
    ("model.bin", ZIP, "zip archive.*safetensors"),
    ("model.pkl", PICKLE, "Python pickle"),
    ("model.safetensors", ZIP, "zip archive"),
    ("model.safetensors", PICKLE, "Python pickle"),
    ("model", PICKLE, "Python pickle"),
    ("model.gguf", b"GGUF\x03\0\0\0" + bytes(40), "GGUF file, which tinydiff does not read"),
    ("model.safetensors", b"GGUF\x03\0\0\0" + bytes(40), "GGUF"),
    ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer.*git lfs pull"),
    ("model.safetensors", b"<!DOCTYPE html><html>", "HTML.*fetch the file again"),
    ("model.safetensors", b"", "too short"),
    ("model.onnx", bytes(range(8, 60)), "not a safetensors file"),
]


@pytest.mark.parametrize(("name", "content", "expected"), REFUSED)
def test_files_of_other_formats(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    for opener in (open_model, open_vae):
        with pytest.raises(ModelFileError, match=f"(?s){name}.*{expected}"):
            opener(tmp_path / name)


def test_nothing_of_a_pickle_is_executed(tmp_path: Path) -> None:
    """A pickle that would leave a file behind if anything unpickled it."""
    import pickle

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    for name in ("model.ckpt", "model.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(ModelFileError, match="pickle"):
            open_model(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("path", ["", "a\0b", "nowhere/at/all", "nowhere.safetensors", "models/nowhere.safetensors"])
def test_paths_that_lead_nowhere(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError):
        open_model(path)


def test_special_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        open_model(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ModelFileError, match="no such file"):
        open_model(tmp_path / "link")


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelFileError, match="empty folder"):
        open_model("~/model")


def test_a_healthy_file_of_something_else_is_refused_by_our_error(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "x.safetensors", {"layer.weight": np.zeros((2, 2), np.float32)})
    for opener in (open_model, open_vae):
        with pytest.raises(TinyDiffError, match=r"x\.safetensors"):
            opener(tmp_path / "x.safetensors")


def test_the_embedded_model_opens_as_any_packed_file() -> None:
    source = open_model()
    assert source.path == DEFAULT_MODEL
    assert set(source.components) == {"unet", "vae", "text_encoder"}
    assert all(component.tensors for component in source.components.values())
    assert source.defaults["num_inference_steps"] > 0
    assert open_model(None, vae=DEFAULT_MODEL).components["vae"].path == DEFAULT_MODEL
    assert open_model(None, vae=MASTER).components["vae"].path == MASTER / "vae"
    with pytest.raises((ModelFileError, UnsupportedModelError), match="unet"):
        open_model(None, vae=MASTER / "unet")
