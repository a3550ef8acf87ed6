"""How each layer's weight is kept while it runs: float32, half precision, or integers of 8 or 4 bits.

"auto" keeps what the file has: halves stay halves, everything else is float32. "int8" and "int4" keep wide what is
small or delicate: the first and last convolution, which see the latents themselves, and the embeddings of time and
sizes, which shift every pixel. Of the autoencoder they take the resnets of the two highest resolutions, and of the
highest only first convolutions: a decoder of random weights (256x256, int8) loses a decibel more with the upsamplers,
whose input no norm has tamed, and one more with the second convolutions.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tinydiff_kernels.handles import MatmulWeight
from tinydiff_kernels.matmul.packing import Kind

INTEGERS: dict[str, Kind] = {"int8": "i8", "int4": "i4"}
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


def kind_of(component: str, weights: str, resolutions: int = 0) -> Callable[[MatmulWeight], Kind]:
    """The choice for the layers of a component ("unet", "vae", "text_encoder", ...)."""

    def stored(weight: MatmulWeight) -> Kind:
        return "f16" if getattr(weight.weight, "dtype", "") == "F16" else "f32"

    def choose(weight: MatmulWeight) -> Kind:
        if weights == "float32":
            return "f32"
        if weights == "float16":
            return "f16"
        if weights in INTEGERS and not is_wide(component, weight.name, resolutions):
            return INTEGERS[weights]
        return stored(weight)

    return choose
