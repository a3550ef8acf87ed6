"""How each layer's weight is kept while it runs: float32, half precision, or integers of 8 or 4 bits.

"auto" keeps what the file has: halves stay halves, everything else is float32. "int8" and "int4" keep wide what is
small or delicate: the first and last convolution, which see the latents themselves, and the embeddings of time and
sizes, which shift every pixel. Of the autoencoder they take the resnets of the two highest resolutions, and of the
highest only first convolutions: a decoder of random weights (256x256, int8) loses a decibel more with the upsamplers,
whose input no norm has tamed, and one more with the second convolutions.

"int4" gives 8 bits to small matrices: the projections of attention and the shortcuts of a small network, of which there
are many and which lose most for their bytes. In Stable Diffusion 1.5, whose smallest projection has 102,400 weights,
that is one in ten thousand; in the embedded model it is what makes 4 bits do (weights/QUANTISATION.md).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from tinydiff_kernels.handles import MatmulWeight
from tinydiff_kernels.matmul.packing import Kind

INTEGERS: dict[str, Kind] = {"int8": "i8", "int4": "i4"}
REVISION = 2  # raised when the same words come to give other weights; copies in caches are then made anew
SMALL_MATRIX = 2**16  # weights: 4 bits would save 30 kB of it
WEIGHTS = ("auto", "float32", "float16", "int8", "int4")
WIDE = re.compile(
    r"(^|\.)(conv_in|conv_out|quant_conv|post_quant_conv)$"
    r"|^(time_embedding|add_embedding)\."
    r"|^(encoder|decoder)\.layers\."  # AutoencoderTiny
    r"|(^|\.)text_projection$"
)
AUTOENCODER = re.compile(r"^(encoder\.down|decoder\.up)_blocks\.(\d+)\.resnets\.\d+\.(conv\w+)$")


def is_wide(component: str, layer: str, resolutions: int) -> bool:
    """Layers that `int8` and `int4` leave alone. `resolutions`: how many the autoencoder has."""
    if WIDE.search(layer):
        return True
    if component != "vae":
        return False
    block = AUTOENCODER.match(layer)
    if block is None:
        return True
    depth = int(block.group(2)) if block.group(1) == "encoder.down" else resolutions - 1 - int(block.group(2))
    return depth > 1 or (depth == 0 and block.group(3) == "conv2")


def is_small(shape: tuple[int, ...]) -> bool:
    """Whether `int4` gives this weight 8 bits: linear layers and convolutions of one tap, up to `SMALL_MATRIX`."""
    return math.prod(shape[2:]) == 1 and math.prod(shape) <= SMALL_MATRIX


def kind_of(
    component: str, weights: str, resolutions: int = 0, *, small: Kind = "i8"
) -> Callable[[MatmulWeight], Kind]:
    """The choice for the layers of a component ("unet", "vae", "text_encoder", ...).

    `small`: what "int4" makes of small matrices; "i4" where there shall be no exception.
    """

    def stored(weight: MatmulWeight) -> Kind:
        return "f16" if getattr(weight.weight, "dtype", "") == "F16" else "f32"

    def choose(weight: MatmulWeight) -> Kind:
        if weights == "float32":
            return "f32"
        if weights == "float16":
            return "f16"
        if weights not in INTEGERS or is_wide(component, weight.name, resolutions):
            return stored(weight)
        return small if weights == "int4" and is_small(weight.weight.shape) else INTEGERS[weights]

    return choose
