"""A labelled grid of pictures, drawn by diffusers' own pipeline: from a training run or from an exported folder.

python samples.py ../tinydiff_weights/default samples.png --guidance 2 --steps 20
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

PROMPTS = (
    "a red apple", "fish, noto", "a cat, flat", "a rocket",
    "a snowman, noto", "a slice of pizza", "an owl, flat", "a red heart",
    "a cactus, noto", "a car", "rainbow", "an octopus, flat",
)  # fmt: skip
COLUMNS, LABEL = 6, 14


def draw_grid(
    pipeline: StableDiffusionPipeline,
    prompts: tuple[str, ...] = PROMPTS,
    *,
    steps: int = 20,
    guidance: float = 2.0,
    seed: int = 0,
    columns: int = COLUMNS,
) -> Image.Image:
    """One picture a prompt, each with its own generator (seed, seed + 1, ...), its prompt written below."""
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(prompts))]
    pictures = pipeline(
        list(prompts),
        num_inference_steps=steps,
        guidance_scale=guidance,
        width=128,
        height=128,
        generator=generators,
    ).images
    rows = -(-len(prompts) // columns)
    grid = Image.new("RGB", (columns * 128, rows * (128 + LABEL)), "white")
    pen = ImageDraw.Draw(grid)
    for index, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
        x, y = index % columns * 128, index // columns * (128 + LABEL)
        grid.paste(picture, (x, y))
        pen.text((x + 4, y + 128), prompt, fill="black")
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a diffusers folder")
    parser.add_argument("output", type=Path, help="the picture to write")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompt", action="append", help="instead of the built-in twelve; may be given repeatedly")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = StableDiffusionPipeline.from_pretrained(
        arguments.model, safety_checker=None, requires_safety_checker=False
    ).to(torch.float32)
    prompts = tuple(arguments.prompt or PROMPTS)
    grid = draw_grid(pipeline, prompts, steps=arguments.steps, guidance=arguments.guidance, seed=arguments.seed)
    grid.save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
