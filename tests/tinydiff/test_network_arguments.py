"""Arguments of the networks that cannot work: each row ends in InvalidArgumentError before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from miniatures import EOS, TEXT_ENCODERS, UNETS, VAES, VOCAB_SIZE, class_name, network, random_tensors

from tinydiff.errors import InvalidArgumentError, TinyDiffError
from tinydiff_kernels.operations import Operation
from tinydiff_kernels.reference import Reference
from tinydiff_kernels.rows import Rows


class Nothing:
    """An observer that lets no operation happen."""

    def before(self, operation: Operation) -> None:
        raise AssertionError(f"{operation.kind} was computed")

    def after(self, operation: Operation, result: Rows) -> None: ...


def build(table: dict[str, dict[str, Any]], name: str, compute: bool = False) -> Any:
    config = table[name]
    backend = Reference(observers=[] if compute else [Nothing()])
    return network(config, random_tensors(class_name(config), config, 1), backend)


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def unet_call(name: str, **changes: Any) -> dict[str, Any]:
    width = UNETS[name]["cross_attention_dim"]
    call = {"sample": zeros(2, 4, 8, 8), "timestep": 5.0, "context": zeros(2, 7, width)}
    if name == "sdxl":
        call["added"] = {"text_embeds": zeros(2, 20), "time_ids": zeros(2, 6)}
    return {**call, **changes}


UNET_ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("sd1", {"sample": zeros(4, 8, 8)}, "sample has shape"),
    ("sd1", {"sample": zeros(2, 3, 8, 8)}, "sample has shape"),
    ("sd1", {"sample": zeros(2, 8, 8, 4)}, "sample has shape"),
    ("sd1", {"sample": zeros(0, 4, 8, 8)}, "sample has shape"),
    ("sd1", {"sample": zeros(2, 4, 0, 8)}, "sample has shape"),
    ("sd1", {"sample": "latents"}, "sample has shape"),
    ("sd1", {"sample": None}, "sample has shape"),
    ("inpainting", {}, "9, height, width"),
    ("sd1", {"timestep": "5"}, "timestep"),
    ("sd1", {"timestep": None}, "timestep"),
    ("sd1", {"timestep": np.zeros(3)}, "timestep"),
    ("sd1", {"timestep": np.zeros((2, 1))}, "timestep"),
    ("sd1", {"timestep": 1j}, "timestep"),
    ("sd1", {"context": zeros(7, 24)}, "context has shape"),
    ("sd1", {"context": zeros(1, 7, 24)}, "context holds 1 x 24 channels, not 2 x 24"),
    ("sd1", {"context": zeros(2, 7, 32)}, "context holds 2 x 32"),
    ("sd1", {"context": None}, "context has shape"),
    ("sd1", {"timestep_cond": zeros(2, 12)}, "takes none at all"),
    ("lcm", {"timestep_cond": zeros(2, 13)}, "timestep_cond"),
    ("lcm", {"timestep_cond": zeros(1, 12)}, "timestep_cond"),
    ("sd1", {"down_residuals": []}, "0 down_residuals"),
    ("sd1", {"down_residuals": [zeros(4, 8, 8)] * 12}, "residual of shape"),
    ("sd1", {"mid_residual": zeros(2, 32)}, "residual of shape"),
    ("sdxl", {"added": {}}, "added lacks text_embeds, time_ids"),
    ("sdxl", {"added": {"text_embeds": zeros(2, 20)}}, "added lacks time_ids"),
    ("sdxl", {"added": {"text_embeds": zeros(20), "time_ids": zeros(2, 6)}}, "added holds shapes"),
    ("sdxl", {"added": {"text_embeds": zeros(2, 20), "time_ids": zeros(1, 6)}}, "added holds shapes"),
    ("sdxl", {"added": {"text_embeds": zeros(2, 20), "time_ids": zeros(2, 5)}}, "added holds 20"),
    ("sdxl", {"added": {"text_embeds": zeros(2, 21), "time_ids": zeros(2, 6)}}, "added holds 21"),
]


@pytest.mark.parametrize(("name", "changes", "message"), UNET_ROWS)
def test_unet(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        build(UNETS, name)(**unet_call(name, **changes))


def test_sdxl_needs_added() -> None:
    with pytest.raises(InvalidArgumentError, match="added="):
        build(UNETS, "sdxl", compute=True)(**unet_call("sdxl", added=None))


@pytest.mark.parametrize("name", ["sd1", "sdxl", "lcm"])
@pytest.mark.parametrize("timestep", [5, 5.0, np.float64(5), np.array(5), np.array([5]), np.array([5.0, 5.0])])
def test_kinds_of_timesteps_that_work(name: str, timestep: Any) -> None:
    """All the same number: all the same bits."""
    model = build(UNETS, name, compute=True)
    assert np.array_equal(model(**unet_call(name, timestep=timestep)), model(**unet_call(name)))


@pytest.mark.parametrize("name", ["kl", "taesd"])
@pytest.mark.parametrize("shape", [(4, 8, 8), (1, 3, 8, 8), (1, 8, 8, 4), (0, 4, 8, 8), (1, 4, 8, 0), ()])
def test_decode(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match="latents of shape"):
        build(VAES, name).decode(zeros(*shape))


@pytest.mark.parametrize("name", ["kl", "taesd"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 8, 8, 3), (0, 3, 8, 8), (1, 3, 0, 8), (1, 3, 8, 12)])
def test_encode(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match="image of"):
        build(VAES, name).encode(zeros(*shape))


@pytest.mark.parametrize(
    "ids",
    [
        np.zeros(77, np.int64),
        np.zeros((1, 78), np.int64),
        np.zeros((1, 0), np.int64),
        np.zeros((0, 77), np.int64),
        np.zeros((1, 1, 77), np.int64),
        np.zeros((1, 77)),
        np.array([["a", "b"]]),
        np.array([[True]]),
        np.array([[-1, 5]]),
        np.array([[VOCAB_SIZE, 5]]),
        np.array([[2**63]], np.uint64),
        None,
        "a cat",
        [],
    ],
    ids=repr,
)
def test_text_encoder(ids: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="ids"):
        build(TEXT_ENCODERS, "clip_l")(ids)


def test_lists_and_small_integers_are_ids_too() -> None:
    encoder = build(TEXT_ENCODERS, "clip_l", compute=True)
    wanted = encoder(np.array([[EOS - 1, 7, EOS]]))
    assert np.array_equal(encoder([[EOS - 1, 7, EOS]]), wanted)
    assert np.array_equal(encoder(np.array([[EOS - 1, 7, EOS]], np.uint16)), wanted)


def test_the_error_is_ours_and_a_value_error() -> None:
    assert issubclass(InvalidArgumentError, TinyDiffError)
    assert issubclass(InvalidArgumentError, ValueError)


def test_a_residual_of_the_wrong_size_is_named() -> None:
    unet = network(UNETS["sd1"], random_tensors("UNet2DConditionModel", UNETS["sd1"], 0), Reference())
    sample, context = np.zeros((1, 4, 8, 8), np.float32), np.zeros((1, 7, 24), np.float32)
    with pytest.raises(InvalidArgumentError, match="wrong size: Add"):
        unet(sample, 1.0, context, mid_residual=np.zeros((1, 32, 9, 9), np.float32))
