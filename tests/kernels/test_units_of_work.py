"""How long a kernel works between two looks at the cancel word, in multiply-adds: so Ctrl-C never waits for a second.

The slowest core that is meant to run this, a Cortex-A53, makes more than 1e9 multiply-adds a second in every kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinydiff_kernels.attention import descriptor as attention
from tinydiff_kernels.matmul.call import blocks
from tinydiff_kernels.matmul.packing import Packed

MOST = 2**27  # a seventh of a second there
ITEMS: dict[Any, tuple[Any, int]] = {
    "f32": (np.float32, 1),
    "f16": (np.float16, 1),
    "i8": (np.int8, 1),
    "i4": (np.uint8, 2),
}
LAYERS = [(320, 9), (1920, 9), (2560, 9), (1280, 1), (5120, 1), (10240, 1), (4, 9)]  # inputs, taps: SD1.5's and SDXL's


@pytest.mark.parametrize("kind", ITEMS)
@pytest.mark.parametrize(("inputs", "taps"), LAYERS)
def test_matmul(kind: Any, inputs: int, taps: int) -> None:
    """Rows of a step at 1024x1024 and of little ones; few rows are one block."""
    dtype, in_one = ITEMS[kind]
    data = np.broadcast_to(np.zeros(1, dtype), (640, taps, inputs // in_one, 16))
    packed = Packed(kind, data, taps, inputs // 4, 16 * len(data))
    for rows in (1, 77, 192, 193, 1024, 2 * 128 * 128):
        height, panels = blocks(rows, packed)
        assert min(height, rows + 23) * panels * 16 * inputs * taps <= MOST


@pytest.mark.parametrize("width", [40, 64, 80, 160, 512])
@pytest.mark.parametrize("tokens", [64, 4096, 128 * 128])
def test_attention(tokens: int, width: int) -> None:
    """It looks after each block of keys."""
    shape = attention.Shape(2, 8, tokens, tokens, width, width)
    assert shape.block_queries * attention.KEY_BLOCK * 2 * width <= MOST
