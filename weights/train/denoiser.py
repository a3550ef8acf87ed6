"""The UNet and the text encoder, trained together on the autoencoder's latents.

A miniature of Stable Diffusion in diffusers' own classes. Training predicts v (Salimans & Ho 2022, arXiv:2202.00512) on
a cosine schedule whose last step holds no signal (Lin et al. 2023, arXiv:2305.08891); one caption in ten is replaced by
the empty prompt, for classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598). Matrices learn by Muon, the rest
by AdamW. The text encoder, distilled before, learns more slowly. (Kept fixed for 70 % of a first run it made the style
word weigh as much as the concept: states behind "an axe, noto" and "an axe, flat" had a cosine of 0.66, those of two
concepts 0.39; a few minutes of learning turned that into 0.89 and 0.22.) The shipped weights are the exponential moving
average.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from batches import batches
from dataset import Dataset
from device import DEVICE, adamw, autocast, keep_bfloat16, memory_format, set_rates
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from icons import SIZE
from meaning import Meaning
from muon import Muon, split_parameters
from paths import Budget, Log, save_atomically
from recombine import Mixer
from replay import Replayed
from text_encoder import TEXT_WIDTH
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

CHANNELS = (64, 128, 224)
BATCH, LEARNING_RATE = (64, 1e-3) if DEVICE.type == "cpu" else (256, 2e-3)
TEXT_RATE = 0.3  # the text encoder's learning rate, relative
CONSTANT_UNTIL = 0.4  # of the budget; the learning rate then falls to zero on a straight line
EMA = 0.998
EMPTY_PROMPT = 0.1  # share of samples without a caption
LOG_EVERY, CHECKPOINT_EVERY = (180.0, 180.0) if DEVICE.type == "cpu" else (20.0, 60.0)  # seconds
GRID_EVERY = 900.0


def make_unet(latent_channels: int) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=SIZE // 8,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # in this class, by an old mistake of naming, the number of heads
        norm_num_groups=16,
    )
    if DEVICE.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # plain products: 1.4 times as fast as torch's fused attention here
    return keep_bfloat16(unet.to(DEVICE, memory_format=memory_format()))


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=True,
    )


class Average:
    """Exponential moving average of parameters, with a shorter memory during the first steps."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.values = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(EMA, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [parameter.detach() for parameter in self.parameters], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averaged and current values; a second call undoes it."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            current = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(current)


