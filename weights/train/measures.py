"""Figures on pictures: retrieval, style, sharpness, nearness to training pictures, agreement of two programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from compose import centres
from dataset import Dataset, Item
from drawing import to_tensor
from icons import SIZE
from judge import Judge
from numpy.typing import NDArray
from PIL import Image

Pictures = NDArray[np.uint8]  # [N, H, W, 3]


@torch.no_grad()
def name(judge: Judge, pictures: Pictures) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(concepts, styles, features) that the judge sees in pictures."""
    concepts, styles, features = [], [], []
    for at in range(0, len(pictures), 64):
        seen = judge.features(to_tensor(pictures[at : at + 64]))
        concepts.append(judge.concept(seen).argmax(1).cpu().numpy())
        styles.append(judge.style(seen).argmax(1).cpu().numpy())
        features.append(torch.nn.functional.normalize(seen, dim=1).cpu().numpy())
    return np.concatenate(concepts), np.concatenate(styles), np.concatenate(features)


def agreement(judge: Judge, pictures: Pictures, items: list[Item]) -> dict[str, float]:
    """Shares of pictures of single icons whose concept and whose style the judge names as asked."""
    concepts, styles, _ = name(judge, pictures)
    wanted = np.array([(item.concept, item.style) for item in items])
    return {"concept": float((concepts == wanted[:, 0]).mean()), "style": float((styles == wanted[:, 1]).mean())}


def cut_out(picture: NDArray[np.uint8], centre: tuple[int, int], size: int) -> NDArray[np.uint8]:
    """One icon of a scene enlarged to the whole picture; place and size as in a picture of SIZE pixels."""
    (x, y), whole = centre, Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    box = (x - size // 2, y - size // 2, x - size // 2 + size, y - size // 2 + size)
    return np.asarray(whole.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def resized(pictures: Pictures, size: int) -> Pictures:
    """To `size` pixels, by averaging."""
    if pictures.shape[1] == size:
        return pictures
    small = [Image.fromarray(picture).resize((size, size), Image.Resampling.BOX) for picture in pictures]
    return np.stack([np.asarray(picture) for picture in small])


def scene_agreement(judge: Judge, pictures: Pictures, items: list[Item]) -> dict[str, float]:
    """Shares of scenes with both icons right, each in its place, and of single icons right."""
    right = []
    for picture, item in zip(pictures, items, strict=True):
        assert item.scene is not None
        pieces = [cut_out(picture, c, s) for c, s in zip(centres(item.scene), item.scene.sizes, strict=True)]
        concepts, _, _ = name(judge, np.stack(pieces))
        right.append((concepts[0] == item.concept, concepts[1] == item.second))
    hits = np.array(right)
    return {"both": float(hits.all(1).mean()), "each": float(hits.mean())}


def sharpness(pictures: Pictures) -> float:
    """Mean magnitude of the brightness gradient, grey levels a pixel."""
    grey = pictures.astype(np.float32).mean(-1)
    across, down = np.diff(grey, axis=2)[:, :-1], np.diff(grey, axis=1)[:, :, :-1]
    return float(np.hypot(across, down).mean())


@torch.no_grad()
def through_vae(vae: torch.nn.Module, pictures: Pictures) -> Pictures:
    """Pictures after encoder and decoder."""
    parts = []
    for at in range(0, len(pictures), 16):
        out = vae.decode(vae.encode(to_tensor(pictures[at : at + 16])).latent_dist.mean).sample.clamp(-1, 1)
        parts.append(((out + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(parts)


def pixel_distance(first: Pictures, second: Pictures) -> NDArray[np.float32]:
    """Root mean square difference of every picture of `first` [N] to every one of `second` [M]: [N, M], 0 to 255."""
    a, b = (x.reshape(len(x), -1).astype(np.float32) for x in (first[:, ::4, ::4], second[:, ::4, ::4]))
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0) / a.shape[1])


def nearest_table(judge: Judge, generated: Pictures, again: Pictures, dataset: Dataset) -> dict[str, float]:
    """Means over samples: distance to the nearest training icon, and between two seeds of one prompt."""
    first, last = dataset.bounds[0]
    real = resized(np.concatenate(list(dataset.draw_all(dataset.items[first:last]))), generated.shape[1])
    mine, other, known = (name(judge, pictures)[2] for pictures in (generated, again, real))
    two_seeds = (generated.astype(np.float32) - again).reshape(len(generated), -1)
    return {
        "pixels, nearest training picture": float(pixel_distance(generated, real).min(1).mean()),
        "pixels, two seeds": float(np.sqrt((two_seeds**2).mean(1)).mean()),
        "features, nearest training picture": float((1 - (mine @ known.T).max(1)).mean()),
        "features, two seeds": float((1 - (mine * other).sum(1)).mean()),
        "share of two seeds that differ (over 10 levels)": float((np.sqrt((two_seeds**2).mean(1)) > 10).mean()),
    }


def decibels(first: Pictures, second: Pictures) -> float:
    """Peak signal-to-noise ratio between two programs' pictures."""
    square = ((first.astype(np.float64) - second) ** 2).mean()
    return float("inf") if square == 0 else float(10 * np.log10(255**2 / square))


def tinydiff_picture(model: Path, prompt: str, seed: int, steps: int, guidance: float) -> NDArray[np.uint8]:
    """The same picture by tinydiff's own code."""
    import tinydiff

    pipeline = tinydiff.Pipeline.from_pretrained(model)
    made = pipeline(prompt, seed=seed, num_inference_steps=steps, guidance_scale=guidance).images[0]
    return np.asarray(made.convert("RGB"))
