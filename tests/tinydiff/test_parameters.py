"""Every tensor is accounted for by name and shape, and no value is read before it is used."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from miniatures import TEXT_ENCODERS, UNETS, VAES, class_name, declared_shapes, network, random_tensors, stored

from tinydiff.errors import ModelFileError
from tinydiff.parameters import Parameters, ShapeOnly
from tinydiff_kernels.plan import Plan
from tinydiff_kernels.reference import Reference
from tinydiff_weights.safetensors import StoredTensor

ALL = {**UNETS, **VAES, **TEXT_ENCODERS}


def tensor(name: str, *shape: int) -> StoredTensor:
    return StoredTensor.from_array(name, np.zeros(shape, np.float32))


def taken(tensors: dict[str, StoredTensor], names: list[str], width: int = 2) -> Parameters:
    """Parameters of which `names` were asked for, as norms' weights and biases."""
    p = Parameters(tensors, "model.safetensors")
    for name in names:
        p.scope("block").norm(name, width)
    return p


def complete(names: list[str]) -> dict[str, StoredTensor]:
    full = [f"block.{n}.{part}" for n in names for part in ("weight", "bias")]
    return {n: tensor(n, 2) for n in full}


def test_a_complete_file_passes() -> None:
    names = ["a", "b"]
    taken(complete(names), names).finish()


def test_missing_tensors_are_named() -> None:
    tensors = complete(["a", "b"])
    del tensors["block.b.bias"]
    with pytest.raises(ModelFileError, match=r"1 missing: block\.b\.bias") as caught:
        taken(tensors, ["a", "b"]).finish()
    assert (caught.value.path, caught.value.tensor) == ("model.safetensors", "block.b.bias")


def test_misshapen_tensors_are_named_with_both_shapes() -> None:
    tensors = {**complete(["a"]), "block.a.weight": tensor("block.a.weight", 3)}
    with pytest.raises(ModelFileError, match=r"1 of another shape: block\.a\.weight \[3\] instead of \[2\]") as caught:
        taken(tensors, ["a"]).finish()
    assert caught.value.tensor == "block.a.weight"


@pytest.mark.parametrize("shape", [(), (2, 1), (1, 2), (0,)])
def test_a_shape_of_another_rank_is_another_shape(shape: tuple[int, ...]) -> None:
    tensors = {**complete(["a"]), "block.a.weight": tensor("block.a.weight", *shape)}
    with pytest.raises(ModelFileError, match="of another shape"):
        taken(tensors, ["a"]).finish()


def test_unused_tensors_are_named() -> None:
    with pytest.raises(ModelFileError, match=r"1 unused: lora\.up") as caught:
        taken({**complete(["a"]), "lora.up": tensor("lora.up", 1)}, ["a"]).finish()
    assert caught.value.tensor == "lora.up"


def test_all_three_at_once_and_the_first_five_of_each() -> None:
    tensors = {
        **complete(["wide"]),
        **{f"extra.{i}": tensor(f"extra.{i}", 1) for i in range(8)},
        "block.wide.bias": tensor("block.wide.bias", 7),
    }
    with pytest.raises(ModelFileError) as caught:
        taken(tensors, ["wide", "p", "q", "r"]).finish()
    text = str(caught.value)
    missing = "block.p.weight, block.p.bias, block.q.weight, block.q.bias, block.r.weight and 1 more"
    assert f"6 missing: {missing}" in text
    assert "1 of another shape: block.wide.bias [7] instead of [2]" in text
    assert "8 unused: extra.0, extra.1, extra.2, extra.3, extra.4 and 3 more" in text
    assert caught.value.tensor == "block.p.weight"  # what is missing tells most


def test_leftovers_may_be_ignored_by_their_ending() -> None:
    tensors = {**complete(["a"]), "x.position_ids": tensor("x.position_ids", 1)}
    taken(tensors, ["a"]).finish(("position_ids",))
    with pytest.raises(ModelFileError, match="unused"):
        taken(tensors, ["a"]).finish(("logit_scale",))


def test_text_encoders_ignore_old_buffers() -> None:
    config = TEXT_ENCODERS["clip_l"]
    tensors = random_tensors("CLIPTextModel", config, 1)
    tensors["text_model.embeddings.position_ids"] = np.zeros((1, 77), np.float32)
    network(config, tensors, Reference())
    tensors["text_model.embeddings.something"] = np.zeros((1, 77), np.float32)
    with pytest.raises(ModelFileError, match="something"):
        network(config, tensors, Reference())


