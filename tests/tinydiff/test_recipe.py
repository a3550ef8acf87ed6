"""Which layers the recipe makes integers of, and of how many bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from miniatures import write_folder

from tinydiff.packing import Recipe, plan
from tinydiff.recipe import SMALL_MATRIX, kind_of
from tinydiff_kernels.handles import LinearWeight
from tinydiff_kernels.rounded import Values
from tinydiff_weights.open import open_model


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((256, 256), "i8"),
        ((256, 257), "i4"),
        ((256, 256, 1, 1), "i8"),
        ((257, 256, 1, 1), "i4"),
        ((16, 16, 3, 3), "i4"),
    ],
)
def test_four_bits_for_all_but_small_matrices(shape: tuple[int, ...], kind: str) -> None:
    weight = LinearWeight("mid_block.attentions.0.proj_in", Values("w", np.zeros(shape, np.float32)), None)
    assert kind_of("unet", "int4")(weight) == kind
    assert kind_of("unet", "int4", small="i4")(weight) == "i4"
    assert kind_of("unet", "int8", small="i4")(weight) == "i8"


def test_a_packed_file_of_four_bits_has_eight_for_small_matrices_and_mixed_may_choose(tmp_path: Path) -> None:
    source = open_model(write_folder(tmp_path / "model", "sd1"))
    int8, int4, mixed = (plan(source, Recipe(weights)).formats for weights in ("int8", "int4", "mixed"))
    assert int8.keys() == int4.keys() == mixed.keys()
    assert {name for name, layer in int8.items() if layer.integer} == {n for n, x in int4.items() if x.integer}
    for layer in int4.values():
        if layer.integer:
            small = len(layer.shape) == 2 or layer.shape[2:] == (1, 1)
            assert not small or np.prod(layer.shape) <= SMALL_MATRIX  # of a miniature all are
            assert layer.kind == ("i8" if small else "i4")
    assert any(layer.kind == "i4" and len(layer.shape) == 2 for layer in mixed.values())
