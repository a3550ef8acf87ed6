"""Damaged models, and files of other kinds: each is refused with what it is and what to do. Nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_tools import Cli, refused
from miniatures import write_folder

from tinydiff_weights.safetensors import open_safetensors
from tinydiff_weights.write import save_safetensors

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
POSITIONS = "text_model.embeddings.position_embedding.weight"
SCHEDULER = "scheduler/scheduler_config.json"
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "bk_tiny", "bk_tiny")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def _changed(part: str, change: Callable[[Arrays], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = {n: t.raw.copy() for n, t in open_safetensors(folder / part).tensors.items()}
        change(tensors)
        (folder / part).unlink()
        save_safetensors(folder / part, tensors)

    return apply


def _cut(part: str, size: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / part, size)


def _json(part: str, **values: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        table = json.loads((folder / part).read_text()) | values
        (folder / part).write_text(json.dumps(table))

    return apply


def _removed(part: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return apply


def _relabelled(part: str, dtype: bytes) -> Callable[[Path], None]:
    """Another name for the number format of the first F32 tensor, of the same length."""

    def apply(folder: Path) -> None:
        data = (folder / part).read_bytes()
        (folder / part).write_bytes(data.replace(b'"F32"', b'"%s"' % dtype, 1))

    return apply


CONV = "conv_in.weight"


def _shortened(tensors: Arrays) -> None:
    tensors[CONV] = tensors[CONV][:3]


def _filled(name: str, value: float) -> Callable[[Arrays], None]:
    return lambda tensors: tensors[name].fill(value)


FOLDERS: list[tuple[str, str, Callable[[Path], None]]] = [
    ("no index", "has no model_index.json", _removed("model_index.json")),
    ("index is not JSON", "model_index.json", lambda f: (f / "model_index.json").write_text("{")),
    ("another pipeline", "FluxPipeline|does not run", _json("model_index.json", _class_name="FluxPipeline")),
    ("no unet folder", "/unet|no such folder", _removed("unet")),
    ("no vae folder", "/vae|no such folder|--vae", _removed("vae")),
    ("no weights", "/unet|no weights", _removed(UNET)),
    ("weights cut in the data", f"{UNET}|truncated", _cut(UNET, 100_000)),
    ("weights cut in the header", f"{UNET}|truncated", _cut(UNET, 1000)),
    ("weights empty", UNET, _cut(UNET, 0)),
    ("weights of 7 bytes", UNET, _cut(UNET, 7)),
    ("wrong shape", f"{CONV}|[3, 4, 3, 3] instead of [16, 4, 3, 3]", _changed(UNET, _shortened)),
    ("missing tensor", f"1 missing: {CONV}", _changed(UNET, lambda t: t.pop(CONV))),
    ("unknown tensor", "1 unused: spare", _changed(UNET, lambda t: t.update(spare=np.ones(3, np.float32)))),
    ("unknown number format", f"{UNET}|F99", _relabelled(UNET, b"F99")),
    ("complex numbers", f"{UNET}|C64", _relabelled(UNET, b"C64")),
    ("whole numbers as weights", CONV, _changed(UNET, lambda t: t.update({CONV: t[CONV].astype(np.int64)}))),
    ("NaN in the UNet", f"unet|'{CONV[:-7]}'|NaN|damaged", _changed(UNET, _filled(CONV, np.nan))),
    ("infinity in the VAE", "vae|'decoder.conv_in'|damaged", _changed(VAE, _filled("decoder.conv_in.weight", np.inf))),
    ("NaN in the text encoder", "text_encoder|layer|NaN|damaged", _changed(TEXT, _filled(POSITIONS, np.nan))),
    ("unknown config key", "unet|'brand_new'", _json("unet/config.json", brand_new=7)),
    ("config with a wrong value", "unet|'layers_per_block'", _json("unet/config.json", layers_per_block="two")),
    ("unknown scheduler class", "'FancyScheduler'", _json(SCHEDULER, _class_name="FancyScheduler")),
    ("unknown scheduler key", "'betaz'|beta", _json(SCHEDULER, betaz=7)),
    ("text encoder of another width", "48", _json("unet/config.json", cross_attention_dim=48)),
]  # fmt: skip


@pytest.mark.parametrize(("words", "damage"), [r[1:] for r in FOLDERS], ids=[r[0] for r in FOLDERS])
def test_damaged_folders(cli: Cli, model: Path, words: str, damage: Callable[[Path], None]) -> None:
    copy = cli.folder / "copy"
    shutil.copytree(model, copy)
    damage(copy)
    refused(cli, 1, words, "generate", "a", "--model", copy, "--steps", "1", "--size", "16x16", "-o", "x.png")


def _tensors(*names: str, shape: tuple[int, ...] = (4, 4)) -> Callable[[Path], None]:
    return lambda path: save_safetensors(path, {name: np.zeros(shape, np.float32) for name in names})


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


LORA = "lora_unet_down_blocks_0_attentions_0_proj_in"
ENCODER = "encoder.down.0.block.0.conv1.weight"
JOINT = "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"
CONTROL = ("control_model.zero_convs.0.0.weight", "controlnet_mid_block.weight")
FILES: list[tuple[str, str, str, Callable[[Path], object]]] = [
    ("LoRA", "l.safetensors", "LoRA", _tensors(f"{LORA}.lora_down.weight", f"{LORA}.lora_up.weight")),
    ("VAE only", "v.safetensors", "VAE alone|--vae", _tensors(ENCODER, "decoder.conv_in.weight")),
    ("TAESD only", "t.safetensors", "TAESD|--vae", _tensors("encoder.layers.0.weight", "decoder.layers.1.weight")),
    ("SD3", "3.safetensors", "Stable Diffusion 3", _tensors(JOINT)),
    ("Flux", "f.safetensors", "Flux", _tensors("double_blocks.0.img_attn.qkv.weight")),
    ("ControlNet", "c.safetensors", "ControlNet", _tensors(*CONTROL)),
    ("textual inversion", "e.safetensors", "textual inversion", _tensors("emb_params", shape=(2, 768))),
    ("no known model", "n.safetensors", "no checkpoint|'something'", _tensors("something")),
    ("pickle by name", "m.ckpt", "pickle|torch.load", _bytes(b"not even that")),
    ("pickle by content", "m.safetensors", "pickle", _bytes(b"\x80\x02}q\x00.")),
    ("zip archive", "z.safetensors", "zip", _bytes(b"PK\x03\x04" + bytes(40))),
    ("GGUF", "g.gguf", "GGUF", _bytes(b"GGUF" + bytes(40))),
    ("picture", "p.png", "is a picture", _bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))),
    ("web page", "w.safetensors", "HTML", _bytes(b"<!DOCTYPE html><html></html>")),
    ("empty file", "0.safetensors", "0.safetensors", _bytes(b"")),
    ("random bytes", "r.safetensors", "r.safetensors", _bytes(bytes(range(256)))),
    ("empty folder", "folder", "empty folder", lambda path: path.mkdir()),
    ("a pipe", "p.safetensors", "not a regular file", lambda path: os.mkfifo(path)),
]  # fmt: skip


@pytest.mark.parametrize("command", [("generate", "a", "-o", "x.png", "--model"), ("info",)], ids=["generate", "info"])
@pytest.mark.parametrize(("name", "words", "make"), [r[1:] for r in FILES], ids=[r[0] for r in FILES])
def test_files_of_another_kind(
    cli: Cli, name: str, words: str, make: Callable[[Path], object], command: tuple[str, ...]
) -> None:
    path = cli.folder / name
    make(path)
    refused(cli, 1, words, *command, path)


def test_number_of_rows(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\ntables of bad models: {len(FOLDERS)} damaged folders, {len(FILES)} files x generate and info")
    assert (len(FOLDERS) >= 24, len(FILES) >= 17) == (True, True)
