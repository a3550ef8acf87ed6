"""A judge that names concept and style of a picture, trained apart from the generator on real icons only.

A small residual network sees icons moved, scaled, mirrored, recoloured a little, blurred and noisy, on white and on
colours; its own accuracy is measured on icons augmented with draws it never saw. Two heads: concept and style. The
features before the heads serve as a distance between pictures.

    python judge.py --icons DIR --run default --minutes 8
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from compose import COLOURS, on_background
from dataset import Dataset
from device import DEVICE, autocast
from numpy.typing import NDArray
from paths import Budget, Log, save_atomically, work_folder
from PIL import Image, ImageFilter
from torch import nn
from torch.nn import functional
from vae import to_tensor

SEEN = 64  # pixels of the judge's input
BATCH = 64
LEARNING_RATE = 2e-3
WIDTHS = (32, 64, 128, 192)


class Block(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(inside, outside, 3, 2, 1), nn.Conv2d(outside, outside, 3, 1, 1)
        self.skip, self.norm = nn.Conv2d(inside, outside, 1, 2), nn.GroupNorm(8, outside)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.skip(x) + self.second(functional.relu(self.norm(self.first(x)))))


class Judge(nn.Module):
    def __init__(self, concepts: int, styles: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 3, 1, 1)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in zip((WIDTHS[0], *WIDTHS[:-1]), WIDTHS, strict=True)))
        features = 16 * WIDTHS[-1] // 4  # 4x4 places, a quarter of the channels
        self.narrow = nn.Conv2d(WIDTHS[-1], WIDTHS[-1] // 4, 1)
        self.concept, self.style = nn.Linear(features, concepts), nn.Linear(features, styles)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] in [-1, 1] -> [N, features]; larger pictures are reduced to SEEN pixels first."""
        small = functional.interpolate(pictures, (SEEN, SEEN), mode="area")
        return self.narrow(self.blocks(self.stem(small))).flatten(1)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = functional.dropout(self.features(pictures), 0.1, self.training)
        return self.concept(features), self.style(features)


def augment(icon: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A real icon [128, 128, 4] as a generator might draw it: RGB [SEEN, SEEN, 3]."""
    size = int(SEEN * rng.uniform(0.85, 1.05))
    small = Image.fromarray(icon).resize((size, size), Image.Resampling.BOX)
    canvas = Image.new("RGBA", (SEEN, SEEN))
    room = abs(SEEN - size) // 2 + 3
    canvas.paste(small, tuple(int(v) for v in (SEEN - size) // 2 + rng.integers(-room, room + 1, 2)))
    colour = (255, 255, 255)
    if rng.random() < 0.25:
        colour = list(COLOURS.values())[int(rng.integers(len(COLOURS)))]
    picture = Image.fromarray(on_background(np.asarray(canvas), colour))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.9)))
    values = (
        np.asarray(picture, np.float32) * rng.uniform(0.9, 1.1, 3)
        + rng.normal(0, 6)
        + rng.normal(0, 4, (SEEN, SEEN, 1))
    )
    return np.clip(values, 0, 255).astype(np.uint8)


def random_batch(
    icons: NDArray[np.uint8], count: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(pictures, concepts, styles) of random augmented icons [concept, style, 128, 128, 4]."""
    concepts, styles = rng.integers(0, icons.shape[0], count), rng.integers(0, icons.shape[1], count)
    pictures = np.stack([augment(icons[c, s], rng) for c, s in zip(concepts, styles, strict=True)])
    return to_tensor(pictures), torch.from_numpy(concepts).to(DEVICE), torch.from_numpy(styles).to(DEVICE)


@torch.no_grad()
def accuracy(judge: Judge, icons: NDArray[np.uint8], count: int = 2000) -> tuple[float, float]:
    """Shares of fresh augmented icons named right: (concept, style)."""
    judge.eval()
    rng, right = np.random.default_rng(12345), np.zeros(2)
    for _ in range(count // 100):
        pictures, concepts, styles = random_batch(icons, 100, rng)
        named, styled = judge(pictures)
        right += (float((named.argmax(1) == concepts).sum()), float((styled.argmax(1) == styles).sum()))
    judge.train()
    return tuple(right / (count // 100 * 100))


def train_judge(icons: NDArray[np.uint8], minutes: float, folder: Path, log: Log) -> Judge:
    """Train, or read the finished one from `folder`."""
    torch.manual_seed(0)
    judge, path = Judge(icons.shape[0], icons.shape[1]).to(DEVICE), folder / "judge.pt"
    if path.exists():
        judge.load_state_dict(torch.load(path, weights_only=True, map_location=DEVICE))
        return judge.eval()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    budget, rng, step = Budget(minutes), np.random.default_rng(7), 0
    while budget.fraction < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 100) * (1 - budget.fraction)
        pictures, concepts, styles = random_batch(icons, BATCH, rng)
        with autocast():
            named, styled = judge(pictures)
        loss = functional.cross_entropy(named.float(), concepts) + 0.5 * functional.cross_entropy(
            styled.float(), styles
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 200 == 0:
            log(f"judge {budget.spent / 60:4.1f} min step {step} loss {loss.item():.3f}")
    save_atomically(judge.state_dict(), path)
    concept, style = accuracy(judge, icons)
    log(f"judge done: {step} steps; fresh augmented icons: concept {concept:.1%}, style {style:.1%}")
    return judge.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--concepts", type=int)
    parser.add_argument("--run", default="default")
    parser.add_argument("--minutes", type=float, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    dataset, folder = Dataset(options.icons, work_folder("."), options.concepts), work_folder(options.run)
    train_judge(dataset.icons, options.minutes, folder, Log(folder / "judge.log"))


if __name__ == "__main__":
    main()
