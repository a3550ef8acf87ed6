"""`weights="int8"` of a large model: a packed copy in the cache folder, made once; and the commands around it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from cli_tools import Cli, refused
from miniatures import write_folder
from PIL import Image

import tinydiff
from tinydiff import packed_cache
from tinydiff.errors import ModelFileError
from tinydiff.packing import Recipe
from tinydiff.quantize import quantize
from tinydiff_weights.open import open_model


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Its cache folder is an empty one, and every model counts as large."""
    monkeypatch.setattr(packed_cache, "SMALL", 0)
    return Cli(tmp_path, monkeypatch, capsys)


@pytest.fixture
def model(cli: Cli) -> Path:
    return write_folder(cli.folder / "bk", "bk_tiny")


def copies(cli: Cli) -> list[Path]:
    return sorted((cli.folder / "cache" / "tinydiff" / "models").glob("*"))


def test_made_once_and_mapped(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = {"seed": 3, "num_inference_steps": 1, "output_type": "np"}
    pipe = tinydiff.Pipeline.from_pretrained(model, weights="int8")
    (copy,) = copies(cli)
    assert copy.name.startswith("bk-")
    assert copy.name.endswith("-int8.safetensors")
    assert pipe.model.source.path == copy
    assert pipe.model.source.origin is not None
    assert pipe.model.source.origin.path == model
    written = copy.stat().st_mtime_ns
    again = tinydiff.Pipeline.from_pretrained(model, weights="int8")
    assert (copies(cli), copy.stat().st_mtime_ns) == ([copy], written)
    monkeypatch.setattr(packed_cache, "SMALL", 2**40)
    in_memory = tinydiff.Pipeline.from_pretrained(model, weights="int8")
    assert in_memory.model.source.path == model
    for other in (again, in_memory):
        np.testing.assert_array_equal(pipe("a cat", **call).images, other("a cat", **call).images)  # type: ignore[arg-type]


def test_another_source_gets_another_copy(cli: Cli, model: Path) -> None:
    for weights in ("int8", "int4"):
        tinydiff.Pipeline.from_pretrained(model, weights=weights)
    assert len(copies(cli)) == 2
    os.utime(model / "unet" / "diffusion_pytorch_model.safetensors", ns=(1, 1))
    tinydiff.Pipeline.from_pretrained(model, weights="int8")
    assert len(copies(cli)) == 3
    tinydiff.Pipeline.from_pretrained(model)
    tinydiff.Pipeline.from_pretrained(model, weights="float16")
    assert len(copies(cli)) == 3


def test_a_damaged_copy_is_made_again(cli: Cli, model: Path) -> None:
    tinydiff.Pipeline.from_pretrained(model, weights="int8")
    (copy,) = copies(cli)
    whole = copy.read_bytes()
    copy.unlink()
    copy.write_bytes(whole[:-100])
    tinydiff.Pipeline.from_pretrained(model, weights="int8")
    assert copy.read_bytes() == whole


def test_a_cache_folder_that_cannot_be(cli: Cli, model: Path) -> None:
    (cli.folder / "cache" / "tinydiff").mkdir(parents=True, exist_ok=True)
    (cli.folder / "cache" / "tinydiff" / "models").write_text("in the way")
    with pytest.raises(ModelFileError, match=r"models': cannot be made: File exists\. Set XDG_CACHE_HOME"):
        tinydiff.Pipeline.from_pretrained(model, weights="int8")


# ------------------------------------------------------------------------------------------------ commands


def test_generate_says_where_the_copy_is(cli: Cli, model: Path) -> None:
    given = ("generate", "a cat", "--model", model, "--weights", "int8", "--steps", "1", "--seed", "1", "-o")
    first, second = cli(*given, "a.png"), cli(*given, "b.png")
    assert (first.code, second.code) == (0, 0), first.err
    assert f"tinydiff: packed copy: {copies(cli)[0]}\n" in first.err
    pictures = [np.asarray(Image.open(name)) for name in ("a.png", "b.png")]
    np.testing.assert_array_equal(*pictures)
    assert b"Model: bk," in Path("a.png").read_bytes()  # the model that was asked for, not its copy


def test_quantize_and_info(cli: Cli, model: Path) -> None:
    result = cli(
        "quantize", model, "x.safetensors", "--weights", "mixed", "--keep", "unet.conv_out", "--wide", "float16"
    )
    assert (result.code, result.out) == (0, "x.safetensors\n"), result.err
    assert "layers: " in result.err
    assert "least exact: " in result.err
    found = json.loads(cli("info", "x.safetensors", "--json", "--verify").out)
    assert (found["kind"], found["problem"]) == ("packed", None)
    assert {"packed int8", "packed int4", "F16", "F32"} == set(found["components"]["unet"]["dtypes"])
    assert found["packed"]["recipe"]["keep"] == ["unet.conv_out"]
    assert "packed        mixed, by tinydiff " in cli("info", "x.safetensors").out
    quiet = cli("quantize", model, "x.safetensors", "--weights", "int8", "--force", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    refused(cli, 1, "is no packed file", "info", model, "--verify")


def test_what_the_command_refuses(cli: Cli, model: Path) -> None:
    quantize(open_model(model), "there.safetensors", Recipe("int8"))
    refused(cli, 2, "--weights is missing", "quantize", model, "x.safetensors")
    refused(cli, 2, "unknown weights 'int7'|int", "quantize", model, "x.safetensors", "--weights", "int7")
    refused(cli, 2, "unknown wide 'half'", "quantize", model, "x.safetensors", "--weights", "int8", "--wide", "half")
    refused(
        cli,
        2,
        "target_size belongs to",
        "quantize",
        model,
        "x.safetensors",
        "--weights",
        "int8",
        "--target-size",
        "1MB",
    )
    refused(
        cli,
        2,
        "--target-size '1MX' is not a size",
        "quantize",
        model,
        "x.safetensors",
        "--weights",
        "mixed",
        "--target-size",
        "1MX",
    )
    refused(
        cli,
        2,
        "no layer matches 'nothing'",
        "quantize",
        model,
        "x.safetensors",
        "--weights",
        "int8",
        "--keep",
        "nothing",
    )
    refused(cli, 1, "exists|--force", "quantize", model, "there.safetensors", "--weights", "int8")
    refused(cli, 2, "packed already", "quantize", "there.safetensors", "x.safetensors", "--weights", "int8")
    refused(cli, 2, "NAME.safetensors", "quantize", model, "x.gguf", "--weights", "int8")
