"""A small sibling of the autoencoder on the same latents, for previews and little memory: AutoencoderTiny.

TAESD (Bohan 2023, https://github.com/madebyollin/taesd): convolutions and ReLU only, no norms. The encoder learns to
give the big encoder's scaled latents, the decoder to give the picture from them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from dataset import Dataset
from device import DEVICE, autocast, memory_format
from diffusers import AutoencoderKL, AutoencoderTiny
from drawing import Store, to_tensor
from icons import SIZE
from paths import Budget, Log, save_atomically
from torch.nn import functional
from vae import CHECKPOINT_EVERY, reconstruction_loss

WIDTH = 32
BATCH = 2 if DEVICE.type == "cpu" else 16
LEARNING_RATE = 2e-3


def make_tiny(latent_channels: int) -> AutoencoderTiny:
    return AutoencoderTiny(
        latent_channels=latent_channels,
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=(1, 2, 2, 2),
        num_decoder_blocks=(2, 2, 2, 1),
        scaling_factor=1.0,
    )


class TinyTraining:
    """Network, optimiser and progress beside the finished big autoencoder."""

    def __init__(self, vae: AutoencoderKL, folder: Path) -> None:
        torch.manual_seed(0)
        self.vae, self.checkpoint = vae, folder / "tiny.pt"
        self.tiny = make_tiny(vae.config.latent_channels).to(DEVICE, memory_format=memory_format())
        self.optimizer = torch.optim.AdamW(
            self.tiny.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.step, self.spent = 0, 0.0
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True, map_location=DEVICE)
            self.tiny.load_state_dict(state["tiny"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.spent = state["step"], state["spent"]

    def save(self) -> None:
        state = {"tiny": self.tiny.state_dict(), "optimizer": self.optimizer.state_dict()}
        save_atomically({**state, "step": self.step, "spent": self.spent}, self.checkpoint)

    def train_step(self, target: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), autocast():
            latents = self.vae.encode(target).latent_dist.mean.float() * self.vae.config.scaling_factor
        with autocast():
            guessed = self.tiny.encode(target).latents.float()
            drawn = self.tiny.decode(latents).sample.float()
        loss = reconstruction_loss(drawn, target) + 0.1 * functional.mse_loss(guessed, latents)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.tiny.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.detach()


@torch.no_grad()
def tiny_psnr(tiny: AutoencoderTiny, pictures: np.ndarray) -> float:
    """Mean dB of whole pictures through its own encoder and decoder."""
    values = []
    for at in range(0, len(pictures), 16):
        target = to_tensor(pictures[at : at + 16])
        out = tiny.decode(tiny.encode(target).latents).sample.clamp(-1, 1)
        values.append(-10 * torch.log10((out - target).square().mean((1, 2, 3)) / 4))
    return float(torch.cat(values).mean())


def train_tiny(training: TinyTraining, dataset: Dataset, store: Store, minutes: float, log: Log) -> AutoencoderTiny:
    """Train for `minutes` in all."""
    budget = Budget(minutes, training.spent)
    torch.manual_seed(training.step)
    saved = budget.spent
    while budget.fraction < 1:
        for group in training.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (training.step + 1) / 100) * (1 - budget.fraction) ** 0.7
        loss = training.train_step(store.batch(BATCH, SIZE))
        training.spent = budget.spent
        if budget.spent - saved > CHECKPOINT_EVERY or budget.fraction >= 1:
            saved = budget.spent
            training.save()
            told = ", ".join(f"{name} {tiny_psnr(training.tiny, p):.2f} dB" for name, p in dataset.probes().items())
            log(f"tiny {budget.spent / 60:5.1f} min step {training.step} loss {loss.item():.4f} {told}")
    return training.tiny.eval()
