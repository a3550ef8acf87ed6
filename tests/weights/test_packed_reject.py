"""Packed files that lie: refused by name when they are opened, or, where only reading all can tell, by `verify`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import write_folder
from packed_edit import LAYER, Edit, refused

from tinydiff.packing import Recipe
from tinydiff.quantize import quantize
from tinydiff_weights.open import open_model
from tinydiff_weights.packed_verify import verify

TOKENIZER = "model/tokenizers/tokenizer"
LARGE_TAESD = {"config": {"_class_name": "AutoencoderKL"}, "layers": [], "tensors": []}
FEW = {"steps": 4, "default": True, "tensors": ["unet.a.lora_A.weight"]}
UPSAMPLED = "vae/decoder.up_blocks.0.upsamplers.0.conv"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("reject")
    source = open_model(write_folder(folder / "model", "bk_tiny"))
    for weights in ("int8", "int4"):
        quantize(source, folder / f"{weights}.safetensors", Recipe(weights))
    return {weights: (folder / f"{weights}.safetensors").read_bytes() for weights in ("int8", "int4")}


def scale(value: float) -> Callable[[Edit], None]:
    def change(e: Edit) -> None:
        e.values(f"{LAYER}.scales", "<f4")[3] = value

    return change


def setting(key: str, value: Any, of: str = LAYER) -> Callable[[Edit], None]:
    return lambda e: e.layer(of).__setitem__(key, value)


def meta(path: str, value: Any) -> Callable[[Edit], None]:
    """Put a value at a path of the metadata; `...` takes the key away."""

    def change(e: Edit) -> None:
        *way, last = path.split("/")
        table = e.meta
        for key in way:
            table = table[key]
        if value is ...:
            del table[last]
        else:
            table[last] = value

    return change


def renamed(e: Edit) -> None:
    e.header[f"{LAYER}.scale"] = e.header.pop(f"{LAYER}.scales")


def added(e: Edit) -> None:
    e.header["unet/more"] = {"dtype": "U8", "shape": [3], "data_offsets": [len(e.data), len(e.data) + 3]}
    e.data += b"abc"


def reshaped(e: Edit) -> None:
    shape = e.header[f"{LAYER}.data"]["shape"]
    shape[1], shape[2] = shape[2], shape[1]


def unaligned(e: Edit) -> None:
    e.header["padding.first"] = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}
    for name, row in e.header.items():
        if name not in ("__metadata__", "padding.first"):
            row["data_offsets"] = [offset + 2 for offset in row["data_offsets"]]
    e.data[:0] = b"\0\0"


def listed_twice(e: Edit) -> None:
    e.meta["components"]["unet"]["tensors"] *= 2


def sum_beyond(e: Edit) -> None:
    e.values(f"{LAYER}.sums", "<i4")[1] = 2**31 - 1


def retyped(e: Edit) -> None:
    e.header["unet/conv_norm_out.weight"]["dtype"] = "I32"


def resized(name: str, *shape: int) -> Callable[[Edit], None]:
    """A tensor of another shape, with a file that is whole: what follows moves."""

    def change(e: Edit) -> None:
        row = e.header[name]
        begin, end = row["data_offsets"]
        size = (end - begin) // math.prod(row["shape"]) * math.prod(shape)
        old = bytes(e.data[begin:end])
        e.data[begin:end] = (old * (size // len(old) + 1))[:size]
        row["shape"], row["data_offsets"] = list(shape), [begin, begin + size]
        for key, other in e.header.items():
            if key not in ("__metadata__", name) and other["data_offsets"][0] >= end:
                other["data_offsets"] = [offset + size - (end - begin) for offset in other["data_offsets"]]

    return change


OPENING: dict[str, tuple[str, Callable[[Edit], None]]] = {
    "scale NaN": ("'unet/down_blocks.0.resnets.0.conv1.scales': has a scale that is negative, inf", scale(np.nan)),
    "scale infinite": ("has a scale that is negative, infinite", scale(np.inf)),
    "scale negative": ("has a scale that is negative", scale(-1)),
    "scale zero": ("has a scale of zero", scale(0)),
    "scales too many": (r"scales': is F32 \[32\], but its layer .* needs F32", resized(f"{LAYER}.scales", 32)),
    "a sum for each tap": (r"sums': is I32 \[16, 9\], but its layer .* needs I32", resized(f"{LAYER}.sums", 16, 9)),
    "sum beyond any": ("has a sum that no such column can have", sum_beyond),
    "scales missing": (r"scales': is in the metadata, but not in the file", renamed),
    "tensor nobody knows": ("'unet/more': is in the file, but not in its metadata", added),
    "data of another shape": (r"data': is I8 \[1, 4, 9, 16, 4\], but its layer .* needs I8 \[1, 9, 4", reshaped),
    "not aligned": ("is not aligned", unaligned),
    "listed twice": ("listed twice|is in the metadata, but not in the file", listed_twice),
    "norm of integers": ("conv_norm_out.weight': is I32, not F32 or F16", retyped),
    "shape that lies": ("needs I8", setting("shape", [32, 32, 3, 3])),
    "shape of texts": (r"its shape \[-1, 16", setting("shape", ["32", 16, 3, 3])),
    "shape of nothing": (r"its shape \[0, 16", setting("shape", [0, 16, 3, 3])),
    "shape beyond all": (r"its shape \[\d+, 16", setting("shape", [2**40, 16, 3, 3])),
    "kind of another": ("needs U8", setting("kind", "i4")),
    "kind unknown": ("its kind is 'i2'; known are f32", setting("kind", "i2")),
    "use unknown": ("its use is 'twisted'", setting("use", "twisted")),
    "gated convolution": ("a gated layer has an even number", setting("use", "gated")),
    "upsampled 2x2": ("upsampled convolution is 3x3", setting("shape", [32, 16, 2, 2], UPSAMPLED)),
    "upsampled halves": ("a sum of halves", setting("kind", "f16", UPSAMPLED)),
    "bias denied": ("is in the file, but not in its metadata", setting("bias", False)),
    "bias of text": ("'bias' of a layer of unet is 'yes'", setting("bias", "yes")),
    "snr of text": ("'snr' is 'good'", setting("snr", "good")),
    "version": (r"packed file of version '2'; this is 1", meta("format_version", "2")),
    "no version": ("of version ''", meta("format_version", ...)),
    "no model": ("without 'model'", meta("model", ...)),
    "model no JSON": ("its metadata 'model' is not valid JSON", meta("model", "{,")),
    "model NaN": ("NaN is no JSON number", meta("model", '{"family": NaN}')),
    "model deep": ("nested too deeply", meta("model", '{"a":' + "[" * 100_000)),
    "no unet": ("has no unet|has tokenizers", meta("components/unet", ...)),
    "unknown network": ("has a component 'safety'", meta("components/safety", {})),
    "network of another class": ("unet is a 'VQModel'", meta("components/unet/config/_class_name", "VQModel")),
    "TAESD of another class": ("taesd is a 'AutoencoderKL', not Auto", meta("components/taesd", LARGE_TAESD)),
    "layers no list": ("'layers' of unet is 3", meta("components/unet/layers", 3)),
    "family": ("family is 'sd9'", meta("model/family", "sd9")),
    "pipeline": ("pipeline_class is 'Flux'", meta("model/pipeline_class", "Flux")),
    "defaults": ("default width is -5", meta("model/defaults", {"width": -5})),
    "tokenizers": ("has tokenizers", meta("model/tokenizers", {})),
    "tokenizer length": ("'model_max_length' of tokenizer is 5000", meta(f"{TOKENIZER}/model_max_length", 5000)),
    "few steps": ("'few_steps' is no object", meta("model/few_steps", 4)),
    "few steps missing": ("'few_steps/unet.a.lora_A.weight': is in the metadata", meta("model/few_steps", FEW)),
}  # fmt: skip


@pytest.mark.parametrize("name", OPENING)
def test_refused_when_it_is_opened(files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    words, change = OPENING[name]
    edit = Edit(files["int8"])
    change(edit)
    refused(edit.bytes(), tmp_path / "x.safetensors", words)


def groups(size: int) -> Callable[[Edit], None]:
    """Of an int4 layer of 9 taps: a group scale for so many inputs, of which a group has 32."""

    def change(e: Edit) -> None:
        panels, taps, *_ = e.header[f"{LAYER}.group_scales"]["shape"]
        resized(f"{LAYER}.group_scales", panels, taps, 32 // size, 16)(e)

    return change


INT4 = {
    "groups of 16": (r"group_scales': is U8 \[\d, 9, 2, 16\], but its layer .* needs U8 \[\d, 9, 1, 16\]", groups(16)),
    "groups of 8": (r"group_scales': is U8 \[\d, 9, 4, 16\], but its layer .* needs U8", groups(8)),
    "groups unknown": ("is U8 .* needs F32", setting("kind", "f32")),
    "a byte for each number": ("data': is U8 .* needs I8", setting("kind", "i8")),
    "scale NaN": ("scales': has a scale that is negative, infinite or no number", scale(np.nan)),
}  # fmt: skip


@pytest.mark.parametrize("name", INT4)
def test_int4_is_refused_when_it_is_opened(files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    words, change = INT4[name]
    edit = Edit(files["int4"])
    change(edit)
    refused(edit.bytes(), tmp_path / "x.safetensors", words)


def narrower(e: Edit) -> None:
    e.meta["components"]["unet"]["config"]["block_out_channels"][0] //= 2


def without_layer(e: Edit) -> None:
    """Consistent in itself, but the network needs the layer."""
    e.meta["components"]["unet"]["layers"].remove(e.layer())
    for part in ("data", "scales", "sums", "bias"):
        e.header[f"padding.{part}"] = e.header.pop(f"{LAYER}.{part}")


def other_vocabulary(e: Edit) -> None:
    e.values("tokenizer/vocabulary", "u1")[:3] = 255


BUILDING = {
    "config that disagrees": ("do not fit the network|shape", narrower),
    "layer left out": ("1 missing|2 missing", without_layer),
    "unknown config key": ("sparkle", meta("components/unet/config/sparkle", 3)),
    "vocabulary": ("vocabulary that is not UTF-8", other_vocabulary),
}


@pytest.mark.parametrize("name", BUILDING)
def test_refused_when_it_is_built(files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    words, change = BUILDING[name]
    edit = Edit(files["int8"])
    change(edit)
    refused(edit.bytes(), tmp_path / "x.safetensors", words, build=True)


def poke(name: str, dtype: str, value: float) -> Callable[[Edit], None]:
    def change(e: Edit) -> None:
        e.values(name, dtype)[0] = value

    return change


def sums(e: Edit) -> None:
    e.values(f"{LAYER}.sums", "<i4")[5] += 1


def flipped(e: Edit) -> None:
    e.values(f"{LAYER}.data", "i1")[0] ^= 1


VERIFYING = {
    "wrong column sum": ("int8", "conv1.sums': is not the sum", sums),
    "weight changed": ("int8", "conv1.sums': is not the sum", flipped),
    "weight -128": ("int8", "has an integer beyond 127", poke(f"{LAYER}.data", "i1", -128)),
    "group scale 0": ("int4", "group scale that is not 1 to 63", poke(f"{LAYER}.group_scales", "u1", 0)),
    "group scale 64": ("int4", "group scale that is not 1 to 63", poke(f"{LAYER}.group_scales", "u1", 64)),
    "nibble -8": ("int4", "has an integer beyond 7", poke(f"{LAYER}.data", "u1", 0x88)),
    "norm NaN": ("int8", "conv_norm_out.weight': holds NaN", poke("unet/conv_norm_out.weight", "<f4", np.nan)),
    "padding": ("int8", "is padding, but not zero", poke("padding.0", "u1", 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", VERIFYING)
def test_refused_when_it_is_verified(files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    weights, words, change = VERIFYING[name]
    edit = Edit(files[weights])
    change(edit)
    open_model(write(tmp_path / "y.safetensors", edit.bytes()))  # nothing that is cheap to see
    refused(edit.bytes(), tmp_path / "x.safetensors", words, whole=True)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_untouched_files_pass(files: dict[str, bytes], tmp_path: Path) -> None:
    for weights, content in files.items():
        verify(open_model(write(tmp_path / f"{weights}.safetensors", Edit(content).bytes())))
