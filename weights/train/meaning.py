"""Keeps the text encoder near its teacher while the UNet trains it, so that words without a picture keep their meaning.

Trained by the UNet's loss alone the encoder forgot: of 23 held-out synonyms 8 still lay nearest to their concept after
the distillation, 4 after the UNet's training (the teacher itself: 15). Here every step adds the distillation's loss
(text_encoder.py) on a batch of words and captions, through a linear bridge that starts as the least-squares fit.
"""

from __future__ import annotations

import torch
from device import DEVICE, adamw, autocast
from text_encoder import SHORT, Lesson, Pupil
from transformers import CLIPTextModel, CLIPTokenizer

BATCH = 64 if DEVICE.type == "cpu" else 256
WEIGHT = 0.3  # of this loss beside the UNet's
FITTED = 4096  # texts in the least-squares fit


class Meaning:
    """The distillation's loss on random texts, and the bridge from the encoder's width to the teacher's."""

    def __init__(self, tokenizer: CLIPTokenizer, encoder: CLIPTextModel, lesson: Lesson) -> None:
        self.pupil, self.encoder, self.similarity = Pupil(tokenizer, lesson), encoder, torch.zeros((), device=DEVICE)
        self.bridge = torch.nn.Linear(encoder.config.hidden_size, lesson.embeddings.shape[1]).to(DEVICE)
        self._fit()
        self.optimizer = adamw(self.bridge.parameters(), 1e-3, betas=(0.9, 0.98), weight_decay=0.01)

    def _states(self, ids: torch.Tensor) -> torch.Tensor:
        with autocast():
            return self.encoder(ids).last_hidden_state

    @torch.no_grad()
    def _fit(self) -> None:
        """From the mean state of the end token and the padding behind it."""
        ids, wanted = self.pupil.batch(FITTED, SHORT)
        behind = (ids == self.pupil.end).float().unsqueeze(-1)
        states = torch.cat([self._states(ids[at : at + 256]).float() for at in range(0, FITTED, 256)])
        mean = (states * behind).sum(1) / behind.sum(1)
        augmented = torch.cat([mean, torch.ones(FITTED, 1, device=DEVICE)], 1)
        ridge = 1e-3 * FITTED * torch.eye(augmented.shape[1], device=DEVICE)
        solved = torch.linalg.solve(augmented.T @ augmented + ridge, augmented.T @ wanted)
        self.bridge.weight.copy_(solved[:-1].T)
        self.bridge.bias.copy_(solved[-1])

    def loss(self) -> torch.Tensor:
        """WEIGHT (1 - mean cosine to the teacher) of BATCH random texts."""
        ids, wanted = self.pupil.batch(BATCH, SHORT)
        similarity = self.pupil.similarity(ids, self.bridge(self._states(ids).float()), wanted)
        self.similarity.lerp_(similarity.detach(), 0.02)
        return WEIGHT * (1 - similarity)

    def step(self) -> None:
        """Move the bridge by the gradients of the last loss; the encoder's own optimiser moves the encoder."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
