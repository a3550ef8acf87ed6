"""The UNet that predicts the noise (Rombach et al. 2022, arXiv:2112.10752; diffusers' UNet2DConditionModel).

sample -> conv_in -> down blocks ---- mid ---- up blocks -> norm -> conv_out
                        |  every layer's output  ^
                        +------------------------+  concatenated, last first
timestep (and guidance scale, pooled text, sizes) -> one vector, added inside every resnet
context (the prompt) -> cross-attention
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff.config import UNetConfig
from tinydiff.errors import InvalidArgumentError
from tinydiff.layers import Context, Downsample, Resnet, SpatialTransformer, Upsample
from tinydiff.parameters import Parameters
from tinydiff_kernels.backend import Backend
from tinydiff_kernels.operations import Border
from tinydiff_kernels.rows import Array, Rows, ShapeError, nchw_from_rows, rows_from_nchw, rows_from_tokens

SAME = (1, 1, 1, 1)


@dataclass(frozen=True, eq=False)
class Added:
    """What SDXL adds to the time embedding: pooled text `[B, P]`, and `[B, 6]` sizes and crops."""

    text_embeds: Array
    time_ids: Array


@dataclass(eq=False)
class Deep:
    """Step caching (DeepCache, Ma et al. 2023, arXiv:2312.00858): remember what rises from the deep blocks.

    Only the `levels` shallowest resolutions are computed when `remembered` holds what the deeper ones gave to
    the shallow ones at an earlier step; when it is None all are computed, and it is remembered. `levels` must
    leave something out: from 1 to the number of resolutions less one.
    """

    levels: int
    remembered: Rows | None = None

    def exchange(self, x: Rows) -> Rows:
        """Called where the deep part hands over to the shallow one."""
        if self.remembered is None:
            self.remembered = x
        return self.remembered


class _Stage:
    """One resolution on the way down or up: resnets, each with a transformer or without, then a resize."""

    def __init__(self, p: Parameters, c: UNetConfig, widths: Sequence[tuple[int, int]], attention: _Attention) -> None:
        time, scale, border = c.time_embed_dim, c.time_scale_shift, attention.border
        self.resnets = [
            Resnet(p.scope("resnets", i), a, b, c.norm_num_groups, c.norm_eps, time, scale, border)
            for i, (a, b) in enumerate(widths)
        ]
        self.transformers = [
            SpatialTransformer(
                p.scope("attentions", i), b, attention.context, attention.heads, depth, c.norm_num_groups,
                c.use_linear_projection,
            )
            for i, ((_, b), depth) in enumerate(zip(widths, attention.depths, strict=False))
        ]  # fmt: skip

    def layer(self, backend: Backend, i: int, x: Rows, time: Rows, context: Context) -> Rows:
        x = self.resnets[i](backend, x, time)
        return self.transformers[i](backend, x, context) if self.transformers else x


@dataclass(frozen=True)
class _Attention:
    """The attention settings of one stage; no depths: no attention."""

    context: int
    heads: int
    depths: tuple[int, ...]
    border: Border


class UNet:
    """Forward only. `border="circular"` makes seamless textures."""

    def __init__(
        self, config: UNetConfig, parameters: Parameters, backend: Backend, *, border: Border = "zero"
    ) -> None:
        c, p = config, parameters
        self.config, self.backend, self.border = config, backend, border
        channels = c.block_out_channels
        last = len(channels) - 1
        self.conv_in = p.conv("conv_in", c.in_channels, channels[0], c.conv_in_kernel)
        self.time_1 = p.linear("time_embedding.linear_1", channels[0], c.time_embed_dim)
        self.time_2 = p.linear("time_embedding.linear_2", c.time_embed_dim, c.time_embed_dim)
        self.cond_proj = None
        if c.time_cond_proj_dim is not None:
            self.cond_proj = p.linear("time_embedding.cond_proj", c.time_cond_proj_dim, channels[0], bias=False)
        self.add_1 = self.add_2 = None
        if c.text_time is not None:
            self.add_1 = p.linear("add_embedding.linear_1", c.text_time[1], c.time_embed_dim)
            self.add_2 = p.linear("add_embedding.linear_2", c.time_embed_dim, c.time_embed_dim)

        self.down: list[tuple[_Stage, Downsample | None]] = []
        skips = [channels[0]]  # widths of what the way up will concatenate
        for i, width in enumerate(channels):
            q = p.scope("down_blocks", i)
            depths = c.down_depths[i] if c.down_attention[i] else ()
            before = channels[max(i - 1, 0)]
            widths = [(before, width)] + [(width, width)] * (c.layers_per_block[i] - 1)
            stage = _Stage(q, c, widths, _Attention(c.cross_attention_dim[i], c.heads[i], depths, border))
            resize = Downsample(q.scope("downsamplers", 0), width, SAME, border) if i < last else None
            self.down.append((stage, resize))
            skips += [width] * (c.layers_per_block[i] + (i < last))
        self.skips = len(skips)  # how many down_residuals it takes

        self.mid: _Stage | None = None
        if c.mid is not None:
            depths = (c.mid_depth,) if c.mid == "cross" else ()
            widths = [(channels[-1], channels[-1])] * (2 if c.mid == "cross" else 1)
            attention = _Attention(c.cross_attention_dim[-1], c.heads[-1], depths, border)
            self.mid = _Stage(p.scope("mid_block"), c, widths, attention)

        self.up: list[tuple[_Stage, Upsample | None]] = []
        below = channels[-1]
        for i in range(len(channels)):
            level = last - i
            q, width = p.scope("up_blocks", i), channels[level]
            count = c.layers_per_block[level] + 1
            widths = [((below if j == 0 else width) + skips.pop(), width) for j in range(count)]
            depths = c.up_depths[i] if c.up_attention[i] else ()
            stage = _Stage(q, c, widths, _Attention(c.cross_attention_dim[level], c.heads[level], depths, border))
            self.up.append((stage, Upsample(q.scope("upsamplers", 0), width, border) if i < last else None))
            below = width

        self.norm_out = p.norm("conv_norm_out", channels[0])
        self.conv_out = p.conv("conv_out", channels[0], c.out_channels, c.conv_out_kernel)
        p.finish()
        self.weights = p.weights

    def embed_time(self, backend: Backend, timesteps: Array, added: Added | None, timestep_cond: Array | None) -> Rows:
        """timesteps `[B]` -> the embedding after its SiLU, `[B, time_embed_dim]`; one for all resnets."""
        c = self.config
        x = self._sinusoids(backend, timesteps[:, None], c.block_out_channels[0])
        if self.cond_proj is not None and timestep_cond is not None:
            x = backend.linear(_vectors(timestep_cond), self.cond_proj, residual=x)
        time = backend.linear(backend.linear(x, self.time_1, activation="silu"), self.time_2)
        if c.text_time is not None and self.add_1 is not None and self.add_2 is not None:
            if added is None:
                raise InvalidArgumentError("this UNet needs added={'text_embeds': ..., 'time_ids': ...} (SDXL)")
            ids = self._sinusoids(backend, added.time_ids, c.text_time[0])
            vector = backend.concat(_vectors(added.text_embeds), ids)
            h = backend.linear(vector, self.add_1, activation="silu")
            time = backend.linear(h, self.add_2, residual=time)
        return backend.activate(time, "silu")

    def _sinusoids(self, backend: Backend, numbers: Array, dim: int) -> Rows:
        flip, shift = self.config.flip_sin_to_cos, self.config.freq_shift
        return backend.timestep_embedding(numbers, dim, flip_sin_to_cos=flip, freq_shift=shift)

    def forward(
        self,
        backend: Backend,
        sample: Rows,
        timesteps: Array,
        context: Context,
        *,
        added: Added | None = None,
        timestep_cond: Array | None = None,
        down_residuals: Sequence[Rows] | None = None,
        mid_residual: Rows | None = None,
        deep: Deep | None = None,
    ) -> Rows:
        """One prediction: sample rows (B, h, w) of in_channels -> rows of out_channels; timesteps `[B]`.

        `down_residuals` (one per skip, first to last) and `mid_residual` are added to the skips and to the mid
        block's output (ControlNet, arXiv:2302.05543). `deep`: leave out the deep blocks, see `Deep`.
        """
        if deep is not None and not 1 <= deep.levels < len(self.down):
            raise InvalidArgumentError(f"deep.levels is {deep.levels}: 1 to {len(self.down) - 1} leave something out")
        time = self.embed_time(backend, timesteps, added, timestep_cond)
        levels = len(self.down) if deep is None or deep.remembered is None else deep.levels
        x = backend.conv(sample, self.conv_in, padding=(self.config.conv_in_kernel // 2,) * 4, border=self.border)
        x, skips = self._go_down(backend, x, time, context, levels)
        if down_residuals is not None:
            skips = [backend.add(s, r) for s, r in zip(skips, down_residuals, strict=False)]
        if levels == len(self.down):
            x = self._middle(backend, x, time, context, mid_residual)
        x = self._go_up(backend, x, skips, time, context, levels, deep)
        c = self.config
        h = backend.group_norm(x, self.norm_out, c.norm_num_groups, c.norm_eps, activation="silu")
        return backend.conv(h, self.conv_out, padding=(c.conv_out_kernel // 2,) * 4, border=self.border)

    def _go_down(self, backend: Backend, x: Rows, time: Rows, context: Context, levels: int) -> tuple[Rows, list[Rows]]:
        """The `levels` highest resolutions; their skips, first to last."""
        skips = [x]
        for level, (stage, resize) in enumerate(self.down[:levels]):
            for i in range(len(stage.resnets)):
                x = stage.layer(backend, i, x, time, context)
                skips.append(x)
            if resize is not None and (levels == len(self.down) or level < levels - 1):
                x = resize(backend, x)
                skips.append(x)
        return x, skips

    def _middle(self, backend: Backend, x: Rows, time: Rows, context: Context, residual: Rows | None) -> Rows:
        if self.mid is not None:
            x = self.mid.resnets[0](backend, x, time)
            for transformer, resnet in zip(self.mid.transformers, self.mid.resnets[1:], strict=True):
                x = resnet(backend, transformer(backend, x, context), time)
        return x if residual is None else backend.add(x, residual)

    def _go_up(
        self,
        backend: Backend,
        x: Rows,
        skips: list[Rows],
        time: Rows,
        context: Context,
        levels: int,
        deep: Deep | None,
    ) -> Rows:
        for level, (stage, resize) in zip(reversed(range(len(self.up))), self.up, strict=True):
            if deep is not None and level == deep.levels - 1:
                x = deep.exchange(x)
            if level >= levels:
                continue
            for i in range(len(stage.resnets)):
                x = stage.layer(backend, i, backend.concat(x, skips.pop()), time, context)
            if resize is not None:
                above = skips[-1].grid  # sizes that were not even going down: the skip tells what to go back to
                x = resize(backend, x, (above.height, above.width))
        return x

    def __call__(
        self,
        sample: NDArray[np.float32],
        timestep: float | Array,
        context: NDArray[np.float32] | Context,
        *,
        added: Mapping[str, Array] | None = None,
        timestep_cond: Array | None = None,
        down_residuals: Sequence[Array] | None = None,
        mid_residual: Array | None = None,
    ) -> NDArray[np.float32]:
        """sample `[B, C, h, w]`, timestep a number or `[B]`, context `[B, T, D]` -> `[B, out, h, w]`, all float32.

        `added` for SDXL: {"text_embeds" `[B, P]`, "time_ids" `[B, 6]`}. Raises InvalidArgumentError.
        """
        timesteps = np.asarray(timestep)
        residuals = None if down_residuals is None else list(down_residuals)
        shape = self._check(np.shape(sample), timesteps, timestep_cond, residuals, mid_residual)
        if not isinstance(context, Context):
            if np.ndim(context) != 3:
                raise InvalidArgumentError(f"context has shape {np.shape(context)}, not (batch, tokens, channels)")
            context = Context(rows_from_tokens(np.asarray(context, np.float32)))
        holds = context.hidden.grid.batch, context.hidden.channels
        needed = shape[0], self.config.cross_attention_dim[0]
        if holds != needed:
            raise InvalidArgumentError("context holds {} x {} channels, not {} x {}".format(*holds, *needed))
        try:
            out = self.forward(
                self.backend,
                _image(sample),
                np.broadcast_to(timesteps.astype(np.float32).reshape(-1), (shape[0],)),
                context,
                added=None if added is None else self._added(added, shape[0]),
                timestep_cond=timestep_cond,
                down_residuals=None if residuals is None else [_image(r) for r in residuals],
                mid_residual=None if mid_residual is None else _image(mid_residual),
            )
        except ShapeError as error:  # of a residual or an added vector: only the layer it meets knows its size
            raise InvalidArgumentError(f"an argument of the UNet has the wrong size: {error}") from error
        return nchw_from_rows(out).astype(np.float32, copy=False)

    def _check(
        self,
        shape: tuple[int, ...],
        timesteps: NDArray[Any],
        timestep_cond: Array | None,
        residuals: list[Array] | None,
        mid_residual: Array | None,
    ) -> tuple[int, ...]:
        """The sample's shape, if everything that can be told without computing fits it."""
        c = self.config
        if len(shape) != 4 or shape[1] != c.in_channels or min(shape) < 1:
            raise InvalidArgumentError(f"sample has shape {shape}, not (batch, {c.in_channels}, height, width)")
        if timesteps.dtype.kind not in "iuf" or timesteps.shape not in ((), (1,), (shape[0],)):
            what = f"{timesteps.dtype} of shape {timesteps.shape}"
            raise InvalidArgumentError(f"timestep is {what}, not a number or an array of shape ({shape[0]},)")
        if timestep_cond is not None and np.shape(timestep_cond) != (shape[0], c.time_cond_proj_dim):
            takes = f"({shape[0]}, {c.time_cond_proj_dim})" if c.time_cond_proj_dim else "none at all"
            raise InvalidArgumentError(f"timestep_cond has shape {np.shape(timestep_cond)}, this UNet takes {takes}")
        if residuals is not None and len(residuals) != self.skips:
            raise InvalidArgumentError(f"{len(residuals)} down_residuals, but this UNet has {self.skips} skips")
        for residual in [*(residuals or []), mid_residual]:
            if residual is not None and np.ndim(residual) != 4:
                raise InvalidArgumentError(
                    f"residual of shape {np.shape(residual)}: expected (batch, C, height, width)"
                )
        return shape

    def _added(self, added: Mapping[str, Array], batch: int) -> Added:
        missing = {"text_embeds", "time_ids"} - set(added)
        if missing:
            raise InvalidArgumentError(f"added lacks {', '.join(sorted(missing))}")
        text, ids = (np.asarray(added[k], np.float32) for k in ("text_embeds", "time_ids"))
        if text.ndim != 2 or ids.ndim != 2 or len(text) != batch or len(ids) != batch:
            raise InvalidArgumentError(f"added holds shapes {text.shape} and {ids.shape} for a batch of {batch}")
        if self.config.text_time is not None:
            each, wanted = self.config.text_time
            if text.shape[1] + each * ids.shape[1] != wanted:
                what = f"{text.shape[1]} text_embeds and {ids.shape[1]} time_ids (times {each})"
                raise InvalidArgumentError(f"added holds {what} per image, {wanted} in all are needed")
        return Added(text, ids)


def _image(x: Array) -> Rows:
    """`[B, C, H, W]` as rows of float32."""
    return rows_from_nchw(np.asarray(x, np.float32))


def _vectors(x: Array) -> Rows:
    """`[B, C]` as rows of one per image."""
    matrix = np.asarray(x, np.float32)
    return rows_from_tokens(matrix[:, None])
