"""The autoencoder: pictures [3, SIZE, SIZE] to latents [channels, SIZE / 8, SIZE / 8] and back.

AutoencoderKL as in Stable Diffusion (Rombach et al. 2022, arXiv:2112.10752), 2.6 M parameters. The posterior's
width is fixed instead of learned: latents get Gaussian noise of NOISE, and a weak pull to zero keeps them small,
which is what the KL term is for. The loss is squared error + absolute error + absolute error of the picture's
gradients; the last keeps edges sharp. The first part trains on crops (more variety a second), the rest, from FULL_FROM
on, on whole pictures, so that group norm's statistics are those of use.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from device import DEVICE, autocast, memory_format
from diffusers import AutoencoderKL
from drawing import Store, to_tensor
from icons import SIZE
from numpy.typing import NDArray
from paths import Budget, Log, save_atomically
from torch.nn import functional

CHANNELS = (16, 32, 64, 128)
LATENT_CHANNELS = 4
NOISE = 0.05
CROP, CROPS = (
    (64, 16) if DEVICE.type == "cpu" else (128, 64)
)  # size and number a step; of whole pictures as many pixels
FULL_FROM = 0.6  # of the budget
LEARNING_RATE = 2e-3
CHECKPOINT_EVERY = 120.0 if DEVICE.type == "cpu" else 20.0  # seconds
PICTURES = 2000 if DEVICE.type == "cpu" else 12_000  # random pictures that all autoencoders learn from


def make_vae(latent_channels: int) -> AutoencoderKL:
    count = len(CHANNELS)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * count,
        up_block_types=("UpDecoderBlock2D",) * count,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE,
    )


def reconstruction_loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared error + absolute error + absolute error of the horizontal and vertical differences."""
    absolute = functional.l1_loss
    edges = absolute(out.diff(dim=2), target.diff(dim=2)) + absolute(out.diff(dim=3), target.diff(dim=3))
    return functional.mse_loss(out, target) + 0.1 * absolute(out, target) + 0.2 * edges


@torch.no_grad()
def psnr(vae: torch.nn.Module, pictures: NDArray[np.uint8]) -> float:
    """Mean peak signal-to-noise ratio in dB of whole pictures through encoder and decoder."""
    values = []
    for at in range(0, len(pictures), 16):
        target = to_tensor(pictures[at : at + 16])
        out = vae.decode(vae.encode(target).latent_dist.mean).sample.clamp(-1, 1)
        mean_square = (out - target).square().mean((1, 2, 3)) / 4  # the range is 2 wide
        values.append(-10 * torch.log10(mean_square))
    return float(torch.cat(values).mean())


def finished_vae(folder: Path) -> AutoencoderKL:
    """A run's autoencoder after training, with its latents normalised; its weights say how many channels they have."""
    state = torch.load(folder / "vae_final.pt", weights_only=True, map_location=DEVICE)
    vae = make_vae(len(state["vae"]["post_quant_conv.bias"])).to(DEVICE, memory_format=memory_format())
    vae.load_state_dict(state["vae"])
    vae.register_to_config(scaling_factor=state["scaling_factor"])
    return vae.eval()


class VaeTraining:
    """Network, optimiser and progress: all that a checkpoint holds."""

    def __init__(self, folder: Path, latent_channels: int) -> None:
        torch.manual_seed(0)
        self.checkpoint = folder / "vae.pt"
        self.vae = make_vae(latent_channels).to(DEVICE, memory_format=memory_format())
        self.optimizer = torch.optim.AdamW(self.vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
        self.step, self.spent = 0, 0.0
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True, map_location=DEVICE)
            self.vae.load_state_dict(state["vae"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.spent = state["step"], state["spent"]

    def save(self) -> None:
        state = {"vae": self.vae.state_dict(), "optimizer": self.optimizer.state_dict()}
        save_atomically({**state, "step": self.step, "spent": self.spent}, self.checkpoint)

    def train_step(self, target: torch.Tensor) -> torch.Tensor:
        with autocast():
            latents = self.vae.encode(target).latent_dist.mean
            out = self.vae.decode(latents + NOISE * torch.randn_like(latents)).sample.float()
        loss = reconstruction_loss(out, target) + 1e-4 * latents.float().square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.detach()


def train_vae(
    training: VaeTraining, store: Store, probes: dict[str, NDArray[np.uint8]], minutes: float, log: Log
) -> AutoencoderKL:
    """Train for `minutes` in all; the PSNR of every set of pictures in `probes` is logged."""
    budget = Budget(minutes, training.spent)
    torch.manual_seed(training.step)
    saved = budget.spent
    while budget.fraction < 1:
        for group in training.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (training.step + 1) / 100) * (1 - budget.fraction) ** 0.7
        size, count = (SIZE, max(1, CROPS * CROP**2 // SIZE**2)) if budget.fraction >= FULL_FROM else (CROP, CROPS)
        loss = training.train_step(store.batch(count, size))
        training.spent = budget.spent
        if budget.spent - saved > CHECKPOINT_EVERY or budget.fraction >= 1:
            saved = budget.spent
            training.save()
            told = ", ".join(f"{name} {psnr(training.vae, pictures):.2f} dB" for name, pictures in probes.items())
            log(f"vae {budget.spent / 60:5.1f} min step {training.step} loss {loss.item():.4f} {told}")
    return training.vae.eval()


@torch.no_grad()
def encode_batch(vae: AutoencoderKL, pictures: NDArray[np.uint8]) -> torch.Tensor:
    """Mean latents [N, channels, H / 8, W / 8] of pictures [N, H, W, 3], not scaled."""
    with autocast():
        return vae.encode(to_tensor(pictures)).latent_dist.mean.float()


def encode_all(vae: AutoencoderKL, pictures: NDArray[np.uint8]) -> torch.Tensor:
    """The same for any number of pictures, 16 at a time."""
    return torch.cat([encode_batch(vae, pictures[at : at + 16]) for at in range(0, len(pictures), 16)])


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, latents: torch.Tensor) -> float:
    """Give every latent channel mean zero and the same width; returns the scaling factor that makes it one.

    Stable Diffusion knows one number only, `scaling_factor`, so shift and relative scale of the channels are folded
    into the two 1x1 convolutions around the latents, which is exact: the picture does not change. The unused
    log-variance becomes the constant that training used, 2 log NOISE (over the new width).
    """
    mean, width = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    common = float(width.log().mean().exp())  # geometric mean: keeps the learned magnitude
    gain = common / width  # new = (old - mean) * gain
    before, after, count = vae.quant_conv, vae.post_quant_conv, len(mean)
    before.weight[:count] *= gain.view(-1, 1, 1, 1)
    before.bias[:count] = (before.bias[:count] - mean) * gain
    before.weight[count:] = 0
    before.bias[count:] = 2 * (math.log(NOISE) + gain.log())
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= (1 / gain).view(1, -1, 1, 1)
    return 1 / common