class DenoiserTraining:
    """Both networks, optimisers, average and progress: all that a checkpoint holds."""

    def __init__(
        self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, unet: UNet2DConditionModel, folder: Path
    ) -> None:
        self.tokenizer, self.checkpoint = tokenizer, folder / "denoiser.pt"
        self.text_encoder, self.unet, self.scheduler = text_encoder, unet, make_scheduler()
        matrices, rest = split_parameters(unet)
        words = list(text_encoder.parameters())
        if DEVICE.type == "cpu":
            text_encoder.set_attn_implementation("eager")  # the backward pass of torch's fused attention is slow here
        self.alphas = self.scheduler.alphas_cumprod.to(DEVICE)
        self.optimizers = [
            Muon(matrices, LEARNING_RATE),
            adamw(
                [{"params": rest, "relative": 1.0}, {"params": words, "relative": TEXT_RATE}],
                LEARNING_RATE,
                betas=(0.9, 0.99),
                weight_decay=0.01,
            ),
        ]
        self.parameters = [*unet.parameters(), *words]
        self.meaning: Meaning | None = None  # set to keep the text encoder near its teacher
        self.rate = 1.0  # the learning rate, relative; less where good weights are gone on from
        self.average = Average(self.parameters)
        self.step, self.spent, self.samples = 0, 0.0, 0
        self.loss = torch.ones((), device=DEVICE)  # stays on the device: to read it is to wait for it
        self.learn_fast = Replayed(self.learn)
        if self.checkpoint.exists():
            self._restore(torch.load(self.checkpoint, weights_only=True, map_location=DEVICE))

    def _restore(self, state: dict[str, Any]) -> None:
        self.unet.load_state_dict(state["unet"])
        self.text_encoder.load_state_dict(state["text_encoder"])
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.optimizers[1].param_groups[1]["relative"] = TEXT_RATE  # of this version, not of the checkpoint's
        self.average.values = state["average"]
        for name in ("step", "spent", "samples"):
            setattr(self, name, state[name])
        self.loss.fill_(state["loss"])

    def save(self) -> None:
        state = {
            "unet": self.unet.state_dict(),
            "text_encoder": self.text_encoder.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average.values,
        }
        progress = {"step": self.step, "spent": self.spent, "samples": self.samples, "loss": self.loss.item()}
        save_atomically({**state, **progress}, self.checkpoint)

    def set_rates(self, fraction: float) -> None:
        """Learning rates at a moment of the budget."""
        rate = self.rate * LEARNING_RATE * min(1, (self.step + 1) / 200, (1 - fraction) / (1 - CONSTANT_UNTIL))
        set_rates(self.optimizers, rate)

    def train_step(self, latents: torch.Tensor, ids: torch.Tensor) -> None:
        """One step on scaled latents [N, C, h, w] and caption ids [N, 77] (padded, no mask, as the pipeline has it)."""
        self.learn_fast(latents, ids)
        self.step, self.samples = self.step + 1, self.samples + len(latents)
        self.average.update(self.step)

    def learn(self, latents: torch.Tensor, ids: torch.Tensor) -> None:
        """The device's part of a step. Timesteps are spread evenly over the batch, which steadies it."""
        count = len(latents)
        fractions = (torch.rand((), device=DEVICE) + torch.arange(count, device=DEVICE) / count) % 1
        timesteps = (fractions * len(self.alphas)).long()
        signal, noise = self.alphas[timesteps].view(-1, 1, 1, 1).sqrt(), torch.randn_like(latents)
        noise_level = (1 - self.alphas[timesteps]).view(-1, 1, 1, 1).sqrt()
        noisy, target = signal * latents + noise_level * noise, signal * noise - noise_level * latents
        with autocast():
            states = self.text_encoder(ids).last_hidden_state
            predicted = self.unet(noisy, timesteps, states).sample
        loss = functional.mse_loss(predicted.float(), target)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        (loss if self.meaning is None else loss + self.meaning.loss()).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.meaning is not None:
            self.meaning.step()
        self.loss.lerp_(loss.detach(), 0.02)


def train_denoiser(
    training: DenoiserTraining,
    dataset: Dataset,
    latents: torch.Tensor,
    minutes: float,
    log: Log,
    draw_grid: Callable[[DenoiserTraining], None],
) -> None:
    """Train for `minutes` in all; `draw_grid` is called now and then with averaged weights.

    `latents` are those of all items, scaled, on the device.
    """
    budget = Budget(minutes, training.spent)
    torch.manual_seed(training.step)
    saved = drawn = told = budget.spent
    mixed = Mixer(latents)
    for chosen, ids in batches(dataset, training.tokenizer, BATCH, empty=EMPTY_PROMPT, seed=training.step):
        training.set_rates(budget.fraction)
        training.train_step(mixed(chosen), ids)
        training.spent, finished = budget.spent, budget.fraction >= 1
        if training.spent - told > LOG_EVERY or finished:
            told, seen, loss = training.spent, training.samples, training.loss.item()
            words = "" if training.meaning is None else f" words {training.meaning.similarity.item():.3f}"
            log(f"unet {training.spent / 60:5.1f} min step {training.step} samples {seen} loss {loss:.4f}{words}")
        if training.spent - saved > CHECKPOINT_EVERY or finished:
            saved = training.spent
            training.save()
        if training.spent - drawn > GRID_EVERY:
            drawn = training.spent
            training.average.swap()
            draw_grid(training)
            training.average.swap()
        if finished:
            return
