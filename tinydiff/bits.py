"""Which layers get 8 bits where only some can: mixed precision under a limit of size.

    sensitivity[layer][kind]   what the network's output loses if this layer alone is of this kind
    bytes[layer][kind]         what the layer takes in the file
    choose_bits(...)           layer -> kind: the least sum of losses that fits

`sensitivities` is the measure that needs no data: noise over signal of the weights themselves, times the layer's share
of all numbers that a pass writes. A relative error of a layer's weights is about the relative error of what it writes,
and in a residual network errors of what is written add up. Whoever can measure better gives `quantize` a better one.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import numpy as np

from tinydiff.errors import InvalidArgumentError
from tinydiff.pack_layer import Error, pack
from tinydiff.packing_plan import LayerUse
from tinydiff_kernels.matmul.unpacking import dequantise
from tinydiff_weights.packed_format import PANEL, LayerFormat
from tinydiff_weights.safetensors import StoredTensor

SAMPLED_ROWS = 64  # of a weight, evenly spread, that are quantised to measure the loss

Costs = Mapping[str, Mapping[str, float]]
Sizes = Mapping[str, Mapping[str, int]]


def choose_bits(sensitivity: Costs, sizes: Sizes, target: int) -> dict[str, str]:
    """Kinds of all layers, at most `target` bytes in all. InvalidArgumentError if even the smallest are too large.

    Every layer begins at its smallest kind; then the step that saves most loss for its bytes is taken, while one fits.
    With two kinds a layer this is the greedy answer to the knapsack problem: it misses the best by less than one step.
    """
    ladders = {name: _ladder(sizes[name], sensitivity[name]) for name in sizes}
    level = dict.fromkeys(ladders, 0)
    total = sum(sizes[name][ladder[0]] for name, ladder in ladders.items())
    if total > target:
        raise InvalidArgumentError(f"target {target / 2**20:.1f} MB: the layers alone take {total / 2**20:.1f} MB")
    steps: list[tuple[float, str, int, int]] = []

    def offer(name: str) -> None:
        ladder, at = ladders[name], level[name]
        if at + 1 < len(ladder):
            cost = sizes[name][ladder[at + 1]] - sizes[name][ladder[at]]
            gain = sensitivity[name][ladder[at]] - sensitivity[name][ladder[at + 1]]
            heapq.heappush(steps, (-gain / max(cost, 1), name, at + 1, cost))

    for name in ladders:
        offer(name)
    while steps:
        _, name, to, cost = heapq.heappop(steps)
        if total + cost <= target:
            level[name], total = to, total + cost
            offer(name)
    return {name: ladders[name][at] for name, at in level.items()}


def _ladder(sizes: Mapping[str, int], losses: Mapping[str, float]) -> list[str]:
    """Kinds by size, each losing less than the one before: a narrow layer may be smaller in 8 bits than in 4."""
    kinds: list[str] = []
    for kind in sorted(sizes, key=lambda k: (sizes[k], losses[k])):
        if not kinds or losses[kind] < losses[kinds[-1]]:
            kinds.append(kind)
    return kinds


def sensitivities(layers: Sequence[tuple[LayerUse, Sequence[LayerFormat]]]) -> dict[str, dict[str, float]]:
    """The loss of each layer in each of the formats that it may get, by "component/layer"."""
    everything = max(sum(layer.written for layer, _ in layers), 1)
    found = {}
    for layer, formats in layers:
        share = layer.written / everything
        found[layer.key] = {f.kind: share * _noise(layer, f) for f in formats}
    return found


def _noise(layer: LayerUse, wanted: LayerFormat) -> float:
    """Noise over signal of a sample of rows."""
    assert isinstance(layer.weight, StoredTensor)
    rows = np.unique(np.linspace(0, wanted.shape[0] - 1, SAMPLED_ROWS).astype(int))
    values = np.concatenate([layer.weight.sliced(row, row + 1).float32() for row in rows.tolist()])
    plain = LayerFormat(wanted.name, wanted.kind, (max(PANEL, len(values)), *wanted.shape[1:]))
    error = Error()
    error.add(values, dequantise(pack(values, plain), values.shape))
    return error.noise / error.signal if error.signal else 0.0
