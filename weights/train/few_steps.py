"""Four steps without guidance, as low-rank additions to the UNet's weights (a LoRA of at most 3 MB).

Progressive distillation of the guided model (Salimans & Ho 2022, arXiv:2202.00512; Meng et al. 2023, arXiv:2210.03142):
from a noisy latent at one of the four trailing timesteps the teacher, with guidance, takes SUBSTEPS DDIM steps to the
next of the four; the student's one step is to land at the same place. Only the additions B A to linear layers and
convolutions learn (Hu et al. 2021, arXiv:2106.09685), so the guided model stays reachable from the same files.

    python few_steps.py FOLDER --icons DIR --run default --minutes 15      # FOLDER is an exported model
    python few_steps.py FOLDER --icons DIR --go-on --rate 0.3              # from the additions that it has
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from batches import batches
from dataset import SHARE_OF_SCENES, Dataset, cached_latents
from denoiser import make_scheduler
from device import DEVICE, adamw, autocast, keep_bfloat16, memory_format, prepare, set_rates
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from paths import Budget, Log, save_atomically, work_folder
from recombine import Mixer
from replay import Replayed
from safetensors.torch import load_file, save_file
from text_encoder import token_ids
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer
from vae import encode_batch

FILE = "few_steps.safetensors"
STEPS, SUBSTEPS = 4, 3  # of the student; of the teacher for each of them
GUIDANCE = 3.0
RANK = 15  # 2.9 MB in fp16
BATCH = 32 if DEVICE.type == "cpu" else 192
LEARNING_RATE = 1e-3
CHECKPOINT_EVERY = 120.0 if DEVICE.type == "cpu" else 20.0  # seconds


class LowRank(nn.Module):
    """A layer W with an addition B A that starts at zero; `scale` 0 gives the layer alone."""

    def __init__(self, base: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.base, self.scale = base, 1.0
        if isinstance(base, nn.Linear):
            self.lora_A = nn.Linear(base.in_features, RANK, bias=False)
            self.lora_B: nn.Module = nn.Linear(RANK, base.out_features, bias=False)
        else:
            window = {"stride": base.stride, "padding": base.padding, "bias": False}
            self.lora_A = nn.Conv2d(base.in_channels, RANK, base.kernel_size, **window)
            self.lora_B = nn.Conv2d(RANK, base.out_channels, 1, bias=False)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=5**0.5)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.base(x)
        return out + self.scale * self.lora_B(self.lora_A(x)) if self.scale else out


def add_low_rank(unet: nn.Module) -> dict[str, LowRank]:
    """Wrap every inner linear layer and convolution; returns the wrappers by the layers' names."""
    wrapped = {}
    for name, module in list(unet.named_modules()):
        outer = name in ("conv_in", "conv_out") or name.startswith("time_embedding")
        if isinstance(module, nn.Linear | nn.Conv2d) and not outer:
            parent, _, last = name.rpartition(".")
            wrapped[name] = LowRank(module)
            setattr(unet.get_submodule(parent), last, wrapped[name])
    return wrapped


def read_additions(additions: dict[str, LowRank], path: Path) -> None:
    """Their weights from an exported file."""
    tensors = load_file(path)
    for name, addition in additions.items():
        for part in ("lora_A", "lora_B"):
            getattr(addition, part).weight.data = tensors[f"unet.{name}.{part}.weight"].float()


def attach(unet: nn.Module, path: Path) -> None:
    """Hang exported additions on a UNet of diffusers."""
    read_additions(add_low_rank(unet), path)
    unet.to(DEVICE)


