"""Families and configs from tensors alone: what is inferred builds networks of exactly the file's shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import CHECKPOINTS, components, configs, single_file, write
from miniatures import VAES, declared_shapes

from tinydiff_weights.detect import UNetLayout, recognise, unet_config, unet_layout
from tinydiff_weights.detect_vae import from_tiny_half, is_tiny_half, tiny_vae_config, vae_config
from tinydiff_weights.errors import ModelFileError, UnsupportedModelError
from tinydiff_weights.safetensors import StoredTensor
from tinydiff_weights.singlefile import open_single_file

PATH = Path("some.safetensors")


def stored(arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, StoredTensor]:
    return {n: StoredTensor.from_array(n, a) for n, a in arrays.items()}


def unet(kind: str) -> dict[str, StoredTensor]:
    return stored(components(kind)["unet"])


def with_shape(tensors: dict[str, StoredTensor], name: str, shape: tuple[int, ...]) -> dict[str, StoredTensor]:
    return {**tensors, name: StoredTensor.from_array(name, np.zeros(shape, np.float16))}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_the_inferred_configs_build_networks_of_the_shapes_in_the_file(kind: str, tmp_path: Path) -> None:
    source = open_single_file(write(tmp_path / "m.safetensors", single_file(kind)))
    for component in source.components.values():
        built = declared_shapes(
            str(component.config.get("_class_name") or component.config["architectures"][0]), component.config
        )
        assert built == {n: t.shape for n, t in component.tensors.items()}, component.name


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_the_inferred_unet_config_is_the_one_it_was_made_from(kind: str) -> None:
    config = CHECKPOINTS[kind]
    layout = unet_layout(unet(kind), PATH)
    family, _ = recognise(layout, PATH)
    pooled = 20 if family == "sdxl" else None
    found = unet_config(layout, family, sample_size=config.unet["sample_size"], pooled=pooled)
    wanted = {**config.unet}
    if kind == "ssd1b":  # a number says the same as a list of equal numbers
        wanted["transformer_layers_per_block"] = [1, 2, 4]
    assert family == config.family
    assert {k: found[k] for k in wanted if k in found} == {k: v for k, v in wanted.items() if k in found}
    assert wanted.keys() - found.keys() <= {"_diffusers_version"}


@pytest.mark.parametrize(
    ("family", "context", "linear", "heads"),
    [("sd1", 768, False, 8), ("sd1", 768, True, 8), ("sd2", 1024, True, [5, 10, 20, 20])],
)
def test_published_widths(family: str, context: int, linear: bool, heads: Any) -> None:
    layout = unet_layout(unet("sd1"), PATH)
    wide = tuple(type(s)(c, s.depths) for s, c in zip(layout.down, (320, 640, 1280, 1280), strict=True))
    real = UNetLayout(wide, wide[::-1], 1, 4, 4, context, linear, None, None)
    assert recognise(real, PATH)[0] == family
    assert unet_config(real, family, sample_size=64)["attention_head_dim"] == heads


def test_published_sdxl_numbers() -> None:
    layout = unet_layout(unet("sdxl"), PATH)
    wide = tuple(type(s)(c, s.depths) for s, c in zip(layout.down, (320, 640, 1280), strict=True))
    real = UNetLayout(wide, layout.up, layout.middle, 4, 4, 2048, True, 2816, None)
    config = unet_config(real, "sdxl", sample_size=128, pooled=1280)
    assert config["attention_head_dim"] == [5, 10, 20]
    assert config["addition_time_embed_dim"] == 256
    assert config["projection_class_embeddings_input_dim"] == 2816
    assert unet_config(real, "sdxl", sample_size=128)["addition_time_embed_dim"] == 256


# ------------------------------------------------------------------------------------------------ other UNets


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"in_channels": 5}, "depth-to-image"),
        ({"in_channels": 7}, "x4 upscaler"),
        ({"in_channels": 8}, "InstructPix2Pix"),
        ({"in_channels": 3}, "3 input and 4 output channels"),
        ({"out_channels": 8}, "4 input and 8 output channels"),
    ],
)
def test_channels_of_other_models(changes: dict[str, int], says: str) -> None:
    tensors = unet("sd1")
    if "in_channels" in changes:
        tensors = with_shape(tensors, "conv_in.weight", (32, changes["in_channels"], 3, 3))
    else:
        tensors = with_shape(tensors, "conv_out.weight", (changes["out_channels"], 32, 3, 3))
    with pytest.raises(UnsupportedModelError, match=rf"some\.safetensors.*{says}"):
        recognise(unet_layout(tensors, PATH), PATH)


def test_an_added_embedding_beside_attention_everywhere_is_unclip() -> None:
    tensors = with_shape(unet("sd2"), "add_embedding.linear_1.weight", (128, 2048))
    with pytest.raises(UnsupportedModelError, match="unCLIP"):
        recognise(unet_layout(tensors, PATH), PATH)


def test_an_added_embedding_over_four_stages_is_the_refiner() -> None:
    layout = unet_layout(unet("sdxl"), PATH)
    four = UNetLayout((*layout.down, layout.down[0]), layout.up, 4, 4, 4, 1280, True, 2560, None)
    with pytest.raises(UnsupportedModelError, match=r"SDXL refiner.*SDXL base"):
        recognise(four, PATH)


@pytest.mark.parametrize(
    ("gone", "error", "says"),
    [
        ("up_blocks.1.resnets.2.", ModelFileError, "do not mirror"),
        ("up_blocks.3.", ModelFileError, "do not mirror"),
        ("down_blocks.", ModelFileError, "do not mirror"),
        ("mid_block.resnets.1.", UnsupportedModelError, "1 resnets and 1 transformer"),
        ("down_blocks.0.attentions.1.", UnsupportedModelError, "some of its layers only"),
        ("down_blocks.1.resnets.0.conv1.", ModelFileError, "is missing"),
        ("conv_in.", ModelFileError, "conv_in.weight"),
    ],
)
def test_structures_that_no_config_describes(gone: str, error: type[Exception], says: str) -> None:
    tensors = {n: t for n, t in unet("sd1").items() if not n.startswith(gone)}
    with pytest.raises(error, match=says):
        unet_layout(tensors, PATH)


def test_a_unet_without_cross_attention_is_refused() -> None:
    tensors = {n: t for n, t in unet("sd1").items() if "attentions" not in n}
    del_middle = {n: t for n, t in tensors.items() if not n.startswith("mid_block")}
    with pytest.raises(UnsupportedModelError, match="no cross-attention"):
        unet_layout(del_middle, PATH)


def test_a_middle_block_deeper_than_its_neighbours_is_refused() -> None:
    layout = unet_layout(unet("sdxl"), PATH)
    deep = UNetLayout(layout.down, layout.up, 9, 4, 4, 56, True, 68, None)
    with pytest.raises(UnsupportedModelError, match="9 transformer blocks deep"):
        unet_config(deep, "sdxl", sample_size=128)


@pytest.mark.parametrize("name", ["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"])
def test_shapes_with_too_few_axes_are_our_error(name: str) -> None:
    with pytest.raises(ModelFileError, match=r"some\.safetensors.*too few axes"):
        unet_layout(with_shape(unet("sd1"), name, ()), PATH)


# -------------------------------------------------------------------------------------------------------- VAEs


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", None])
def test_vae_config(family: str | None) -> None:
    found = vae_config(stored(components("sd1")["vae"]), PATH, family=family)
    wanted = {**configs("sd1")["vae"], "sample_size": 512, "force_upcast": family == "sdxl"}
    factor = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}
    assert found.get("scaling_factor") == (factor[family] if family else None)
    same = wanted.keys() & found.keys() - {"scaling_factor"}
    assert {k: found[k] for k in same} == {k: wanted[k] for k in same}


def test_vae_without_quant_convolutions_and_attention() -> None:
    arrays = components("sd1")["vae"]
    tensors = stored({n: a for n, a in arrays.items() if "quant_conv" not in n and "attentions" not in n})
    found = vae_config(tensors, PATH, family="sd1")
    assert (found["use_quant_conv"], found["use_post_quant_conv"]) == (False, False)
    assert found["mid_block_add_attention"] is False
    assert declared_shapes("AutoencoderKL", found) == {n: t.shape for n, t in tensors.items()}


@pytest.mark.parametrize("gone", ["encoder.", "decoder.up_blocks.0.resnets.2.", "encoder.down_blocks.3."])
def test_vae_halves_that_do_not_match(gone: str) -> None:
    tensors = {n: t for n, t in stored(components("sd1")["vae"]).items() if not n.startswith(gone)}
    with pytest.raises(ModelFileError, match="do not match"):
        vae_config(tensors, PATH, family="sd1")


def test_a_vae_of_sixteen_latent_channels_is_of_a_later_model() -> None:
    tensors = with_shape(stored(components("sd1")["vae"]), "decoder.conv_in.weight", (64, 16, 3, 3))
    with pytest.raises(UnsupportedModelError, match="16 latent channels, of SD3, Flux"):
        vae_config(tensors, PATH, family="sd1")


@pytest.mark.parametrize("name", ["taesd", "taesd_three"])
def test_taesd_config(name: str) -> None:
    shapes = declared_shapes("AutoencoderTiny", VAES[name])
    tensors = stored({n: np.zeros(s, np.float16) for n, s in shapes.items()})
    found = tiny_vae_config(tensors, PATH)
    assert {k: found[k] for k in VAES[name] if k in found} == {k: v for k, v in VAES[name].items() if k in found}
    assert declared_shapes("AutoencoderTiny", found) == shapes


def test_taesd_of_a_later_model() -> None:
    shapes = declared_shapes("AutoencoderTiny", VAES["taesd"])
    tensors = stored({n: np.zeros(s, np.float16) for n, s in shapes.items()})
    with pytest.raises(UnsupportedModelError, match="16 latent channels"):
        tiny_vae_config(with_shape(tensors, "decoder.layers.0.weight", (8, 16, 3, 3)), PATH)


@pytest.mark.parametrize("names", [[], ["decoder.layers.0.weight"], ["encoder.layers.0.conv.0.weight"] * 3])
def test_taesd_halves_that_are_none(names: list[str]) -> None:
    with pytest.raises(ModelFileError, match="Both halves"):
        tiny_vae_config(stored({n: np.zeros((4, 4, 3, 3), np.float16) for n in names}), PATH)


def test_taesd_numbering() -> None:
    assert is_tiny_half(["0.weight", "0.bias", "1.conv.0.weight", "2.weight"]) == "encoder"
    assert is_tiny_half(["1.weight", "3.conv.2.bias", "3.skip.weight"]) == "decoder"
    assert is_tiny_half(["1.weight", "other"]) is None
    assert is_tiny_half([]) is None
    half = stored(
        {"1.weight": np.zeros((8, 4, 3, 3), np.float16), "3.conv.0.weight": np.zeros((8, 8, 3, 3), np.float16)}
    )
    assert list(from_tiny_half(half, "decoder")) == ["decoder.layers.0.weight", "decoder.layers.2.conv.0.weight"]
    assert list(from_tiny_half(half, "encoder")) == ["encoder.layers.1.weight", "encoder.layers.3.conv.0.weight"]
