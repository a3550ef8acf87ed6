"""The text encoder and the UNet, trained together on the autoencoder's latents.

A miniature of Stable Diffusion in diffusers' own classes: CLIPTextModel (Radford et al. 2021, arXiv:2103.00020) and
UNet2DConditionModel with cross-attention. Training predicts v (Salimans & Ho 2022, arXiv:2202.00512) on a cosine
schedule whose last step holds no signal (Lin et al. 2023, arXiv:2305.08891); one caption in ten is replaced by the
empty prompt, for classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598). The shipped weights are the
exponential moving average.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import Dataset, caption
from diffusers import DDIMScheduler, UNet2DConditionModel
from paths import Budget, Log, save_atomically
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from vocab import POSITIONS

TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS = 128, 2, 4
CHANNELS = (64, 80, 96)
BATCH = 16
LEARNING_RATE = 1e-3
CONSTANT_UNTIL = 0.6  # of the budget; the learning rate then falls to zero on a straight line
EMA = 0.999
EMPTY_PROMPT = 0.1  # share of samples without a caption
OPEN_STYLE = 0.3  # share of captions that name no style
CHECKPOINT_EVERY = 180.0  # seconds
GRID_EVERY = 900.0


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_HEADS,
        max_position_embeddings=POSITIONS,
        hidden_act="quick_gelu",
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_unet() -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # in this class, by an old mistake of naming, the number of heads
        norm_num_groups=16,
    )
    return unet.to(memory_format=torch.channels_last)


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
    """Both networks, optimiser, average and progress: all that a checkpoint holds."""

    def __init__(self, tokenizer: CLIPTokenizer, folder: Path) -> None:
        torch.manual_seed(0)
        self.tokenizer, self.checkpoint = tokenizer, folder / "denoiser.pt"
        self.text_encoder, self.unet = make_text_encoder(tokenizer), make_unet()
        self.scheduler = make_scheduler()
        parameters = [*self.unet.parameters(), *self.text_encoder.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)
        self.parameters, self.average = parameters, Average(parameters)
        self.step, self.spent, self.loss = 0, 0.0, 1.0
        if self.checkpoint.exists():
            self._restore(torch.load(self.checkpoint, weights_only=True))

    def _restore(self, state: dict[str, Any]) -> None:
        self.unet.load_state_dict(state["unet"])
        self.text_encoder.load_state_dict(state["text_encoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.values = state["average"]
        self.step, self.spent, self.loss = state["step"], state["spent"], state["loss"]

    def save(self) -> None:
        state = {
            "unet": self.unet.state_dict(),
            "text_encoder": self.text_encoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
            "step": self.step,
            "spent": self.spent,
            "loss": self.loss,
        }
        save_atomically(state, self.checkpoint)

    def encode(self, captions: list[str]) -> torch.Tensor:
        """Hidden states [N, 77, width] as StableDiffusionPipeline computes them: padded, no mask."""
        tokens = self.tokenizer(
            captions, padding="max_length", max_length=POSITIONS, truncation=True, return_tensors="pt"
        )
        return self.text_encoder(tokens.input_ids).last_hidden_state

    def train_step(self, latents: torch.Tensor, captions: list[str]) -> None:
        """One step on scaled latents [N, 4, 16, 16]; timesteps are spread evenly over the batch, which steadies it."""
        count = len(latents)
        fractions = (torch.rand(()) + torch.arange(count) / count) % 1
        timesteps = (fractions * self.scheduler.config.num_train_timesteps).long()
        noise = torch.randn_like(latents)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        predicted = self.unet(noisy, timesteps, self.encode(captions)).sample
        loss = functional.mse_loss(predicted, target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        self.average.update(self.step)
        self.loss += 0.01 * (loss.item() - self.loss)


def random_captions(dataset: Dataset, rows: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Captions of pictures `rows` (concept * styles + style), some without style, some empty."""
    captions = []
    for row in rows:
        concept, style = divmod(int(row), len(dataset.styles))
        word = None if rng.random() < OPEN_STYLE else dataset.styles[style]
        captions.append("" if rng.random() < EMPTY_PROMPT else caption(dataset.concepts[concept], word, rng))
    return captions


def train_denoiser(
    training: DenoiserTraining,
    dataset: Dataset,
    latents: torch.Tensor,
    minutes: float,
    log: Log,
    draw_grid: Callable[[DenoiserTraining], None],
) -> None:
    """Train for `minutes` in all; `latents` are scaled; `draw_grid` is called now and then with averaged weights."""
    budget, rng = Budget(minutes, training.spent), np.random.default_rng(training.step)
    torch.manual_seed(training.step)
    saved = drawn = budget.spent
    while budget.fraction < 1:
        falling = (1 - budget.fraction) / (1 - CONSTANT_UNTIL)
        for group in training.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (training.step + 1) / 200, falling)
        rows = rng.integers(0, len(latents), BATCH)
        training.train_step(latents[torch.from_numpy(rows)], random_captions(dataset, rows, rng))
        training.spent = budget.spent
        if budget.spent - saved > CHECKPOINT_EVERY or budget.fraction >= 1:
            saved = budget.spent
            training.save()
            samples = training.step * BATCH
            log(f"unet {budget.spent / 60:5.1f} min step {training.step} samples {samples} loss {training.loss:.4f}")
        if budget.spent - drawn > GRID_EVERY:
            drawn = budget.spent
            training.average.swap()
            draw_grid(training)
            training.average.swap()
