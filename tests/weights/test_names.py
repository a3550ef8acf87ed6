"""Names of single files to diffusers names: every block structure, as views, with every tensor accounted for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import CHECKPOINTS, components, open_clip_names, single_file, write

from tinydiff_weights import name_tables
from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.names import map_clip, map_open_clip, map_unet, map_vae
from tinydiff_weights.safetensors import StoredTensor, open_safetensors

UNET, VAE = "model.diffusion_model.", "first_stage_model."


def below(kind: str, prefix: str) -> dict[str, StoredTensor]:
    arrays = single_file(kind)
    return {n.removeprefix(prefix): StoredTensor.from_array(n, a) for n, a in arrays.items() if n.startswith(prefix)}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_the_unet_comes_out_as_diffusers_names_it(kind: str) -> None:
    mapped = map_unet(below(kind, UNET))
    wanted = components(kind)["unet"]
    assert (mapped.missing, mapped.unmatched) == ((), ())
    assert mapped.tensors.keys() == wanted.keys()
    for name, array in wanted.items():
        assert mapped.tensors[name].name == name
        assert mapped.tensors[name].raw.tobytes() == array.tobytes(), name


def test_the_vae_comes_out_as_diffusers_names_it() -> None:
    mapped = map_vae(below("sd1", VAE))
    wanted = components("sd1")["vae"]
    assert (mapped.missing, mapped.unmatched) == ((), ())
    assert mapped.tensors.keys() == wanted.keys()
    for name, array in wanted.items():
        assert mapped.tensors[name].shape == array.shape, name
        assert mapped.tensors[name].raw.tobytes() == array.tobytes(), name


@pytest.mark.parametrize("wrapped", [True, False])
def test_transformers_text_names_with_and_without_text_model(wrapped: bool) -> None:
    wanted = components("sd1")["text_encoder"]
    stored = {n if wrapped else n.removeprefix("text_model."): a for n, a in wanted.items()}
    mapped = map_clip({n: StoredTensor.from_array(n, a) for n, a in stored.items()}, projection=False)
    assert (mapped.missing, mapped.unmatched) == ((), ())
    assert {n: t.raw.tobytes() for n, t in mapped.tensors.items()} == {n: a.tobytes() for n, a in wanted.items()}


def test_open_clip_names_are_split_and_transposed() -> None:
    wanted = components("sdxl")["text_encoder_2"]
    stored = {n: StoredTensor.from_array(n, a) for n, a in open_clip_names(wanted).items()}
    mapped = map_open_clip(stored, projection=True)
    assert (mapped.missing, mapped.unmatched) == ((), ())
    assert mapped.tensors.keys() == wanted.keys()
    for name, array in wanted.items():
        assert np.array_equal(mapped.tensors[name].raw, array), name


def test_a_projection_converted_from_transformers_is_not_transposed() -> None:
    arrays = open_clip_names(components("sdxl")["text_encoder_2"])
    projection = arrays.pop("text_projection")
    arrays["text_projection.weight"] = projection
    mapped = map_open_clip({n: StoredTensor.from_array(n, a) for n, a in arrays.items()}, projection=True)
    assert np.array_equal(mapped.tensors["text_projection.weight"].raw, projection)


def test_the_last_layer_can_be_left_out() -> None:
    arrays = open_clip_names(components("sdxl")["text_encoder_2"])
    stored = {n: StoredTensor.from_array(n, a) for n, a in arrays.items()}
    whole, cut = (map_open_clip(stored, projection=False, drop_last=d) for d in (False, True))
    gone = whole.tensors.keys() - cut.tensors.keys()
    assert gone == {n for n in whole.tensors if n.startswith("text_model.encoder.layers.2.")}
    assert {n for n in cut.unmatched if n != "text_projection"} == {
        n for n in arrays if n.startswith("transformer.resblocks.2.")
    }


def test_everything_is_a_view_of_the_file(tmp_path: Path) -> None:
    file = open_safetensors(write(tmp_path / "m.safetensors", single_file("sdxl")))
    spans = [t.raw.__array_interface__["data"][0] for t in file.tensors.values()]
    first, last = min(spans), max(spans) + file.size
    prefixes = {UNET: map_unet, VAE: map_vae}
    prefixes["conditioner.embedders.1.model."] = lambda t: map_open_clip(t, projection=True)
    for prefix, mapper in prefixes.items():
        inside = {n.removeprefix(prefix): t for n, t in file.tensors.items() if n.startswith(prefix)}
        for name, tensor in mapper(inside).tensors.items():
            assert not tensor.raw.flags.owndata, name
            assert not tensor.raw.flags.writeable, name
            assert first <= tensor.raw.__array_interface__["data"][0] < last, name


# ------------------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    "name",
    [
        "input_blocks.1.0.in_layers.2.weight",
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "input_blocks.3.0.op.bias",
        "middle_block.1.proj_in.bias",
        "output_blocks.11.0.skip_connection.bias",
        "output_blocks.2.1.conv.weight",
        "time_embed.0.weight",
        "out.2.bias",
    ],
)
def test_a_missing_unet_tensor_is_named_as_the_file_would_have_it(name: str) -> None:
    tensors = below("sd1", UNET)
    del tensors[name]
    assert name in map_unet(tensors).missing


@pytest.mark.parametrize("name", ["decoder.up.3.block.0.conv1.weight", "encoder.mid.attn_1.q.bias"])
def test_a_missing_vae_tensor_is_named(name: str) -> None:
    tensors = below("sd1", VAE)
    del tensors[name]
    assert map_vae(tensors).missing == (name,)


@pytest.mark.parametrize(
    "name",
    [
        "input_blocks.1.0.in_layers.3.weight",  # no such layer
        "input_blocks.1.1.transformer_blocks.0.attn3.to_k.weight",
        "input_blocks.01.0.in_layers.0.weight",  # no canonical number
        "input_blocks.²",
        "middle_block.3.weight",
        "nothing.known",
    ],
)
def test_an_unknown_unet_tensor_is_unmatched(name: str) -> None:
    tensors = below("sd1", UNET)
    tensors[name] = StoredTensor.from_array(name, np.zeros(1, np.float32))
    assert map_unet(tensors).unmatched == (name,)


def test_a_parameter_of_an_optional_layer_is_demanded_once_the_layer_is_there() -> None:
    tensors = below("sdxl", UNET)
    del tensors["label_emb.0.2.bias"]
    assert map_unet(tensors).missing == ("label_emb.0.2.bias",)


def test_names_of_any_shape_do_no_harm() -> None:
    zero = np.zeros(1, np.float32)
    odd = ["", ".", "..", "input_blocks", "input_blocks.", "input_blocks.1", "input_blocks.1.0.op", "a" * 500]
    odd += ["input_blocks." + "1." * 200 + "weight", "output_blocks.0.1.conv", "down.0", "encoder.down", "encoder"]
    odd += ["encoder.mid.attn_1", "decoder.up.999999999999.block.0.norm1.weight", "transformer.resblocks", "text_model"]
    tensors = {n: StoredTensor.from_array(n, zero) for n in odd}
    mapped = [
        map_unet(tensors),
        map_vae(tensors),
        map_clip(tensors, projection=True),
        map_open_clip(tensors, projection=True, drop_last=True),
    ]
    for result in mapped:
        assert result.missing
        assert set(result.unmatched) == set(odd)


@pytest.mark.parametrize("shape", [(), (7, 4), (0, 4)])
def test_an_in_proj_that_is_not_three_parts_is_refused(shape: tuple[int, ...]) -> None:
    tensor = StoredTensor.from_array("attn.in_proj_weight", np.zeros(shape, np.float32), "file.safetensors")
    with pytest.raises(ModelFileError, match=r"file\.safetensors.*in_proj_weight.*query, key and value"):
        name_tables.third(0)(tensor)


@pytest.mark.parametrize("shape", [(4, 4, 3, 3), (4, 4, 1, 2)])
def test_a_convolution_that_is_not_1x1_is_refused_as_linear(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelFileError, match="not a 1x1 convolution"):
        name_tables.as_linear(StoredTensor.from_array("q.weight", np.zeros(shape, np.float32)))


@pytest.mark.parametrize("shape", [(), (4,), (4, 4, 4)])
def test_a_projection_that_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelFileError, match="not a matrix"):
        name_tables.as_transposed(StoredTensor.from_array("text_projection", np.zeros(shape, np.float32)))
