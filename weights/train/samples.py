"""A labelled grid of pictures, drawn by diffusers' own pipeline: from a training run or from an exported folder.

python samples.py master samples.png --guidance 3 --steps 20
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from device import DEVICE, prepare
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

PROMPTS = (
    "a red apple", "fish, noto", "a cat, flat", "a rocket, fluent", "a snowman, noto", "a slice of pizza",
    "an owl, flat", "a red heart", "a cactus, twemoji", "a car", "rainbow", "an octopus, flat",
    "a locomotive, noto", "an axe, fluent", "a mouse face", "a dolphin, twemoji", "a key on a blue background",
    "a cat left of a dog", "a sun above a house, noto", "a big pizza and a small mushroom, flat",
    "a duck on yellow, fluent", "a parrot", "a wolf, noto", "a chair",
)  # fmt: skip
COLUMNS, SHOWN, LABEL = 6, 128, 14  # a picture's size in the grid, and its label's height


def draw_pictures(
    pipeline: StableDiffusionPipeline, prompts: list[str], seeds: list[int], *, steps: int, guidance: float
) -> list[Image.Image]:
    """One picture a prompt, each with its own generator, in batches of 32."""
    pipeline.set_progress_bar_config(disable=True)
    pictures: list[Image.Image] = []
    for at in range(0, len(prompts), 32):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[at : at + 32]]
        pictures += pipeline(
            prompts[at : at + 32],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
        ).images
    return pictures


def lay_out(pictures: list[Image.Image], labels: list[str], columns: int) -> Image.Image:
    """Pictures in rows, reduced, each with its label below."""
    rows = -(-len(pictures) // columns)
    grid = Image.new("RGB", (columns * SHOWN, rows * (SHOWN + LABEL)), "white")
    pen = ImageDraw.Draw(grid)
    for index, (label, picture) in enumerate(zip(labels, pictures, strict=True)):
        x, y = index % columns * SHOWN, index // columns * (SHOWN + LABEL)
        grid.paste(picture.resize((SHOWN, SHOWN), Image.Resampling.BOX), (x, y))
        pen.text((x + 2, y + SHOWN), label[:24], fill="black")
    return grid


def draw_grid(
    pipeline: StableDiffusionPipeline,
    prompts: tuple[str, ...] = PROMPTS,
    *,
    steps: int = 20,
    guidance: float = 3.0,
    seed: int = 0,
    columns: int = COLUMNS,
) -> Image.Image:
    """One picture a prompt, seeds counting up from `seed`."""
    seeds = [seed + index for index in range(len(prompts))]
    return lay_out(
        draw_pictures(pipeline, list(prompts), seeds, steps=steps, guidance=guidance), list(prompts), columns
    )


def load_pipeline(model: Path) -> StableDiffusionPipeline:
    """An exported folder in float32."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, requires_safety_checker=False)
    return pipeline.to(DEVICE, torch.float32)


def save_small(grid: Image.Image, path: Path, limit: int = 1_000_000) -> None:
    """A PNG below `limit` bytes: with 256 colours where all would be too many."""
    grid.save(path, optimize=True)
    if path.stat().st_size >= limit:
        grid.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def to_array(pictures: list[Image.Image]) -> np.ndarray:
    """uint8 [N, H, W, 3]."""
    return np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a diffusers folder")
    parser.add_argument("output", type=Path, help="the picture to write")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompt", action="append", help="instead of the built-in ones; may be given repeatedly")
    options = parser.parse_args()
    prepare()
    prompts = tuple(options.prompt or PROMPTS)
    grid = draw_grid(
        load_pipeline(options.model), prompts, steps=options.steps, guidance=options.guidance, seed=options.seed
    )
    save_small(grid, options.output)


if __name__ == "__main__":
    main()
