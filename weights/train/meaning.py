"""Keeps the text encoder near its teacher while the UNet trains it, so that words without a picture keep their meaning.

Trained by the UNet's loss alone the encoder forgot: of 23 held-out synonyms 8 still lay nearest to their concept after
the distillation, 4 after the UNet's training (the teacher itself: 15). Here every step adds the distillation's loss
(text_encoder.py) on a batch of words and captions, through a linear bridge that starts as the least-squares fit.

The teacher's wheel is needed; a machine without it trains as before.
"""

from __future__ import annotations

import numpy as np
import torch
from device import DEVICE, autocast
from text_encoder import SHORT, tokenize
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

BATCH = 64
WEIGHT = 0.3  # of this loss beside the UNet's
FITTED = 4096  # texts in the least-squares fit


class Meaning:
    """The distillation's loss on random texts, and the bridge from the encoder's width to the teacher's."""

    def __init__(
        self, tokenizer: CLIPTokenizer, encoder: CLIPTextModel, texts: list[str], embeddings: torch.Tensor
    ) -> None:
        self.tokenizer, self.encoder, self.texts, self.embeddings = tokenizer, encoder, texts, embeddings
        self.rng, self.similarity = np.random.default_rng(), 0.0
        self.bridge = torch.nn.Linear(encoder.config.hidden_size, embeddings.shape[1]).to(DEVICE)
        self._fit()
        self.optimizer = torch.optim.AdamW(self.bridge.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)

    def _states(self, rows: np.ndarray) -> torch.Tensor:
        """Mean hidden states [N, width] of the end token and the padding behind it."""
        ids = tokenize(self.tokenizer, [self.texts[row] for row in rows], SHORT)
        behind = (ids == self.tokenizer.eos_token_id).float().unsqueeze(-1)
        with autocast():
            states = self.encoder(ids).last_hidden_state
        return (states.float() * behind).sum(1) / behind.sum(1)

    @torch.no_grad()
    def _fit(self) -> None:
        rows = self.rng.permutation(len(self.texts))[:FITTED]
        states = torch.cat([self._states(rows[at : at + 256]) for at in range(0, len(rows), 256)])
        augmented = torch.cat([states, torch.ones(len(states), 1, device=DEVICE)], 1)
        ridge = 1e-3 * len(rows) * torch.eye(augmented.shape[1], device=DEVICE)
        wanted = self.embeddings[rows].to(DEVICE)
        solved = torch.linalg.solve(augmented.T @ augmented + ridge, augmented.T @ wanted)
        self.bridge.weight.copy_(solved[:-1].T)
        self.bridge.bias.copy_(solved[-1])

    def loss(self) -> torch.Tensor:
        """WEIGHT (1 - mean cosine to the teacher) of BATCH random texts."""
        rows = self.rng.integers(0, len(self.texts), BATCH)
        guesses = functional.normalize(self.bridge(self._states(rows)), dim=-1)
        cosine = (guesses * self.embeddings[rows].to(DEVICE)).sum(-1).mean()
        self.similarity += 0.02 * (cosine.item() - self.similarity)
        return WEIGHT * (1 - cosine)

    def step(self) -> None:
        """Move the bridge by the gradients of the last loss; the encoder's own optimiser moves the encoder."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
