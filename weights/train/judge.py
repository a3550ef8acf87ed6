"""A judge that names concept and style of a picture, trained apart from the generator on real icons only.

A small residual network sees icons moved, scaled, recoloured a little, blurred and noisy, on white and on colours; its
own accuracy is measured on icons augmented with draws it never saw. Two heads: concept and style. The features before
the heads serve as a distance between pictures.

    python judge.py --icons DIR --run default --minutes 8
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from compose import COLOURS
from dataset import Dataset
from device import DEVICE, autocast, memory_format, prepare
from paths import Budget, Log, save_atomically, work_folder
from torch import nn
from torch.nn import functional

SEEN = 96  # pixels of the judge's input
KEPT = 128  # pixels of the icons that it learns from
BATCH, LEARNING_RATE = (64, 2e-3) if DEVICE.type == "cpu" else (512, 4e-3)
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
        features = (SEEN // 16) ** 2 * WIDTHS[-1] // 4  # all places, a quarter of the channels
        self.narrow = nn.Conv2d(WIDTHS[-1], WIDTHS[-1] // 4, 1)
        self.concept, self.style = nn.Linear(features, concepts), nn.Linear(features, styles)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] in [-1, 1] -> [N, features]; larger pictures are reduced to SEEN pixels first."""
        small = functional.interpolate(pictures, (SEEN, SEEN), mode="area")
        return self.narrow(self.blocks(self.stem(small))).flatten(1)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = functional.dropout(self.features(pictures), 0.1, self.training)
        return self.concept(features), self.style(features)


class Icons:
    """The concepts' icons on the device, for augmenting: uint8 [concept, style, 4, KEPT, KEPT], colours * alpha."""

    def __init__(self, dataset: Dataset) -> None:
        self.concepts, self.styles = len(dataset.concepts), len(dataset.styles)
        rows = [[self._reduce(dataset.icon(c, s)) for s in range(self.styles)] for c in range(self.concepts)]
        self.pictures = torch.stack([torch.stack(row) for row in rows]).to(DEVICE)
        self.colours = torch.tensor([(255, 255, 255), *COLOURS.values()], device=DEVICE) / 255

    @staticmethod
    def _reduce(icon: np.ndarray) -> torch.Tensor:
        picture = torch.from_numpy(icon.copy()).permute(2, 0, 1).float()
        picture[:3] *= picture[3:] / 255
        return functional.interpolate(picture[None], (KEPT, KEPT), mode="area")[0].round().byte()

    def batch(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(pictures [count, 3, SEEN, SEEN] in [-1, 1], concepts, styles): icons as a generator might draw them."""

        def uniform(*shape: int) -> torch.Tensor:
            return torch.rand(shape, device=DEVICE, generator=generator)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device=DEVICE, generator=generator)

        concepts, styles = (
            torch.randint(0, end, (count,), device=DEVICE, generator=generator) for end in (self.concepts, self.styles)
        )
        size = 0.85 + 0.2 * uniform(count)  # of the picture
        move = (2 * uniform(count, 2) - 1) * ((1 - size).abs() + 0.09)[:, None]
        place = torch.zeros(count, 2, 3, device=DEVICE)
        place[:, 0, 0] = place[:, 1, 1] = 1 / size
        place[:, :, 2] = move
        grid = functional.affine_grid(place, [count, 4, SEEN, SEEN], align_corners=False)
        moved = functional.grid_sample(self.pictures[concepts, styles].float() / 255, grid, align_corners=False)
        white = uniform(count) < 0.75
        coloured = torch.randint(1, len(self.colours), (count,), device=DEVICE, generator=generator)
        ground = self.colours[torch.where(white, 0, coloured)].view(count, 3, 1, 1)
        picture = moved[:, :3] + ground * (1 - moved[:, 3:])
        picture = torch.lerp(picture, blur(picture), uniform(count, 1, 1, 1))
        picture = picture * (0.9 + 0.2 * uniform(count, 3, 1, 1)) + 0.024 * normal(count, 1, 1, 1)
        picture = (picture + 0.016 * normal(count, 1, SEEN, SEEN)).clamp(0, 1)
        return picture * 2 - 1, concepts, styles


def blur(pictures: torch.Tensor) -> torch.Tensor:
    """With the binomial window of nine numbers both ways, a Gaussian of 1.4 pixels."""
    window = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=DEVICE) / 16
    window = functional.conv1d(window.view(1, 1, -1), window.view(1, 1, -1), padding=4).view(1, 1, -1)
    flat = functional.pad(pictures.flatten(0, 1).unsqueeze(1), (4, 4, 4, 4), mode="replicate")
    return functional.conv2d(functional.conv2d(flat, window.unsqueeze(2)), window.unsqueeze(3)).view_as(pictures)


@torch.no_grad()
def accuracy(judge: Judge, icons: Icons, count: int = 2000) -> tuple[float, float]:
    """Shares of fresh augmented icons named right: (concept, style)."""
    judge.eval()
    generator, right = torch.Generator(DEVICE).manual_seed(12345), np.zeros(2)
    for _ in range(count // 100):
        pictures, concepts, styles = icons.batch(100, generator)
        named, styled = judge(pictures)
        right += (float((named.argmax(1) == concepts).sum()), float((styled.argmax(1) == styles).sum()))
    judge.train()
    return tuple(right / (count // 100 * 100))


def train_judge(icons: Icons, minutes: float, folder: Path, log: Log) -> Judge:
    """Train, or read the finished one from `folder`."""
    torch.manual_seed(0)
    judge, path = Judge(icons.concepts, icons.styles).to(DEVICE, memory_format=memory_format()), folder / "judge.pt"
    if path.exists():
        judge.load_state_dict(torch.load(path, weights_only=True, map_location=DEVICE))
        return judge.eval()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    budget, generator, step = Budget(minutes), torch.Generator(DEVICE).manual_seed(7), 0
    while budget.fraction < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 100) * (1 - budget.fraction)
        pictures, concepts, styles = icons.batch(BATCH, generator)
        with autocast():
            named, styled = judge(pictures)
        loss = functional.cross_entropy(named.float(), concepts)
        loss = loss + 0.5 * functional.cross_entropy(styled.float(), styles)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 500 == 0:
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
    prepare()
    dataset, folder = Dataset(options.icons, work_folder("."), options.concepts), work_folder(options.run)
    train_judge(Icons(dataset), options.minutes, folder, Log(folder / "judge.log"))


if __name__ == "__main__":
    main()