def test_1x1_convolutions_become_linear_layers_without_a_copy() -> None:
    w = tensor("l.weight", 3, 2, 1, 1)
    p = Parameters({"l.weight": w, "l.bias": tensor("l.bias", 3)}, "f")
    handle = p.linear("l", 2, 3, as_conv=True)
    p.finish()
    assert handle.weight.shape == (3, 2)
    assert np.shares_memory(handle.weight.float32(), w.raw)
    assert p.declared == {"l.weight": (3, 2, 1, 1), "l.bias": (3,)}


def test_transposed_views_are_taken_as_they_are() -> None:
    """A single SDXL file holds text_projection transposed; its view cannot be reshaped in place."""
    w = tensor("l.weight", 2, 3).transposed()
    assert Parameters({"l.weight": w}, "f").linear("l", 2, 3, bias=False).weight is w


def test_scopes_share_the_books() -> None:
    p = Parameters.declare()
    p.scope("down_blocks", 0).scope("resnets", 1).conv("conv1", 4, 8)
    assert p.declared == {
        "down_blocks.0.resnets.1.conv1.weight": (8, 4, 3, 3),
        "down_blocks.0.resnets.1.conv1.bias": (8,),
    }
    assert list(p.weights) == ["down_blocks.0.resnets.1.conv1"]
    p.finish()


def test_a_network_on_shapes_alone_has_no_values() -> None:
    with pytest.raises(ModelFileError, match=r"shapes alone.*|w\.weight"):
        ShapeOnly("w.weight", (2,)).float32()


class Untouchable:
    """A tensor whose values nobody may ask for."""

    dtype = "F32"

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, shape

    def float32(self) -> Any:
        raise AssertionError(f"{self.name} was read")

    def reshaped(self, *shape: int) -> Untouchable:
        return Untouchable(self.name, shape)


@pytest.mark.parametrize("name", ALL)
def test_building_reads_no_values_and_claims_every_tensor(name: str) -> None:
    config = ALL[name]
    shapes = declared_shapes(class_name(config), config)
    assert all(math.prod(shape) > 0 for shape in shapes.values())
    model = network(config, None, Plan())
    assert set(shapes) <= {f"{layer}.{part}" for layer in model.weights for part in ("weight", "bias")}
    parameters = Parameters({n: Untouchable(n, s) for n, s in shapes.items()}, "f")
    type(model)(model.config, parameters, Plan())


@pytest.mark.parametrize("name", ["sd1", "sdxl", "kl", "taesd", "open_clip_g"])
def test_any_single_missing_or_extra_tensor_is_found(name: str) -> None:
    config = ALL[name]
    tensors = random_tensors(class_name(config), config, 0)
    for victim in list(tensors)[:: max(1, len(tensors) // 15)]:
        rest = {n: t for n, t in tensors.items() if n != victim}
        with pytest.raises(ModelFileError, match=f"1 missing: {victim}"):
            network(config, rest, Reference())
        with pytest.raises(ModelFileError, match=f"1 missing: {victim}; 1 unused: {victim}x"):
            network(config, {**rest, f"{victim}x": tensors[victim]}, Reference())


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_weights_give_the_bits_of_the_rounded_float32_weights(dtype: str) -> None:
    """Conversion happens where a weight is used, and only the rounding of the file counts."""
    config = TEXT_ENCODERS["clip_l"]
    half = stored(random_tensors("CLIPTextModel", config, 3), dtype)
    whole = {n: t.float32() for n, t in half.items()}
    ids = np.arange(154).reshape(2, 77)
    assert np.array_equal(network(config, half, Reference())(ids), network(config, whole, Reference())(ids))


def test_whole_numbers_are_no_weights() -> None:
    tensors = random_tensors("AutoencoderTiny", VAES["taesd"], 0)
    name = "decoder.layers.0.weight"
    tensors[name] = np.ones(tensors[name].shape, np.int64)
    with pytest.raises(ModelFileError, match=rf"1 of whole numbers: {name} I64") as caught:
        network(VAES["taesd"], tensors, Plan())
    assert caught.value.tensor == name
