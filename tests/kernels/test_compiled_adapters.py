"""Low-rank adapters on compiled kernels: every kind of layer, float and quantised, several ranks, on and off."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from compiled_tools import compiled, relative, unet, unet_inputs

from tinydiff_kernels.handles import ConvWeight, LinearWeight, LowRank
from tinydiff_kernels.reference import Reference

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0."
LAYERS = {
    "linear": BLOCK + "attn1.to_q",
    "with residual": BLOCK + "attn1.to_out.0",
    "gated": BLOCK + "ff.net.0.proj",
    "conv": "down_blocks.1.resnets.0.conv1",
    "1x1": "down_blocks.1.resnets.0.conv_shortcut",
    "stride 2": "down_blocks.0.downsamplers.0.conv",
    "upsampled": "up_blocks.1.upsamplers.0.conv",
    "first": "conv_in",
}


def adapter(weight: Any, rank: int, seed: int = 1) -> LowRank:
    rng = np.random.default_rng(seed)
    kernel = weight.kernel if isinstance(weight, ConvWeight) else ()
    down = rng.standard_normal((rank, weight.inputs, *kernel), np.float32) * np.float32(0.2)
    return LowRank(down, rng.standard_normal((weight.outputs, rank), np.float32) * np.float32(0.4), 0.7)


@pytest.mark.parametrize("layer", LAYERS)
def test_adapters_of_two_ranks_on_one_layer(layer: str) -> None:
    given = unet_inputs("sd1", (1, 9, 7))
    ours, wanted = unet("sd1", compiled()), unet("sd1", Reference())
    plain = ours(**given)
    for model in (ours, wanted):
        handle = model.weights[LAYERS[layer]]
        handle.adapters += [adapter(handle, 1), adapter(handle, 17, seed=2)]
    adapted = ours(**given)
    assert relative(adapted, plain) > 1e-3
    assert relative(adapted, wanted(**given)) < 1e-5
    ours.weights[LAYERS[layer]].adapters.clear()
    assert np.array_equal(ours(**given), plain)


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("rank", [1, 4, 16, 19])
def test_adapters_on_all_layers_of_a_quantised_network(weights: str, rank: int) -> None:
    """Beside quantised weights they stay float32: what they add is what they add to the reference."""
    given = unet_inputs("sd1", (1, 9, 7))
    ours, wanted = unet("sd1", compiled(weights)), unet("sd1", Reference())
    plain, exact = ours(**given), wanted(**given)
    for model in (ours, wanted):
        for name, handle in model.weights.items():
            if isinstance(handle, (LinearWeight, ConvWeight)):
                handle.adapters.append(adapter(handle, rank, seed=len(name)))
    adapted, merged = ours(**given), wanted(**given)
    assert relative(merged, exact) > 0.2
    assert relative(adapted, merged) < {"int8": 0.07, "int4": 0.65}[weights]
    for handle in ours.weights.values():
        if isinstance(handle, (LinearWeight, ConvWeight)):
            handle.adapters.clear()
    assert np.array_equal(ours(**given), plain)


def test_packed_adapters_go_with_their_adapter() -> None:
    given, backend = unet_inputs("one_level", (1, 2, 3)), compiled()
    model = unet("one_level", backend)
    for seed in range(12):
        model.weights["conv_in"].adapters[:] = [adapter(model.weights["conv_in"], 2, seed)]
        model(**given)
    gc.collect()
    assert len(backend._weights._adapters) == len(backend.programs) == 8  # those of the programs that are kept
