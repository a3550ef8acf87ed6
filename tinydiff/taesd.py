"""TAESD: a small autoencoder on the same latents (Bohan; diffusers' AutoencoderTiny). Convolutions and ReLU only.

Layers are numbered as in the files: one sequence of convolutions, blocks, activations and upsamplings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydiff.config import TinyVAEConfig
from tinydiff.parameters import Parameters
from tinydiff.vae import check_channels
from tinydiff_kernels.backend import Backend
from tinydiff_kernels.handles import ConvWeight
from tinydiff_kernels.operations import Border
from tinydiff_kernels.rows import Rows, nchw_from_rows, rows_from_nchw


class _Block:
    """relu(conv(relu(conv(relu(conv(x))))) + x)."""

    def __init__(self, p: Parameters, channels: int, border: Border) -> None:
        self.convs = [p.conv(f"conv.{i}", channels, channels) for i in (0, 2, 4)]
        self.border = border

    def __call__(self, backend: Backend, x: Rows) -> Rows:
        h = backend.conv(x, self.convs[0], activation="relu", border=self.border)
        h = backend.conv(h, self.convs[1], activation="relu", border=self.border)
        return backend.conv(h, self.convs[2], residual=x, activation="relu", border=self.border)


class _Encoder:
    def __init__(self, p: Parameters, c: TinyVAEConfig, border: Border) -> None:
        self.border, self.stages, number = border, list[tuple[ConvWeight, list[_Block]]](), 0
        for i, (width, blocks) in enumerate(zip(c.encoder_channels, c.encoder_blocks, strict=True)):
            conv = p.conv(str(number), c.in_channels if i == 0 else width, width, bias=i == 0)
            self.stages.append((conv, [_Block(p.scope(number + 1 + j), width, border) for j in range(blocks)]))
            number += 1 + blocks
        self.conv_out = p.conv(str(number), c.encoder_channels[-1], c.latent_channels)

    def __call__(self, backend: Backend, image: Rows) -> Rows:
        x = backend.affine(image, 0.5, 0.5)  # [-1, 1] -> [0, 1]
        for i, (conv, blocks) in enumerate(self.stages):
            x = backend.conv(x, conv, stride=1 if i == 0 else 2, border=self.border)
            for block in blocks:
                x = block(backend, x)
        return backend.conv(x, self.conv_out, border=self.border)


class _Decoder:
    def __init__(self, p: Parameters, c: TinyVAEConfig, border: Border) -> None:
        self.border, self.stages = border, list[tuple[list[_Block], ConvWeight]]()
        self.conv_in = p.conv("0", c.latent_channels, c.decoder_channels[0])
        number = 2  # 1 is an activation
        for i, (width, blocks) in enumerate(zip(c.decoder_channels, c.decoder_blocks, strict=True)):
            final = i == len(c.decoder_channels) - 1
            made = [_Block(p.scope(number + j), width, border) for j in range(blocks)]
            number += blocks + (0 if final else 1)  # an upsampling before the convolution
            conv = p.conv(str(number), width, c.out_channels if final else width, bias=final)
            self.stages.append((made, conv))
            number += 1

    def __call__(self, backend: Backend, latents: Rows) -> Rows:
        x = backend.conv(backend.activate(latents, "soft_clip"), self.conv_in, activation="relu", border=self.border)
        for i, (blocks, conv) in enumerate(self.stages):
            for block in blocks:
                x = block(backend, x)
            final = i == len(self.stages) - 1
            size = None if final else (2 * x.grid.height, 2 * x.grid.width)
            x = backend.conv(x, conv, upsample_to=size, border=self.border)
        return backend.affine(x, 2.0, -1.0)  # [0, 1] -> [-1, 1]


class TinyVAE:
    """The same two calls as `VAE`. Its latents need no scaling: they are the UNet's."""

    def __init__(
        self, config: TinyVAEConfig, parameters: Parameters, backend: Backend, *, border: Border = "zero"
    ) -> None:
        self.config, self.backend = config, backend
        self.encoder = _Encoder(parameters.scope("encoder.layers"), config, border)
        self.decoder = _Decoder(parameters.scope("decoder.layers"), config, border)
        parameters.finish()
        self.weights = parameters.weights

    def forward_decode(self, backend: Backend, latents: Rows) -> Rows:
        return self.decoder(backend, latents)

    def forward_encode(self, backend: Backend, image: Rows) -> Rows:
        return self.encoder(backend, image)

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Latents `[B, C, h, w]` -> `[B, 3, h*factor, w*factor]`, nominally in [-1, 1], never clamped."""
        check_channels("latents", latents, self.config.latent_channels)
        out = self.forward_decode(self.backend, rows_from_nchw(np.asarray(latents, np.float32)))
        return nchw_from_rows(out).astype(np.float32, copy=False)

    def encode(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Image `[B, 3, H, W]` in [-1, 1] -> latents `[B, C, H/factor, W/factor]`."""
        check_channels("image", image, self.config.in_channels, self.config.factor)
        out = self.forward_encode(self.backend, rows_from_nchw(np.asarray(image, np.float32)))
        return nchw_from_rows(out).astype(np.float32, copy=False)
