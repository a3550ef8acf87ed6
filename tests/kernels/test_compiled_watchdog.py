"""Whichever layer first gives NaN or infinity is named, although kernels run in one go; a stop is heeded in between."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from compiled_tools import compiled, tensors, unet_inputs
from miniatures import UNETS, VAES, network

from tinydiff.errors import Cancelled, NonFiniteError
from tinydiff.observers import CancelToken, Watchdog
from tinydiff.recipe import kind_of
from tinydiff_kernels import operations as op
from tinydiff_kernels.compiled.backend import Compiled
from tinydiff_kernels.rows import Rows

LAYERS = [
    "conv_in",
    "time_embedding.linear_2",
    "down_blocks.0.resnets.1.norm1",
    "down_blocks.0.resnets.0.conv2",
    "down_blocks.1.attentions.0.norm",
    "down_blocks.1.attentions.0.transformer_blocks.0.norm2",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.0.upsamplers.0.conv",
    "up_blocks.3.resnets.2.conv_shortcut",
    "conv_norm_out",
    "conv_out",
]


def damaged(layer: str, value: float, weights: str, component: str = "unet") -> Any:
    name = "sd1" if component == "unet" else "kl"
    arrays = dict(tensors(component, name))
    arrays[f"{layer}.weight"] = arrays[f"{layer}.weight"].copy()
    arrays[f"{layer}.weight"].flat[-1] = value
    backend = compiled(weights, component, observers=[Watchdog(component)])
    return network((UNETS if component == "unet" else VAES)[name], arrays, backend)


@pytest.mark.parametrize("weights", ["float32", "int8", "int4"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_layer_with_a_bad_weight_is_named(layer: str, value: float, weights: str) -> None:
    with pytest.raises(NonFiniteError, match=rf"unet: layer '{layer}' produced .*: the file is damaged"):
        damaged(layer, value, weights)(**unet_inputs("sd1", (1, 9, 7)))


@pytest.mark.parametrize("layer", ["decoder.up_blocks.3.resnets.0.conv1", "decoder.conv_out"])
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_layer_of_an_autoencoder_is_named(layer: str, weights: str) -> None:
    with pytest.raises(NonFiniteError, match=f"vae: layer '{layer}' produced"):
        damaged(layer, np.nan, weights, "vae").decode(np.ones((1, 4, 3, 5), np.float32))


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_values_that_leave_their_range_are_named(weights: str) -> None:
    """Weights are finite, their product is not."""
    model = damaged("down_blocks.0.resnets.0.conv2", 3e38, weights)
    with pytest.raises(NonFiniteError, match=r"layer 'down_blocks\.0\.resnets\.0\.conv2' produced .*left the range"):
        model(**{**unet_inputs("sd1", (1, 9, 7)), "timestep": 3.0})


def test_a_network_runs_again_after_a_bad_input() -> None:
    model = network(UNETS["sd1"], tensors("unet", "sd1"), compiled(observers=[Watchdog("unet")]))
    given = unet_inputs("sd1", (1, 9, 7))
    good = model(**given)
    with pytest.raises(NonFiniteError, match="layer 'conv_in' produced NaN"):
        model(**{**given, "sample": np.full_like(given["sample"], np.nan)})
    assert np.array_equal(model(**given), good)


class Signal:
    """Sets an event when the last operation is recorded: from then on kernels run."""

    def __init__(self, last: str) -> None:
        self.last, self.recorded = last, threading.Event()

    def before(self, operation: op.Operation) -> None:
        if any(weight.name == self.last for weight in operation.weights()):
            self.recorded.set()

    def after(self, operation: op.Operation, result: Rows) -> None: ...


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_another_thread_stops_a_run(weights: str) -> None:
    """A run of some seconds ends with Cancelled; after that the network computes what it did before."""
    token, signal = CancelToken(), Signal("conv_out")
    backend = Compiled(kind_of("unet", weights), threads=2, observers=[token, signal], cancel=token.word)
    model = network(UNETS["sd1"], tensors("unet", "sd1"), backend)
    small = model(**unet_inputs("sd1", (1, 9, 7)))
    signal.recorded.clear()

    def stop() -> None:
        signal.recorded.wait()
        token.cancel()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(Cancelled):
        model(**unet_inputs("sd1", (1, 96, 96)))
    stopper.join()
    token.clear()
    assert np.array_equal(model(**unet_inputs("sd1", (1, 9, 7))), small)
