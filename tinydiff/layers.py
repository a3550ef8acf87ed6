"""The layers that the networks share. Each holds weight handles; `backend` runs the operations.

Resnet             norm -> SiLU -> conv -> (+ time) -> norm -> SiLU -> conv -> + shortcut
SpatialTransformer norm -> proj -> n x [self-attention, cross-attention, feed-forward] -> proj -> + input
Downsample, Upsample
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tinydiff.parameters import Parameters
from tinydiff_kernels.backend import Backend
from tinydiff_kernels.operations import Border, Padding
from tinydiff_kernels.rows import Rows


@dataclass(eq=False)
class Context:
    """What cross-attention attends to. Its keys and values depend on the prompt alone: computed once, kept.

    `hidden` `[B, tokens, D]` as rows; `lengths` `[B]`: how many of the tokens count; `extra`: layer name ->
    [(keys, values, scale)], attended to beside the text (IP-Adapter, Ye et al. 2023, arXiv:2308.06721).
    """

    hidden: Rows
    lengths: NDArray[np.int64] | None = None
    extra: dict[str, list[tuple[Rows, Rows, float]]] = field(default_factory=dict)
    _kept: dict[str, tuple[Rows, Rows]] = field(default_factory=dict)

    def keys_values(self, layer: str, compute: Callable[[], tuple[Rows, Rows]]) -> tuple[Rows, Rows]:
        """The keys and values of `layer` for this prompt, computed at the first call."""
        if layer not in self._kept:
            self._kept[layer] = compute()
        return self._kept[layer]


class Resnet:
    """ResNet block (He et al. 2015, arXiv:1512.03385) with pre-normalisation and a time embedding.

    `time_channels` None: no time embedding (VAE). `scale_shift`: the embedding scales and shifts the second
    norm instead of being added (arXiv:2105.05233).
    """

    def __init__(
        self,
        p: Parameters,
        inputs: int,
        outputs: int,
        groups: int,
        eps: float,
        time_channels: int | None = None,
        scale_shift: bool = False,
        border: Border = "zero",
    ) -> None:
        self.groups, self.eps, self.scale_shift, self.border = groups, eps, scale_shift, border
        self.norm1 = p.norm("norm1", inputs)
        self.conv1 = p.conv("conv1", inputs, outputs)
        self.time = None
        if time_channels is not None:
            self.time = p.linear("time_emb_proj", time_channels, outputs * (2 if scale_shift else 1))
        self.norm2 = p.norm("norm2", outputs)
        self.conv2 = p.conv("conv2", outputs, outputs)
        self.shortcut = p.linear("conv_shortcut", inputs, outputs, as_conv=True) if inputs != outputs else None

    def __call__(self, backend: Backend, x: Rows, time: Rows | None = None) -> Rows:
        """`time` `[B, time_channels]` is the embedding after SiLU: one activation serves all blocks."""
        table = None if self.time is None or time is None else backend.linear(time, self.time)
        added, modulating = (None, table) if self.scale_shift else (table, None)
        h = backend.group_norm(x, self.norm1, self.groups, self.eps, activation="silu")
        h = backend.conv(h, self.conv1, table=added, border=self.border)
        h = backend.group_norm(h, self.norm2, self.groups, self.eps, activation="silu", scale_shift=modulating)
        residual = x if self.shortcut is None else backend.linear(x, self.shortcut)
        return backend.conv(h, self.conv2, residual=residual, border=self.border)


class CrossAttention:
    """Multi-head attention of x to itself, or to a context. Keys and values of a context are kept there."""

    def __init__(self, p: Parameters, name: str, channels: int, context: int | None, heads: int) -> None:
        inner = p.scope(name)
        self.heads = heads
        self.to_q = inner.linear("to_q", channels, channels, bias=False)
        self.to_k = inner.linear("to_k", context or channels, channels, bias=False)
        self.to_v = inner.linear("to_v", context or channels, channels, bias=False)
        self.to_out = inner.linear("to_out.0", channels, channels)

    @property
    def name(self) -> str:
        """Where this layer sits in the network: the key of what a context keeps for it."""
        return self.to_k.name.removesuffix(".to_k")

    def __call__(self, backend: Backend, x: Rows, residual: Rows, context: Context | None = None) -> Rows:
        q = backend.linear(x, self.to_q)
        if context is None:
            h = backend.attention(q, backend.linear(x, self.to_k), backend.linear(x, self.to_v), self.heads)
            return backend.linear(h, self.to_out, residual=residual)
        hidden = context.hidden
        k, v = context.keys_values(
            self.name, lambda: (backend.linear(hidden, self.to_k), backend.linear(hidden, self.to_v))
        )
        h = backend.attention(q, k, v, self.heads, lengths=context.lengths)
        for k, v, scale in context.extra.get(self.name, ()):
            h = backend.add(h, backend.attention(q, k, v, self.heads), scale)
        return backend.linear(h, self.to_out, residual=residual)


class TransformerBlock:
    """Self-attention, cross-attention and GEGLU feed-forward, each on a layer norm and added to its input."""

    def __init__(self, p: Parameters, channels: int, context: int, heads: int) -> None:
        self.norm1 = p.norm("norm1", channels)
        self.attn1 = CrossAttention(p, "attn1", channels, None, heads)
        self.norm2 = p.norm("norm2", channels)
        self.attn2 = CrossAttention(p, "attn2", channels, context, heads)
        self.norm3 = p.norm("norm3", channels)
        self.widen = p.linear("ff.net.0.proj", channels, 8 * channels)
        self.narrow = p.linear("ff.net.2", 4 * channels, channels)

    def __call__(self, backend: Backend, x: Rows, context: Context) -> Rows:
        x = self.attn1(backend, backend.layer_norm(x, self.norm1, 1e-5), x)
        x = self.attn2(backend, backend.layer_norm(x, self.norm2, 1e-5), x, context)
        h = backend.geglu(backend.layer_norm(x, self.norm3, 1e-5), self.widen)
        return backend.linear(h, self.narrow, residual=x)


class SpatialTransformer:
    """Transformer blocks over the pixels of an image (Rombach et al. 2022, arXiv:2112.10752, appendix)."""

    def __init__(
        self, p: Parameters, channels: int, context: int, heads: int, depth: int, groups: int, linear: bool
    ) -> None:
        self.groups = groups
        self.norm = p.norm("norm", channels)
        self.proj_in = p.linear("proj_in", channels, channels, as_conv=not linear)
        blocks = range(depth)
        self.blocks = [TransformerBlock(p.scope("transformer_blocks", i), channels, context, heads) for i in blocks]
        self.proj_out = p.linear("proj_out", channels, channels, as_conv=not linear)

    def __call__(self, backend: Backend, x: Rows, context: Context) -> Rows:
        h = backend.group_norm(x, self.norm, self.groups, 1e-6)
        h = backend.linear(h, self.proj_in)
        for block in self.blocks:
            h = block(backend, h, context)
        return backend.linear(h, self.proj_out, residual=x)


class Downsample:
    """3x3 convolution of stride 2. The VAE pads below and to the right only."""

    def __init__(self, p: Parameters, channels: int, padding: Padding, border: Border = "zero") -> None:
        self.conv, self.padding, self.border = p.conv("conv", channels, channels), padding, border

    def __call__(self, backend: Backend, x: Rows) -> Rows:
        return backend.conv(x, self.conv, stride=2, padding=self.padding, border=self.border)


class Upsample:
    """Nearest neighbour to twice the size (or to `size`), then a 3x3 convolution, as one operation."""

    def __init__(self, p: Parameters, channels: int, border: Border = "zero") -> None:
        self.conv, self.border = p.conv("conv", channels, channels), border

    def __call__(self, backend: Backend, x: Rows, size: tuple[int, int] | None = None) -> Rows:
        target = size or (2 * x.grid.height, 2 * x.grid.width)
        return backend.conv(x, self.conv, upsample_to=target, border=self.border)
