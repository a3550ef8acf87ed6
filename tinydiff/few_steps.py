"""Few steps without guidance: a student of the guided model, kept as low-rank additions to the UNet's weights.

The additions B A hang on the layers' handles (LoRA, Hu et al. 2021, arXiv:2106.09685) while a picture is drawn with a
guidance of 1 in at most `MOST_FEW_STEPS` steps, and are put away otherwise: both models live in one set of weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinydiff.errors import ModelFileError
from tinydiff.parameters import first_names
from tinydiff_kernels.handles import LowRank, MatmulWeight, Weight
from tinydiff_weights.folder import MOST_FEW_STEPS
from tinydiff_weights.safetensors import StoredTensor
from tinydiff_weights.source import FewStepsSource

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


class FewSteps:
    """The additions of a model, matched to the weights of its UNet. ModelFileError where they do not fit.

    Their values are read when they are first used.
    """

    def __init__(self, source: FewStepsSource, weights: Mapping[str, Weight]) -> None:
        self.steps, self.default = source.steps, source.default
        self._path, self._stored = source.path, list[tuple[MatmulWeight, StoredTensor, StoredTensor]]()
        self._additions: list[tuple[MatmulWeight, LowRank]] = []
        layers = {name.removeprefix("unet.").removesuffix(DOWN) for name in source.tensors if name.endswith(DOWN)}
        expected = {f"unet.{layer}{part}" for layer in layers for part in (DOWN, UP)}
        odd = sorted(expected ^ set(source.tensors))
        if odd:
            raise ModelFileError(
                source.path, f"additions come in pairs of lora_A and lora_B; odd: {first_names(odd)}", tensor=odd[0]
            )
        for layer in sorted(layers):
            weight = weights.get(layer)
            down, up = source.tensors[f"unet.{layer}{DOWN}"], source.tensors[f"unet.{layer}{UP}"]
            if not isinstance(weight, MatmulWeight):
                raise ModelFileError(source.path, "the UNet has no such layer", tensor=down.name)
            rank, shape = down.shape[0] if down.shape else 0, weight.weight.shape
            fits = _same(down.shape, (rank, *shape[1:])) and _same(up.shape, (shape[0], rank))
            if not fits or rank == 0:
                found = f"{list(up.shape)} times {list(down.shape)} does not fit a weight of {list(shape)}"
                raise ModelFileError(source.path, found, tensor=down.name)
            self._stored.append((weight, down.reshaped(rank, *shape[1:]), up.reshaped(shape[0], rank)))

    @staticmethod
    def apply(steps: int, guidance_scale: float) -> bool:
        """Whether a picture is drawn with the additions."""
        return guidance_scale == 1 and steps <= MOST_FEW_STEPS

    def switch(self, on: bool) -> None:
        """Hang the additions on the weights, or take them off; other adapters stay. ModelFileError: NaN or infinity."""
        if on and not self._additions:
            self._additions = [(weight, self._read(down, up)) for weight, down, up in self._stored]
        for weight, addition in self._additions:
            weight.adapters[:] = [a for a in weight.adapters if a is not addition] + [addition] * on

    def _read(self, down: StoredTensor, up: StoredTensor) -> LowRank:
        values = down.float32(), up.float32()
        if not all(np.isfinite(v).all() for v in values):
            raise ModelFileError(self._path, "holds NaN or infinity", tensor=down.name)
        return LowRank(*values)


def _same(stored: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Equal but for ends of 1: a linear layer may be stored as a 1x1 convolution."""
    return stored[: len(needed)] == needed and set(stored[len(needed) :]) <= {1}
