"""A model's file that is cut, rewritten or replaced while it is in use: the next picture is refused, not wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import single_file, single_file_parts, write
from miniatures import write_folder

import tinydiff
from tinydiff.errors import ModelFileError
from tinydiff.packing import Recipe
from tinydiff.quantize import quantize
from tinydiff_weights.open import open_model


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def rewrite(file: Path) -> None:
    with open(file, "r+b") as stream:
        stream.seek(-4, os.SEEK_END)
        stream.write(b"\0\0\0\0")
    os.utime(file, ns=(1, 1))  # also where the clock is too coarse to tell


def replace(file: Path) -> None:
    new = file.with_suffix(".new")
    new.write_bytes(file.read_bytes())
    os.replace(new, file)


def folder(root: Path) -> tuple[Path, Path]:
    """(what is opened, the file of it that will change)"""
    model = write_folder(root / "folder", "bk_tiny")
    return model, model / "vae" / "diffusion_pytorch_model.safetensors"


def packed(root: Path) -> tuple[Path, Path]:
    path = root / "packed.safetensors"
    quantize(open_model(write_folder(root / "model", "bk_tiny")), path, Recipe("int8"))
    return path, path


def single(root: Path) -> tuple[Path, Path]:
    path = root / "single.safetensors"
    return write(path, single_file("bk_tiny", single_file_parts("bk_tiny"))), path


@pytest.mark.parametrize(
    ("change", "words"),
    [(cut, "was changed"), (rewrite, "was changed"), (replace, "was replaced")],
    ids=["cut", "rewritten", "replaced"],
)
@pytest.mark.parametrize("kind", [folder, packed, single], ids=lambda kind: kind.__name__)
def test_the_next_generation_notices(
    kind: Callable[[Path], tuple[Path, Path]], change: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    model, file = kind(tmp_path)
    pipe = tinydiff.Pipeline.from_pretrained(model, backend="reference")
    settings = {"width": 16, "height": 16, "num_inference_steps": 1, "seed": 1}
    pipe("a cat", **settings)  # type: ignore[arg-type]
    change(file)
    with pytest.raises(ModelFileError, match=f"{words} after it was opened. Load the model again") as caught:
        pipe("a cat", **settings)  # type: ignore[arg-type]
    assert caught.value.path == str(file)


def test_a_file_that_is_deleted_lives_on_in_its_mapping(tmp_path: Path) -> None:
    pipe = tinydiff.Pipeline.from_pretrained(write_folder(tmp_path, "sd1"), backend="reference")
    for file in tmp_path.glob("*/*.safetensors"):
        file.unlink()
    pipe("a cat", width=16, height=16, num_inference_steps=1)