class FewSteps:
    """Teacher and student in one network: the additions switched off and on. `go_on`: additions to start from."""

    def __init__(self, model: Path, folder: Path, *, go_on: Path | None = None, rate: float = 1.0) -> None:
        torch.manual_seed(0)
        self.tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
        self.text_encoder = (
            CLIPTextModel.from_pretrained(model / "text_encoder").float().to(DEVICE).requires_grad_(False)
        )
        self.unet = UNet2DConditionModel.from_pretrained(model / "unet").float().requires_grad_(False)
        if DEVICE.type == "cpu":
            self.unet.set_attn_processor(AttnProcessor())
        self.additions = add_low_rank(self.unet)
        if go_on is not None:
            read_additions(self.additions, go_on)
        keep_bfloat16(self.unet.to(DEVICE, memory_format=memory_format()))
        self.parameters = [p for p in self.unet.parameters() if p.requires_grad]
        self.rate = rate * LEARNING_RATE
        self.optimizer = adamw(self.parameters, self.rate, betas=(0.9, 0.99), weight_decay=0.0)
        self.learn_fast = Replayed(self.learn)
        self.alphas = make_scheduler().alphas_cumprod.to(DEVICE)
        self.empty = token_ids(self.tokenizer, [""]).to(DEVICE)
        self.checkpoint, self.step, self.spent = folder / "few_steps.pt", 0, 0.0
        self.loss = torch.ones((), device=DEVICE)
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True, map_location=DEVICE)
            for parameter, stored in zip(self.parameters, state["parameters"], strict=True):
                parameter.data.copy_(stored)
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.spent = state["step"], state["spent"]
            self.loss.fill_(state["loss"])

    def save(self) -> None:
        state = {"parameters": [p.detach() for p in self.parameters], "optimizer": self.optimizer.state_dict()}
        progress = {"step": self.step, "spent": self.spent, "loss": self.loss.item()}
        save_atomically({**state, **progress}, self.checkpoint)

    def levels(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Signal and noise at timesteps [N]; before timestep 0 lies the clean latent (1, 0)."""
        signal = torch.where(timesteps < 0, 1.0, self.alphas[timesteps.clamp(min=0)]).view(-1, 1, 1, 1)
        return signal.sqrt(), (1 - signal).sqrt()

    def velocity(
        self, x: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor, *, student: bool
    ) -> torch.Tensor:
        for addition in self.additions.values():
            addition.scale = float(student)
        with autocast():
            return self.unet(x, timesteps, states).sample.float()

    @torch.no_grad()
    def teach(self, x: torch.Tensor, start: torch.Tensor, states: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
        """The student's right answer: the v with which one DDIM step lands where the teacher's SUBSTEPS do."""
        span = 1000 // STEPS
        both, begin = torch.cat([empty, states]), x
        for number in range(SUBSTEPS):
            now, then = (start - round(span * k / SUBSTEPS) for k in (number, number + 1))
            plain, told = self.velocity(torch.cat([x, x]), torch.cat([now, now]), both, student=False).chunk(2)
            v = plain + GUIDANCE * (told - plain)
            (signal, noise), (next_signal, next_noise) = self.levels(now), self.levels(then)
            clean, direction = signal * x - noise * v, noise * x + signal * v
            x = next_signal * clean + next_noise * direction
        (signal, noise), (next_signal, next_noise) = self.levels(start), self.levels(start - span)
        ratio = next_noise / noise
        clean = (x - ratio * begin) / (next_signal - ratio * signal)
        return (signal * begin - clean) / noise

    def train_step(self, latents: torch.Tensor, ids: torch.Tensor) -> None:
        """One step on scaled latents [N, C, h, w] and caption ids [N, 77]."""
        self.learn_fast(latents, ids)
        self.step += 1

    def learn(self, latents: torch.Tensor, ids: torch.Tensor) -> None:
        """The device's part of it."""
        span = 1000 // STEPS
        start = 999 - span * (torch.arange(len(latents), device=DEVICE) % STEPS)
        signal, noise = self.levels(start)
        x = signal * latents + noise * torch.randn_like(latents)
        with torch.no_grad(), autocast():
            states = self.text_encoder(ids).last_hidden_state.float()
            empty = self.text_encoder(self.empty).last_hidden_state.float().expand_as(states)
        wanted = self.teach(x, start, states, empty)
        loss = functional.mse_loss(self.velocity(x, start, states, student=True), wanted)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.loss.lerp_(loss.detach(), 0.05)

    def export(self, path: Path) -> None:
        """The additions in fp16 under the names that diffusers gives a LoRA of a UNet."""
        tensors = {
            f"unet.{name}.{part}.weight": getattr(addition, part).weight.detach().half().contiguous().cpu()
            for name, addition in self.additions.items()
            for part in ("lora_A", "lora_B")
        }
        save_file(tensors, path, {"format": "pt"})
        path.chmod(0o644)  # the library writes it for the owner alone


def train_few_steps(training: FewSteps, dataset: Dataset, latents: torch.Tensor, minutes: float, log: Log) -> None:
    """Train for `minutes` in all; latents are scaled."""
    budget = Budget(minutes, training.spent)
    torch.manual_seed(training.step)
    saved = budget.spent
    mixed = Mixer(latents)
    for chosen, ids in batches(dataset, training.tokenizer, BATCH, seed=training.step):
        rate = training.rate * min(1, (training.step + 1) / 30) * (1 - budget.fraction)
        set_rates([training.optimizer], rate)
        training.train_step(mixed(chosen), ids)
        training.spent, finished = budget.spent, budget.fraction >= 1
        if training.spent - saved > CHECKPOINT_EVERY or finished:
            saved = training.spent
            training.save()
            log(f"few steps {saved / 60:4.1f} min step {training.step} loss {training.loss.item():.4f}")
        if finished:
            return


def few_steps_stage(training: FewSteps, model: Path, dataset: Dataset, minutes: float, folder: Path, log: Log) -> None:
    """Distil the exported folder `model` on the run's latents; the additions are written into it."""
    vae = AutoencoderKL.from_pretrained(model / "vae").float().to(DEVICE).eval()
    latents = cached_latents(dataset, lambda pictures: encode_batch(vae, pictures), folder / "latents.pt")
    train_few_steps(training, dataset, latents * vae.config.scaling_factor, minutes, log)
    training.export(model / FILE)
    defaults = json.loads((model / "tinydiff.json").read_text())
    defaults["few_steps"] = {"file": FILE, "num_inference_steps": STEPS, "default": True}
    (model / "tinydiff.json").write_text(json.dumps(defaults, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="an exported folder")
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--concepts", type=int)
    parser.add_argument("--run", default="default", help="where the latents lie and checkpoints go")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--go-on", action="store_true", help="from the additions that the folder has")
    parser.add_argument("--rate", type=float, default=1.0, help="learning rate relative to a start from nothing (1)")
    parser.add_argument("--scenes", type=float, default=SHARE_OF_SCENES, help="share of the samples (%(default)s)")
    options = parser.parse_args()
    prepare()
    folder, dataset = work_folder(options.run), Dataset(options.icons, work_folder("."), options.concepts)
    dataset.share_of_scenes = options.scenes
    additions = options.model / FILE if options.go_on else None
    training = FewSteps(options.model, folder, go_on=additions, rate=options.rate)
    few_steps_stage(training, options.model, dataset, options.minutes, folder, Log(folder / "few_steps.log"))


if __name__ == "__main__":
    main()
