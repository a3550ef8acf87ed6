"""The CLIP text encoder (Radford et al. 2021, arXiv:2103.00020): a causal transformer over 77 tokens.

    ids -> token + position vectors -> n x [attention, MLP] -> final layer norm
                                        any layer's output may be taken; the row of the end token, normed
                                        (and projected), is the pooled vector

OpenCLIP's encoders are the same network with `gelu`.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from tinydiff.config import CLIPConfig
from tinydiff.errors import InvalidArgumentError
from tinydiff.parameters import Parameters
from tinydiff_kernels.backend import Backend
from tinydiff_kernels.operations import Activation
from tinydiff_kernels.rows import Rows, tokens_from_rows

LEFTOVERS = ("position_ids", "logit_scale")  # buffers that old files carry and no forward uses


class CLIPLayer:
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, p: Parameters, config: CLIPConfig) -> None:
        width = config.hidden_size
        self.heads, self.eps = config.heads, config.eps
        self.activation = cast("Activation", config.activation)
        self.norm1 = p.norm("layer_norm1", width)
        self.q = p.linear("self_attn.q_proj", width, width)
        self.k = p.linear("self_attn.k_proj", width, width)
        self.v = p.linear("self_attn.v_proj", width, width)
        self.out = p.linear("self_attn.out_proj", width, width)
        self.norm2 = p.norm("layer_norm2", width)
        self.fc1 = p.linear("mlp.fc1", width, config.intermediate_size)
        self.fc2 = p.linear("mlp.fc2", config.intermediate_size, width)

    def __call__(self, backend: Backend, x: Rows) -> Rows:
        h = backend.layer_norm(x, self.norm1, self.eps)
        q, k, v = backend.linear(h, self.q), backend.linear(h, self.k), backend.linear(h, self.v)
        x = backend.linear(backend.attention(q, k, v, self.heads, causal=True), self.out, residual=x)
        h = backend.linear(backend.layer_norm(x, self.norm2, self.eps), self.fc1, activation=self.activation)
        return backend.linear(h, self.fc2, residual=x)


class CLIPOutput(NamedTuple):
    """Of a forward pass; all as rows."""

    hidden: Rows  # [B*T, D], the layer asked for, unnormed
    normed: Rows  # [B*T, D], the layer asked for after the final layer norm
    pooled: Rows  # [B, D] or [B, projection_dim]: last layer, normed, at the end token


class CLIPTextEncoder:
    """`CLIPTextModel`, and `CLIPTextModelWithProjection` where the config has a projection.

    Called on ids it gives what the UNet gets: SD 1 and 2 the last layer, normed; with `penultimate` (SDXL) the
    last but one, unnormed, and for an encoder with projection the pooled vector too.
    """

    def __init__(
        self, config: CLIPConfig, parameters: Parameters, backend: Backend, *, penultimate: bool = False
    ) -> None:
        self.config, self.backend, self.penultimate = config, backend, penultimate
        p = parameters.scope("text_model")
        self.tokens = p.embedding("embeddings.token_embedding", config.vocab_size, config.hidden_size)
        self.positions = p.embedding("embeddings.position_embedding", config.positions, config.hidden_size)
        self.layers = [CLIPLayer(p.scope("encoder.layers", i), config) for i in range(config.layers)]
        self.final_norm = p.norm("final_layer_norm", config.hidden_size)
        self.projection = None
        if config.projection_dim is not None:
            width = config.hidden_size
            self.projection = parameters.linear("text_projection", width, config.projection_dim, bias=False)
        parameters.finish(LEFTOVERS)
        self.weights = parameters.weights
        self.appended: NDArray[np.float32] | None = None  # [n, D]: vectors of ids from vocab_size on

    def forward(self, backend: Backend, ids: NDArray[np.int64], skip: int = 0) -> CLIPOutput:
        """ids `[B, T]`; `skip` layers are left out at the end (0: the last layer's output)."""
        if not 0 <= skip <= len(self.layers):
            raise InvalidArgumentError(f"cannot skip {skip} of {len(self.layers)} layers")
        x = backend.embed(ids, self.tokens, self.positions, self.appended)
        hidden = x
        for number, layer in enumerate(self.layers, 1):
            x = layer(backend, x)
            if number == len(self.layers) - skip:
                hidden = x
        last = backend.layer_norm(x, self.final_norm, self.config.eps)
        normed = last if skip == 0 else backend.layer_norm(hidden, self.final_norm, self.config.eps)
        pooled = backend.take_row(last, self._end_positions(ids))
        if self.projection is not None:
            pooled = backend.linear(pooled, self.projection)
        return CLIPOutput(hidden, normed, pooled)

    def __call__(self, ids: NDArray[np.int64]) -> NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.float32]]:
        """ids `[B, T]` -> hidden `[B, T, D]`; with penultimate and projection (hidden, pooled `[B, P]`).

        Raises InvalidArgumentError.
        """
        out = self.forward(self.backend, self._checked(ids), 1 if self.penultimate else 0)
        hidden = tokens_from_rows(out.hidden if self.penultimate else out.normed).astype(np.float32, copy=False)
        if self.penultimate and self.projection is not None:
            return hidden, out.pooled.array.astype(np.float32, copy=False)
        return hidden

    def _checked(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        table, most = np.asarray(ids), self.config.positions
        if table.ndim != 2 or table.dtype.kind not in "iu" or not table.size or table.shape[1] > most:
            raise InvalidArgumentError(
                f"ids are {table.dtype} of shape {table.shape}: expected whole numbers, (batch, 1 to {most} tokens)"
            )
        known = self.config.vocab_size + (0 if self.appended is None else len(self.appended))
        if table.min() < 0 or table.max() >= known:
            raise InvalidArgumentError(f"ids from {table.min()} to {table.max()}: the vocabulary has 0 to {known - 1}")
        return table.astype(np.int64)

    def _end_positions(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each text ends. Configs from before transformers 4.31 say 2 and mean the largest id."""
        if self.config.eos_token_id == 2:
            known = np.where(ids < self.config.vocab_size, ids, 0)
            return np.asarray(np.argmax(known, axis=1), np.int64)
        return np.asarray(np.argmax(ids == self.config.eos_token_id, axis=1), np.int64)
