"""Folders that diffusers and transformers write themselves, opened: the same names, the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tinydiff_weights.folder import open_folder
from tinydiff_weights.open import open_vae
from tinydiff_weights.safetensors import StoredTensor, open_safetensors
from tinydiff_weights.source import ModelSource


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32, 64), latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=8, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["a", "b", "a</w>", "b</w>", "ab</w>", "!", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    return StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=CLIPTokenizer.from_pretrained(folder), unet=unet,
        scheduler=PNDMScheduler(steps_offset=1), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def states(pipeline: StableDiffusionPipeline) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each network under the names of the hub."""
    text = {
        n if n.startswith("text_model.") else f"text_model.{n}": t
        for n, t in pipeline.text_encoder.state_dict().items()
    }
    text = {n: t for n, t in text.items() if not n.endswith("position_ids")}
    return {"unet": pipeline.unet.state_dict(), "vae": pipeline.vae.state_dict(), "text_encoder": text}


def assert_same(source: ModelSource, expected: dict[str, dict[str, torch.Tensor]]) -> None:
    for part, state in expected.items():
        tensors = source.components[part].tensors
        assert tensors.keys() == state.keys()
        for name, tensor in state.items():
            ours = tensors[name].float32()
            assert ours.tobytes() == tensor.float().numpy().tobytes(), name


def test_folder_shards_and_variants_have_the_same_bits(pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    expected = states(pipeline)
    pipeline.save_pretrained(tmp_path / "plain")
    pipeline.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    shards = sorted((tmp_path / "sharded/unet").glob("*-of-*.safetensors"))
    assert len(shards) > 2
    for folder in ("plain", "sharded"):
        source = open_folder(tmp_path / folder)
        assert_same(source, expected)
        assert source.scheduler["_class_name"] == "PNDMScheduler"
        assert source.components["unet"].config["block_out_channels"] == [32, 64]
        assert source.tokenizers["tokenizer"].pad_token == "<|endoftext|>"
    print(f"{sum(map(len, expected.values()))} tensors, {len(shards)} UNet shards")


@pytest.mark.parametrize("shard", [None, "60KB"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_variants_are_the_rounded_weights(
    pipeline: StableDiffusionPipeline, tmp_path: Path, dtype: torch.dtype, shard: str | None
) -> None:
    expected = {p: {n: t.to(dtype) for n, t in s.items()} for p, s in states(pipeline).items()}
    name = "fp16" if dtype == torch.float16 else "bf16"
    for part in ("unet", "vae", "text_encoder"):
        getattr(pipeline, part).to(dtype)
    try:
        pipeline.save_pretrained(tmp_path, variant=name, **({"max_shard_size": shard} if shard else {}))
    finally:
        for part in ("unet", "vae", "text_encoder"):
            getattr(pipeline, part).to(torch.float32)
    files = sorted(p.name for p in (tmp_path / "unet").iterdir())
    assert all(name in f for f in files if "safetensors" in f), files
    source = open_folder(tmp_path)
    assert {t.dtype for t in source.components["unet"].tensors.values()} == {"F16" if name == "fp16" else "BF16"}
    assert_same(source, expected)


def test_old_attention_names_load_as_in_diffusers(pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    pipeline.vae.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    state = {}
    for name, tensor in load_file(path).items():
        for new, before in old.items():
            name = name.replace(new, before)
        state[name] = tensor
    assert sum(".query." in n for n in state) == 4
    save_file(state, path)
    theirs = AutoencoderKL.from_pretrained(tmp_path).state_dict()
    ours = open_vae(tmp_path).tensors
    assert ours.keys() == theirs.keys()
    assert all(ours[n].float32().tobytes() == t.numpy().tobytes() for n, t in theirs.items())


def test_taesd_folder(tmp_path: Path) -> None:
    vae = AutoencoderTiny()
    vae.save_pretrained(tmp_path)
    component = open_vae(tmp_path)
    assert component.config["_class_name"] == "AutoencoderTiny"
    assert component.tensors.keys() == vae.state_dict().keys()


PADS = [
    ({}, None),
    ({"pad_token": "!"}, None),
    ({"pad_token": "<|endoftext|>"}, {"pad_token": "!"}),
    ({"pad_token": "<|endoftext|>"}, {"pad_token": {"content": "!", "lstrip": False, "normalized": True}}),
    ({"pad_token": "!", "added_tokens_decoder": {}}, {"pad_token": "<|endoftext|>"}),
]


@pytest.mark.parametrize(("config", "special"), PADS)
def test_pad_token_as_transformers_finds_it(
    pipeline: StableDiffusionPipeline, tmp_path: Path, config: dict[str, object], special: dict[str, object] | None
) -> None:
    pipeline.save_pretrained(tmp_path)
    folder = tmp_path / "tokenizer"
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    for extra in list(folder.iterdir()):
        extra.unlink()
    words = ["a", "b", "a</w>", "b</w>", "ab</w>", "!", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **config}))
    if special is not None:
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
    assert open_folder(tmp_path).tokenizers["tokenizer"].pad_token == CLIPTokenizer.from_pretrained(folder).pad_token


TORCH = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.bool: "BOOL",
}


@pytest.mark.parametrize("dtype", TORCH)
def test_every_format_converts_as_torch_converts(tmp_path: Path, dtype: torch.dtype) -> None:
    """All 256 or 65536 patterns of the narrow formats, random ones of the wide; NaN where torch has NaN."""
    if dtype == torch.bool:
        values = torch.tensor([True, False])
    else:
        size = torch.empty(0, dtype=dtype).element_size()
        count = {1: 256, 2: 65536}.get(size, 4096)
        bits = np.arange(count, dtype=f"u{size}") if size <= 2 else np.random.default_rng(1).integers(0, 2**63, count)
        if size == 4:
            bits = (bits & 0xFFFFFFFF).astype(np.uint32)
        values = torch.from_numpy(bits.view(f"i{size}")).view(dtype)
    save_file({"x": values}, tmp_path / "x.safetensors")
    tensor: StoredTensor = open_safetensors(tmp_path / "x.safetensors").tensors["x"]
    assert tensor.dtype == TORCH[dtype]
    np.testing.assert_array_equal(tensor.float32(), values.float().numpy())
