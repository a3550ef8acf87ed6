"""A sharper decoder for finished latents: the encoder stays as it is, so a UNet trained on its latents stays right.

The decoder goes on learning on whole pictures from noisy latents; in the last part a small network that looks at
patches tells real pictures from decoded ones, and the decoder learns to fool it a little (Isola et al. 2017,
arXiv:1611.07004; the hinge loss and the adaptive weight of Esser et al. 2021, arXiv:2012.09841).

    python decoder.py --icons DIR --run default --minutes 30      # rewrites vae_final.pt; the old one is kept beside it
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from dataset import Dataset
from device import DEVICE, autocast, memory_format, prepare
from drawing import Store
from icons import SIZE
from paths import Budget, Log, save_atomically, work_folder
from torch import nn
from torch.nn import functional
from vae import CHECKPOINT_EVERY, NOISE, PICTURES, finished_vae, psnr, reconstruction_loss

BATCH = 1 if DEVICE.type == "cpu" else 16
LEARNING_RATE = 5e-4
ADVERSARY_FROM = 0.6  # of the budget
ADVERSARY_WEIGHT = 0.05  # of its gradient at the last layer, relative to that of the reconstruction


def make_adversary() -> nn.Sequential:
    """Scores [N, 1, h, w] of overlapping patches of 22 pixels: real is high."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, 2, 1), nn.GroupNorm(8, 64), nn.LeakyReLU(0.2),
        nn.Conv2d(64, 64, 3, 1, 1), nn.GroupNorm(8, 64), nn.LeakyReLU(0.2),
        nn.Conv2d(64, 1, 3, 1, 1),
    )  # fmt: skip


class DecoderTraining:
    """The autoencoder with its decoder free, the adversary, optimisers and progress."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.final, self.checkpoint = folder / "vae_final.pt", folder / "decoder.pt"
        self.vae = finished_vae(folder).train().requires_grad_(False)
        self.parameters = [*self.vae.decoder.parameters(), *self.vae.post_quant_conv.parameters()]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.adversary = make_adversary().to(DEVICE, memory_format=memory_format())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
        self.opponent = torch.optim.AdamW(self.adversary.parameters(), lr=LEARNING_RATE, betas=(0.5, 0.9))
        self.step, self.spent = 0, 0.0
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True, map_location=DEVICE)
            for name in ("vae", "adversary", "optimizer", "opponent"):
                getattr(self, name).load_state_dict(state[name])
            self.step, self.spent = state["step"], state["spent"]

    def save(self) -> None:
        state = {name: getattr(self, name).state_dict() for name in ("vae", "adversary", "optimizer", "opponent")}
        save_atomically({**state, "step": self.step, "spent": self.spent}, self.checkpoint)

    def finish(self) -> None:
        """Replace vae_final.pt; the first one is kept."""
        kept = self.final.with_name("vae_before_decoder.pt")
        if not kept.exists():
            shutil.copyfile(self.final, kept)
        save_atomically({"vae": self.vae.state_dict(), "scaling_factor": self.vae.config.scaling_factor}, self.final)

    def fooling(self, out: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """The adversary's term, weighted so that it pulls at the last layer as a fixed share of the other loss."""
        with autocast():
            term = -self.adversary(out).float().mean()
        last = self.vae.decoder.conv_out.weight
        pull, other = (torch.autograd.grad(x, last, retain_graph=True)[0].norm() for x in (loss, term))
        return ADVERSARY_WEIGHT * (pull / (other + 1e-6)).clamp(max=1e3).detach() * term

    def teach_adversary(self, real: torch.Tensor, decoded: torch.Tensor) -> None:
        with autocast():
            scores, fakes = self.adversary(real).float(), self.adversary(decoded).float()
        loss = functional.relu(1 - scores).mean() + functional.relu(1 + fakes).mean()
        self.opponent.zero_grad(set_to_none=True)
        loss.backward()
        self.opponent.step()

    def train_step(self, target: torch.Tensor, *, adversary: bool) -> torch.Tensor:
        with torch.no_grad(), autocast():
            latents = self.vae.encode(target).latent_dist.mean.float()
        with autocast():
            out = self.vae.decode(latents + NOISE * torch.randn_like(latents)).sample.float()
        loss = reconstruction_loss(out, target)
        total = loss + self.fooling(out, loss) if adversary else loss
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        if adversary:
            self.teach_adversary(target, out.detach())
        self.step += 1
        return loss.detach()


def train_decoder(training: DecoderTraining, dataset: Dataset, store: Store, minutes: float, log: Log) -> None:
    """Train for `minutes` in all, then replace vae_final.pt."""
    budget = Budget(minutes, training.spent)
    torch.manual_seed(training.step + 1)
    saved = budget.spent
    while budget.fraction < 1:
        for group in training.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (training.step + 1) / 50) * (1 - budget.fraction) ** 0.7
        loss = training.train_step(store.batch(BATCH, SIZE), adversary=budget.fraction >= ADVERSARY_FROM)
        training.spent = budget.spent
        if budget.spent - saved > CHECKPOINT_EVERY or budget.fraction >= 1:
            saved = budget.spent
            training.save()
            told = ", ".join(f"{name} {psnr(training.vae, p):.2f} dB" for name, p in dataset.probes().items())
            log(f"decoder {budget.spent / 60:5.1f} min step {training.step} loss {loss.item():.4f} {told}")
    training.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--run", default="default")
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    prepare()
    folder, dataset = work_folder(options.run), Dataset(options.icons, work_folder("."))
    store = Store(dataset.random_pictures(PICTURES))
    train_decoder(DecoderTraining(folder), dataset, store, options.minutes, Log(folder / "decoder.log"))


if __name__ == "__main__":
    main()
