"""From transparent icons to training pictures: on white, on a flat colour, or two to five icons as a scene.

Icons are RGBA [SIZE, SIZE, 4] with straight (not premultiplied) alpha; pictures are RGB [SIZE, SIZE, 3], both uint8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from icons import SIZE
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
WHITE = (255, 255, 255)
COLOURS = {  # words in captions -> flat backgrounds
    "red": (229, 57, 53),
    "orange": (251, 140, 0),
    "yellow": (253, 216, 53),
    "green": (67, 160, 71),
    "blue": (30, 136, 229),
    "light blue": (144, 202, 249),
    "purple": (142, 36, 170),
    "pink": (244, 143, 177),
    "brown": (121, 85, 72),
    "grey": (158, 158, 158),
    "black": (20, 20, 20),
}
LAYOUTS = ("left", "above", "big")  # the first icon is left of, above, or bigger than the second
BIG, SMALL = 0.59, 0.34  # sizes of the last, of the picture


@dataclass(frozen=True)
class Scene:
    """Where the icons go: `layout` is one of LAYOUTS, the sizes are in pixels, the background an RGB triple."""

    layout: str
    sizes: tuple[int, int]
    background: tuple[int, int, int]


def on_background(icon: Pixels, colour: tuple[int, int, int] = WHITE) -> Pixels:
    """One icon in full size over a flat colour."""
    alpha = icon[..., 3:].astype(np.float32) / 255
    mixed = icon[..., :3] * alpha + np.asarray(colour, np.float32) * (1 - alpha)
    return (mixed + 0.5).astype(np.uint8)


def paste(canvas: Image.Image, icon: Pixels, size: int, centre: tuple[int, int]) -> None:
    small = Image.fromarray(np.ascontiguousarray(icon)).resize((size, size), Image.Resampling.LANCZOS)
    canvas.paste(small, (centre[0] - size // 2, centre[1] - size // 2), small)


def centres(scene: Scene) -> tuple[tuple[int, int], tuple[int, int]]:
    """(x, y) of both icons' centres; each icon has the middle of its own half, side by side or one above the other."""
    if scene.layout == "above":
        return (SIZE // 2, SIZE // 4), (SIZE // 2, 3 * SIZE // 4)
    if scene.layout == "left":
        return (SIZE // 4, SIZE // 2), (3 * SIZE // 4, SIZE // 2)
    first, second = scene.sizes  # "big" left, small right: the border between them moves
    rest = (SIZE - first - second) // 2
    return (rest // 2 + first // 2, SIZE // 2), (SIZE - rest // 2 - second // 2, SIZE // 2)


def border(layout: str) -> float:
    """Where the first icon's part ends, of the picture: in the middle between both."""
    return (1 + BIG - SMALL) / 2 if layout == "big" else 0.5


def draw_scene(first: Pixels, second: Pixels, scene: Scene) -> Pixels:
    canvas = Image.new("RGB", (SIZE, SIZE), scene.background)
    for icon, size, centre in zip((first, second), scene.sizes, centres(scene), strict=True):
        paste(canvas, icon, size, centre)
    return np.asarray(canvas)


def random_scene(rng: np.random.Generator) -> Scene:
    """Equal sizes of 0.41 to 0.47 of the picture, or 0.59 beside 0.34; half of the backgrounds are white."""
    layout = LAYOUTS[int(rng.integers(len(LAYOUTS)))]
    size = int(rng.integers(round(0.41 * SIZE), round(0.47 * SIZE) + 1))
    sizes = (round(BIG * SIZE), round(SMALL * SIZE)) if layout == "big" else (size, size)
    names = list(COLOURS)
    background = WHITE if rng.random() < 0.5 else COLOURS[names[int(rng.integers(len(names)))]]
    return Scene(layout, sizes, background)
