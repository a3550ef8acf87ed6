"""What a picture is conditioned on, and guidance as a function over it.

    Prompt          one text, encoded: context tokens, pooled vector, weight, and when it applies
    Conditioning    the prompts to move towards, and the one to move away from
    GuidedUNet      all active prompts as one batch through the same weights, combined to one prediction

Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) with any number of prompts (Liu et al. 2022,
arXiv:2206.01714):

    prediction = negative + scale * sum_i weight_i * (positive_i - negative)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tinydiff.layers import Context
from tinydiff.unet import UNet
from tinydiff_kernels.rows import Rows, rows_from_tokens

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Prompt:
    """One encoded text. `start` and `end` are shares of the steps, 0 to 1."""

    hidden: F32  # [tokens, D]: 77 tokens, or 77 k
    pooled: F32 | None = None  # [P] (SDXL)
    length: int | None = None  # how many of the tokens count; None: all
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    extra: dict[str, list[tuple[Rows, Rows, float]]] = field(default_factory=dict)  # see layers.Context

    def active(self, progress: float) -> bool:
        return self.start <= progress < self.end


@dataclass(frozen=True, eq=False)
class Conditioning:
    """`negative` is used where the guidance scale is above 1."""

    positive: tuple[Prompt, ...]
    negative: Prompt


def combine(
    negative: F32 | None, positive: Sequence[F32], weights: Sequence[float], scale: float, rescale: float
) -> F32:
    """Predictions `[B, C, h, w]` of each prompt -> the guided one.

    Without a negative: the weighted mean. `rescale` (Lin et al. 2023, arXiv:2305.08891, 3.4) pulls the standard
    deviation of each image back to that of the unguided prediction, by that share.
    """
    if negative is None:
        total = sum(weights)
        if len(positive) == 1 or total == 0:
            return positive[0]
        shares = [p * np.float32(w / total) for p, w in zip(positive, weights, strict=True)]
        return np.asarray(np.sum(shares, axis=0), np.float32)
    guided = negative.copy()
    for p, w in zip(positive, weights, strict=True):
        guided += np.float32(scale * w) * (p - negative)
    if rescale > 0 and positive:
        axes = tuple(range(1, guided.ndim))
        spread = positive[0].std(axes, ddof=1, keepdims=True) / guided.std(axes, ddof=1, keepdims=True)
        guided = np.float32(rescale) * (guided * spread) + np.float32(1 - rescale) * guided
    return guided


@dataclass(eq=False)
class GuidedUNet:
    """A UNet with its prompts: `(x, t) -> prediction`. Keys and values of a prompt are computed once and kept."""

    unet: UNet
    conditioning: Conditioning
    scale: float
    rescale: float = 0.0
    time_ids: F32 | None = None  # [6] (SDXL)
    extra_channels: F32 | None = None  # [1, n, h, w], appended to the latents (inpainting models)
    interval: tuple[float, float] = (0.0, 1.0)  # guidance between these shares of the steps only (arXiv:2404.07724)
    _contexts: dict[tuple[int, ...], Context] = field(default_factory=dict)

    def __call__(self, x: F32, t: float, progress: float) -> F32:
        """x `[B, C, h, w]`, already scaled for the model; progress 0 to 1 through the steps."""
        distilled = self.unet.config.time_cond_proj_dim is not None  # guidance is an input of the network (LCM)
        positive = [p for p in self.conditioning.positive if p.active(progress)]
        within = self.interval[0] <= progress < self.interval[1]
        guiding = (self.scale > 1 and within and not distilled) or not positive
        prompts = [self.conditioning.negative] * guiding + positive
        images = x.shape[0]
        if self.extra_channels is not None:
            x = np.concatenate([x, np.broadcast_to(self.extra_channels, (images, *self.extra_channels.shape[1:]))], 1)
        added = None
        if self.time_ids is not None:
            vectors = [np.zeros(0, np.float32) if p.pooled is None else p.pooled for p in prompts]
            added = {
                "text_embeds": np.repeat(np.stack(vectors), images, 0),
                "time_ids": np.tile(self.time_ids, (images * len(prompts), 1)),
            }
        out = self.unet(
            np.tile(x, (len(prompts), 1, 1, 1)),
            t,
            self._context(prompts, images),
            added=added,
            timestep_cond=self._guidance_embedding(images * len(prompts)) if distilled else None,
        )
        parts = np.split(out, len(prompts))
        weights = [p.weight for p in positive]
        return combine(parts[0] if guiding else None, parts[guiding:], weights, self.scale, self.rescale)

    def _context(self, prompts: Sequence[Prompt], images: int) -> Context:
        key = (images, *map(id, prompts))
        if key not in self._contexts:
            tokens = max(len(p.hidden) for p in prompts)
            hidden = np.stack([np.pad(p.hidden, ((0, tokens - len(p.hidden)), (0, 0))) for p in prompts])
            counts = [len(p.hidden) if p.length is None else p.length for p in prompts]
            lengths = None if set(counts) == {tokens} else np.repeat(np.array(counts, np.int64), images)
            self._contexts[key] = Context(
                rows_from_tokens(np.repeat(hidden, images, 0)), lengths, _extra(prompts, images)
            )
        return self._contexts[key]

    def _guidance_embedding(self, batch: int) -> F32:
        """Sinusoids of 1000 (scale - 1), `[B, time_cond_proj_dim]` (Meng et al. 2022, arXiv:2210.03142)."""
        dim = self.unet.config.time_cond_proj_dim or 0
        half = dim // 2
        frequencies = np.exp(np.arange(half, dtype=np.float32) * np.float32(-np.log(10000.0) / (half - 1)))
        angles = np.float32((self.scale - 1) * 1000) * frequencies
        row = np.concatenate([np.sin(angles), np.cos(angles), np.zeros(dim % 2, np.float32)])
        return np.tile(row.astype(np.float32), (batch, 1))


def _extra(prompts: Sequence[Prompt], images: int) -> dict[str, list[tuple[Rows, Rows, float]]]:
    """Extra keys and values of a batch. Prompts share them (the image of an IP-Adapter serves every branch)."""
    first = prompts[-1].extra
    batch = images * len(prompts)
    return {layer: [(_tiled(k, batch), _tiled(v, batch), s) for k, v, s in found] for layer, found in first.items()}


def _tiled(x: Rows, batch: int) -> Rows:
    return Rows(x.grid._replace(batch=batch), x.channels, np.tile(x.array, (batch // x.grid.batch, 1)))
