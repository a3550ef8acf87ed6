"""Linear layers and convolutions: nearly all of the work."""

from __future__ import annotations

from dataclasses import dataclass

from tinydiff_kernels.handles import ConvWeight, LinearWeight
from tinydiff_kernels.operations.base import Activation, Border, Matmul, Padding
from tinydiff_kernels.rows import Grid, Rows


@dataclass(frozen=True, eq=False)
class Linear(Matmul):
    """y = x @ weight.T + bias, row by row: linear layers and 1x1 convolutions."""

    weight: LinearWeight
    table: Rows | None = None
    residual: Rows | None = None
    activation: Activation | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_shape("table", self.table, Grid(self.grid.batch, 1, 1), self.channels)
        self.need_shape("residual", self.residual, self.grid, self.channels)


@dataclass(frozen=True, eq=False)
class Geglu(Matmul):
    """value * gelu(gate), where [value, gate] = x @ weight.T + bias (Shazeer 2020, arXiv:2002.05202).

    One operation, so that a kernel never has to write the wide intermediate whole.
    """

    weight: LinearWeight

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.weight.outputs % 2 == 0, "an odd number of outputs cannot be split")

    @property
    def channels(self) -> int:
        return self.weight.outputs // 2


@dataclass(frozen=True, eq=False)
class Conv(Matmul):
    """2-D convolution; with `upsample_to`, of the input enlarged to (height, width) by nearest neighbour."""

    weight: ConvWeight
    stride: int = 1
    padding: Padding = (1, 1, 1, 1)
    upsample_to: tuple[int, int] | None = None
    border: Border = "zero"
    table: Rows | None = None
    residual: Rows | None = None
    activation: Activation | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.stride >= 1 and min(self.padding) >= 0, "stride below 1 or negative padding")
        self.need(min(self.size) >= 1, "cannot enlarge to an empty image")
        self.need(min(self.grid.height, self.grid.width) >= 1, "image smaller than the kernel")
        wraps = max(self.padding[:2]) <= self.size[0] and max(self.padding[2:]) <= self.size[1]
        self.need(self.border == "zero" or wraps, "circular border wider than the image")
        self.need_shape("table", self.table, Grid(self.grid.batch, 1, 1), self.channels)
        self.need_shape("residual", self.residual, self.grid, self.channels)

    @property
    def doubles(self) -> bool:
        """Nearest-2x and a plain 3x3 convolution: four classes of 2x2 taps on the small image do the same."""
        twice = self.upsample_to == (2 * self.x.grid.height, 2 * self.x.grid.width)
        return twice and self.weight.kernel == (3, 3) and self.stride == 1 and self.padding == (1, 1, 1, 1)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image the taps read, without its border."""
        return self.upsample_to or (self.x.grid.height, self.x.grid.width)

    @property
    def grid(self) -> Grid:
        (height, width), (kernel_h, kernel_w) = self.size, self.weight.kernel
        top, bottom, left, right = self.padding
        return Grid(
            self.x.grid.batch,
            (height + top + bottom - kernel_h) // self.stride + 1,
            (width + left + right - kernel_w) // self.stride + 1,
        )

    @property
    def macs(self) -> int:
        kernel_h, kernel_w = self.weight.kernel
        return self.grid.rows * self.weight.inputs * self.weight.outputs * kernel_h * kernel_w
