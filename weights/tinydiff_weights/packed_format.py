"""What a packed file holds: the shapes and formats of a layer's tensors. FORMAT.md tells the whole; this is the table.

    LAYER.data           the weight in panels of 16 outputs, as the kernels read it
    LAYER.scales         F32, one per column of the panels      (integer kinds)
    LAYER.sums           I32, sums of a column's integers       (integer kinds)
    LAYER.group_scales   U8                                     (i4)
    LAYER.bias           F32, padded to whole panels            (where the layer has one)

An upsampled convolution has data, scales, sums and group_scales four times: LAYER.data.00, .01, .10, .11.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

FORMAT, VERSION = "tinydiff-packed", 1
ALIGNMENT = 64
PANEL, GATE_WIDTH, CHANNEL_MULTIPLE, GROUP = 16, 8, 8, 32
KINDS = ("f32", "f16", "i8", "i8_limited", "i4")
USES = ("plain", "gated", "upsampled")
CLASSES = ("00", "01", "10", "11")  # row and column parity of the output pixels of an upsampled convolution
LARGEST = {"i8": 127, "i8_limited": 127, "i4": 7}  # "wmax": no integer is larger
LARGEST_GROUP_SCALE = 63
BITS = {"f32": 32, "f16": 16, "i8": 8, "i8_limited": 8, "i4": 4}
BIG = ("data", "group_scales")  # what grows with the weight; the rest are vectors, and lie together
PADDING = "padding."  # names of the tensors that only fill up to a multiple of 64 bytes


class Part(NamedTuple):
    """One tensor of a layer."""

    name: str  # "data", "scales.01", "bias"
    dtype: str
    shape: tuple[int, ...]

    @property
    def big(self) -> bool:
        return self.name.split(".")[0] in BIG

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * {"F32": 4, "I32": 4, "F16": 2}.get(self.dtype, 1)


@dataclass(frozen=True)
class LayerFormat:
    """How one weight is stored. `shape` is the weight's own, `[out, in]` or `[out, in, kh, kw]`."""

    name: str
    kind: str
    shape: tuple[int, ...]
    use: str = "plain"
    bias: bool = False

    @property
    def integer(self) -> bool:
        return self.kind in LARGEST

    @property
    def taps(self) -> int:
        return 4 if self.use == "upsampled" else math.prod(self.shape[2:])

    @property
    def outputs(self) -> int:
        """Columns of the result: of a gated layer its values."""
        return self.shape[0] // (2 if self.use == "gated" else 1)

    @property
    def columns(self) -> int:
        """Columns of the panels."""
        if self.use == "gated":
            return 2 * _up(self.outputs, GATE_WIDTH)
        return _up(self.outputs, PANEL)

    @property
    def suffixes(self) -> tuple[str, ...]:
        return tuple(f".{c}" for c in CLASSES) if self.use == "upsampled" else ("",)

    @property
    def data(self) -> Part:
        panels, inputs = self.columns // PANEL, self.shape[1]
        if self.kind == "i4":
            return Part("data", "U8", (panels, self.taps, _up(inputs, GROUP) // 8, PANEL, 4))
        if self.integer:
            return Part("data", "I8", (panels, self.taps, _up(inputs, CHANNEL_MULTIPLE) // 4, PANEL, 4))
        return Part("data", self.kind.upper(), (panels, self.taps, inputs, PANEL))

    def parts(self) -> Iterator[Part]:
        """Every tensor of the layer."""
        panels = self.columns // PANEL
        for suffix in self.suffixes:
            yield self.data._replace(name=f"data{suffix}")
            if self.kind == "i4":
                groups = (panels, self.taps, _up(self.shape[1], GROUP) // GROUP, PANEL)
                yield Part(f"group_scales{suffix}", "U8", groups)
            if self.integer:
                yield Part(f"scales{suffix}", "F32", (self.columns,))
                yield Part(f"sums{suffix}", "I32", (self.columns,))
        if self.bias:
            yield Part("bias", "F32", (self.columns,))

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts())

    def problem(self) -> str | None:
        """Why there can be no such layer, or None."""
        if self.kind not in KINDS:
            return f"its kind is {self.kind!r:.40}; known are {', '.join(KINDS)}"
        if self.use not in USES:
            return f"its use is {self.use!r:.40}; known are {', '.join(USES)}"
        if len(self.shape) not in (2, 4) or not all(1 <= d < 2**24 for d in self.shape):
            return f"its shape {list(self.shape)[:9]} is not that of a matrix or a convolution"
        if self.use == "gated" and (len(self.shape) != 2 or self.shape[0] % 2):
            return f"a gated layer has an even number of rows, not the shape {list(self.shape)}"
        if self.use == "upsampled" and self.shape[2:] != (3, 3):
            return f"an upsampled convolution is 3x3, not of the shape {list(self.shape)}"
        if self.use == "upsampled" and self.kind == "f16":
            return "an upsampled convolution has sums of its weights, and a sum of halves is no half"
        return None

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "kind": self.kind, "shape": list(self.shape), "use": self.use, "bias": self.bias}


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
