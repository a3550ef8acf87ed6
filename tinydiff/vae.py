"""The autoencoder between pixels and latents (diffusers' AutoencoderKL; Rombach et al. 2022, arXiv:2112.10752).

encode: image -> conv_in -> [resnets, downsample] x n -> mid -> norm -> conv_out -> quant_conv -> mean
decode: latents -> post_quant_conv -> conv_in -> mid -> [resnets, upsample] x n -> norm -> conv_out -> image
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydiff.config import VAEConfig
from tinydiff.errors import InvalidArgumentError
from tinydiff.layers import Downsample, Resnet, Upsample
from tinydiff.parameters import Parameters
from tinydiff_kernels.backend import Backend
from tinydiff_kernels.operations import Border
from tinydiff_kernels.rows import Rows, nchw_from_rows, rows_from_nchw

EPS = 1e-6
BELOW_RIGHT = (0, 1, 0, 1)


class _Mid:
    """Resnet, single-head attention over all pixels (where the config has it), resnet."""

    def __init__(self, p: Parameters, c: VAEConfig, border: Border) -> None:
        channels, groups = c.block_out_channels[-1], c.norm_num_groups
        self.groups = groups
        self.resnets = [Resnet(p.scope("resnets", i), channels, channels, groups, EPS, border=border) for i in (0, 1)]
        self.norm = None
        if c.mid_block_add_attention:
            a = p.scope("attentions", 0)
            self.norm = a.norm("group_norm", channels)
            self.q, self.k, self.v, self.out = (
                a.linear(name, channels, channels) for name in ("to_q", "to_k", "to_v", "to_out.0")
            )

    def __call__(self, backend: Backend, x: Rows) -> Rows:
        x = self.resnets[0](backend, x)
        if self.norm is not None:
            h = backend.group_norm(x, self.norm, self.groups, EPS)
            q, k, v = backend.linear(h, self.q), backend.linear(h, self.k), backend.linear(h, self.v)
            x = backend.linear(backend.attention(q, k, v, heads=1), self.out, residual=x)
        return self.resnets[1](backend, x)


class Encoder:
    """Image rows -> rows of twice the latent channels: means, then log variances."""

    def __init__(self, p: Parameters, c: VAEConfig, border: Border) -> None:
        channels, groups = c.block_out_channels, c.norm_num_groups
        self.groups, self.border = groups, border
        self.conv_in = p.conv("conv_in", c.in_channels, channels[0])
        self.stages: list[tuple[list[Resnet], Downsample | None]] = []
        width = channels[0]
        for i, after in enumerate(channels):
            q = p.scope("down_blocks", i)
            widths = [(width, after)] + [(after, after)] * (c.layers_per_block - 1)
            resnets = [
                Resnet(q.scope("resnets", j), a, b, groups, EPS, border=border) for j, (a, b) in enumerate(widths)
            ]
            final = i == len(channels) - 1
            resize = None if final else Downsample(q.scope("downsamplers", 0), after, BELOW_RIGHT, border)
            self.stages.append((resnets, resize))
            width = after
        self.mid = _Mid(p.scope("mid_block"), c, border)
        self.norm_out = p.norm("conv_norm_out", width)
        self.conv_out = p.conv("conv_out", width, 2 * c.latent_channels)

    def __call__(self, backend: Backend, image: Rows) -> Rows:
        x = backend.conv(image, self.conv_in, border=self.border)
        for resnets, resize in self.stages:
            for resnet in resnets:
                x = resnet(backend, x)
            if resize is not None:
                x = resize(backend, x)
        x = backend.group_norm(self.mid(backend, x), self.norm_out, self.groups, EPS, activation="silu")
        return backend.conv(x, self.conv_out, border=self.border)


class Decoder:
    """Latent rows -> image rows."""

    def __init__(self, p: Parameters, c: VAEConfig, border: Border) -> None:
        channels, groups = c.block_out_channels[::-1], c.norm_num_groups
        self.groups, self.border = groups, border
        self.conv_in = p.conv("conv_in", c.latent_channels, channels[0])
        self.mid = _Mid(p.scope("mid_block"), c, border)
        self.stages: list[tuple[list[Resnet], Upsample | None]] = []
        width = channels[0]
        for i, after in enumerate(channels):
            q = p.scope("up_blocks", i)
            widths = [(width, after)] + [(after, after)] * c.layers_per_block
            resnets = [
                Resnet(q.scope("resnets", j), a, b, groups, EPS, border=border) for j, (a, b) in enumerate(widths)
            ]
            final = i == len(channels) - 1
            self.stages.append((resnets, None if final else Upsample(q.scope("upsamplers", 0), after, border)))
            width = after
        self.norm_out = p.norm("conv_norm_out", width)
        self.conv_out = p.conv("conv_out", width, c.out_channels)

    def __call__(self, backend: Backend, latents: Rows) -> Rows:
        x = self.mid(backend, backend.conv(latents, self.conv_in, border=self.border))
        for resnets, resize in self.stages:
            for resnet in resnets:
                x = resnet(backend, x)
            if resize is not None:
                x = resize(backend, x)
        x = backend.group_norm(x, self.norm_out, self.groups, EPS, activation="silu")
        return backend.conv(x, self.conv_out, border=self.border)


class VAE:
    """Encoder and decoder with their 1x1 convolutions. Latents here are unscaled (see `scaling_factor`)."""

    def __init__(self, config: VAEConfig, parameters: Parameters, backend: Backend, *, border: Border = "zero") -> None:
        c, p = config, parameters
        self.config, self.backend = config, backend
        self.encoder = Encoder(p.scope("encoder"), c, border)
        self.decoder = Decoder(p.scope("decoder"), c, border)
        both = 2 * c.latent_channels
        self.quant = p.linear("quant_conv", both, both, as_conv=True) if c.use_quant_conv else None
        self.post_quant = None
        if c.use_post_quant_conv:
            self.post_quant = p.linear("post_quant_conv", c.latent_channels, c.latent_channels, as_conv=True)
        p.finish()
        self.weights = p.weights

    def forward_decode(self, backend: Backend, latents: Rows) -> Rows:
        x = latents if self.post_quant is None else backend.linear(latents, self.post_quant)
        return self.decoder(backend, x)

    def forward_encode(self, backend: Backend, image: Rows) -> Rows:
        """Means and log variances, `[rows, 2 * latent_channels]`."""
        moments = self.encoder(backend, image)
        return moments if self.quant is None else backend.linear(moments, self.quant)

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Latents `[B, C, h, w]`, already divided by scaling_factor -> `[B, 3, h*factor, w*factor]`, nominally
        in [-1, 1], never clamped."""
        check_channels("latents", latents, self.config.latent_channels)
        out = self.forward_decode(self.backend, rows_from_nchw(np.asarray(latents, np.float32)))
        return nchw_from_rows(out).astype(np.float32, copy=False)

    def encode(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Image `[B, 3, H, W]` in [-1, 1] -> unscaled mean latents `[B, C, H/factor, W/factor]`."""
        check_channels("image", image, self.config.in_channels, self.config.factor)
        moments = self.forward_encode(self.backend, rows_from_nchw(np.asarray(image, np.float32)))
        return nchw_from_rows(moments)[:, : self.config.latent_channels].astype(np.float32, copy=False)


def check_channels(what: str, x: NDArray[np.float32], channels: int, factor: int = 1) -> None:
    """Raise InvalidArgumentError unless x is `[B, channels, H, W]`, not empty, with sides of whole factors."""
    shape = np.shape(x)
    if len(shape) != 4 or shape[1] != channels or min(shape) < 1:
        raise InvalidArgumentError(f"{what} of shape {shape}: expected (batch, {channels}, height, width)")
    if shape[2] % factor or shape[3] % factor:
        raise InvalidArgumentError(f"{what} of shape {shape}: height and width must be multiples of {factor}")
