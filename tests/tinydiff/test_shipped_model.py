"""The model in the package: one packed int8 file, made from the fp16 master by one command, that draws in every way."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from master import MASTER
from miniatures import write_folder
from numpy.typing import NDArray

import tinydiff
from tinydiff.errors import ModelFileError
from tinydiff.packing import Recipe
from tinydiff.quantize import quantize
from tinydiff.tokenizer import Tokenizer
from tinydiff_weights.open import DEFAULT_MODEL, open_model
from tinydiff_weights.packed import weights_of
from tinydiff_weights.packed_verify import verify

MB = 2**20
CALL: dict[str, Any] = {"seed": 1, "output_type": "np"}
SMALL: dict[str, Any] = {"width": 64, "height": 64}  # where nothing depends on the size
REMAKE = (
    "`tinydiff quantize weights/train/master weights/tinydiff_weights/default.safetensors --weights int8 --force` "
    "makes it again"
)


def draw(pipe: tinydiff.Pipeline, **settings: Any) -> NDArray[np.float32]:
    images: Any = pipe("a red apple", **CALL, **settings).images
    return np.asarray(images)


@lru_cache(maxsize=2)
def shipped(vae: str | None = None) -> tinydiff.Pipeline:
    return tinydiff.Pipeline.from_pretrained(vae=vae)


def test_the_committed_file_is_what_the_committed_master_gives(tmp_path: Path) -> None:
    path = tmp_path / "again.safetensors"
    quantize(open_model(MASTER), path, Recipe("int8"))
    assert path.read_bytes() == DEFAULT_MODEL.read_bytes(), REMAKE


def test_it_is_one_file_of_at_most_32_mb_with_everything_in_it() -> None:
    assert 4 * MB < DEFAULT_MODEL.stat().st_size <= 32 * MB
    source, master = open_model(), open_model(MASTER)
    verify(source)
    assert (source.path, source.kind, weights_of(source)) == (DEFAULT_MODEL, "packed", "int8")
    parts = {part.name: part for part in source.parts()}
    assert parts.keys() == {"text_encoder", "unet", "vae", "taesd"}
    for wanted in master.parts():
        found = parts[wanted.name]
        assert found.tensors.keys() == wanted.tensors.keys()
        assert dict(found.config) == dict(wanted.config)
    assert source.scheduler == master.scheduler
    assert source.few_steps is not None
    assert source.few_steps.default
    assert source.few_steps.tensors.keys() == master.few_steps.tensors.keys()  # type: ignore[union-attr]
    assert source.defaults == {key: value for key, value in master.defaults.items() if key != "few_steps"}
    ids = [Tokenizer(s.tokenizers["tokenizer"]).encode("a red apple, noto; Größe 7") for s in (source, master)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("steps", [4, 20])
def test_its_pictures_are_near_those_of_the_master(steps: int) -> None:
    """In few steps with the additions, and guided, in the model's own size: and their bits are those of weights
    quantised in memory."""
    picture = draw(shipped(), num_inference_steps=steps)
    exact = draw(master("float32"), num_inference_steps=steps)
    assert exact.std() > 0.05
    assert 10 * np.log10(1 / np.mean(np.square(picture - exact))) > 25
    np.testing.assert_array_equal(picture, draw(master("int8"), num_inference_steps=steps))


@lru_cache(maxsize=2)
def master(weights: str) -> tinydiff.Pipeline:
    return tinydiff.Pipeline.from_pretrained(MASTER, weights=weights)


def test_the_small_autoencoder_that_it_brings() -> None:
    """`vae="taesd"`: the bits of the master's folder, and another picture than the large one's."""
    picture = draw(shipped("taesd"), **SMALL, num_inference_steps=1)
    own = tinydiff.Pipeline.from_pretrained(vae=MASTER / "taesd")
    np.testing.assert_array_equal(picture, draw(own, **SMALL, num_inference_steps=1))
    assert np.abs(picture - draw(shipped(), **SMALL, num_inference_steps=1)).mean() > 0.001


def test_a_model_without_one_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "sd1", "sd1")
    with pytest.raises(ModelFileError, match=r"sd1': brings no TAESD. Name a folder or file of one"):
        open_model(folder, vae="taesd")
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "tiny", "sd1", taesd=True)
    (tmp_path / "tiny" / "vae").rename(tmp_path / "taesd")  # a path that exists wins
    assert open_model(folder, vae="taesd").components["vae"].path == Path("taesd")


@pytest.mark.parametrize("weights", ["float32", "float16", "int4"])
def test_other_weights_than_its_own(weights: str) -> None:
    pipe = tinydiff.Pipeline.from_pretrained(weights=weights)
    error = draw(pipe, **SMALL, num_inference_steps=4) - draw(shipped(), **SMALL, num_inference_steps=4)
    assert 0 < np.mean(np.square(error)) < 10 ** (-1.5)


def test_the_product_does_not_know_the_master() -> None:
    root = MASTER.parents[2]
    for package in ("tinydiff", "kernels/tinydiff_kernels", "weights/tinydiff_weights"):
        for file in (root / package).rglob("*.py"):
            assert "train/master" not in file.read_text(encoding="utf-8"), file
