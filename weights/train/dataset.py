"""What the UNet learns from: single icons on white, on a colour, and composed scenes, each with random captions.

Every picture is an `Item` of numbers, drawn when needed; the autoencoder encodes each once and the latents are kept.
Pairs of concept and style that are held out occur nowhere, not even in a scene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from captions import Concept, caption, held_out, read_concepts, scene_caption
from compose import COLOURS, Scene, draw_scene, on_background, random_scene
from device import DEVICE
from drawing import draw_in_parallel
from icons import STYLES, load_icons
from numpy.typing import NDArray
from paths import save_atomically

MOST_SCENES, MOST_COLOURS = 24_000, 2  # composed pictures; coloured backgrounds of every icon
FEW_SCENES, FEW_COLOURS = 6000, 1  # the first of them, where a CPU must encode them
SCENES, COLOURINGS = (FEW_SCENES, FEW_COLOURS) if DEVICE.type == "cpu" else (MOST_SCENES, MOST_COLOURS)
SHARE_OF_SCENES, SHARE_OF_COLOURED = 0.2, 0.1  # of the samples; the rest is one icon on white
KEPT_DRAWS = 250  # random scenes to choose those from that evaluate.py asks for
COLOUR_NAMES = {rgb: name for name, rgb in COLOURS.items()}


@dataclass(frozen=True)
class Item:
    """One picture: a concept (row in Dataset.concepts) in a style; a second one makes it a scene."""

    concept: int
    style: int
    colour: str | None = None  # of the background; None is white
    second: int | None = None
    scene: Scene | None = None


class Dataset:
    """`items` are ordered: on white, on a colour, scenes; `bounds` says where each kind begins and ends."""

    def __init__(self, packages: Path, cache: Path, count: int | None = None, scenes: int = SCENES) -> None:
        self.packages, self.cache, self.styles = packages, cache, tuple(STYLES)
        self.concepts: tuple[Concept, ...] = read_concepts(packages, count)
        hidden = {(icon, style) for icon, style in held_out()["pairs"]}
        pairs = [(c, s) for c in range(len(self.concepts)) for s in range(len(self.styles))]
        self.hidden = [(c, s) for c, s in pairs if (self.concepts[c].icon, self.styles[s]) in hidden]
        self.shown = [pair for pair in pairs if pair not in set(self.hidden)]
        white = [Item(c, s) for c, s in self.shown]
        rng = np.random.default_rng(1)
        chosen = [rng.permutation(list(COLOURS)) for _ in self.shown]
        coloured = [
            Item(c, s, str(names[k]))
            for k in range(COLOURINGS)
            for (c, s), names in zip(self.shown, chosen, strict=True)
        ]
        rng = np.random.default_rng(2)
        scenes = [self.random_scene_item(rng) for _ in range(min(scenes, 4 * len(white)))]
        self.items = [*white, *coloured, *scenes]
        self.share_of_scenes = SHARE_OF_SCENES
        ends = np.cumsum([len(white), len(coloured), len(scenes)]).tolist()
        self.bounds = list(zip([0, *ends[:-1]], ends, strict=True))

    @cached_property
    def shared(self) -> tuple[list[str], NDArray[np.uint8]]:
        """Names and pictures [name, style, SIZE, SIZE, 4] of all icons that the four sets share; rendered when needed.

        Training the UNet on cached latents needs none, so that a machine without the icon packages can do it.
        """
        return load_icons(self.packages, self.cache)

    @cached_property
    def rows(self) -> list[int]:
        """The concepts' rows in `shared`."""
        found = {name: row for row, name in enumerate(self.shared[0])}
        return [found[concept.icon] for concept in self.concepts]

    def icon(self, concept: int, style: int) -> NDArray[np.uint8]:
        """One icon [SIZE, SIZE, 4]."""
        return self.shared[1][self.rows[concept], style]

    @cached_property
    def autoencoder_rows(self) -> tuple[list[int], list[int]]:
        """Rows of `shared` that the autoencoders learn from, and those that they never see."""
        kept = set(held_out()["autoencoder"])
        rows: tuple[list[int], list[int]] = ([], [])
        for row, name in enumerate(self.shared[0]):
            rows[name in kept].append(row)
        return rows

    def random_scene_item(self, rng: np.random.Generator) -> Item:
        """Two different concepts in one style, neither pair held out."""
        hidden = set(self.hidden)
        while True:
            first, second = (int(row) for row in rng.integers(0, len(self.concepts), 2))
            style = int(rng.integers(len(self.styles)))
            if first != second and not {(first, style), (second, style)} & hidden:
                scene = random_scene(rng)
                return Item(first, style, COLOUR_NAMES.get(scene.background), second, scene)

    @cached_property
    def kept_scenes(self) -> list[Item]:
        """Scenes on white for evaluate.py, none of `items`; recombine.py never makes one of their pairs."""
        rng, found = np.random.default_rng(99), []
        trained = {(item.concept, item.second) for item in self.items if item.second is not None}
        for _ in range(KEPT_DRAWS):
            item = self.random_scene_item(rng)
            if item.colour is None and (item.concept, item.second) not in trained:
                found.append(item)
        return found

    def draw(self, item: Item) -> NDArray[np.uint8]:
        """The picture [SIZE, SIZE, 3]."""
        icon = self.icon(item.concept, item.style)
        if item.second is not None and item.scene is not None:
            return draw_scene(icon, self.icon(item.second, item.style), item.scene)
        return on_background(icon) if item.colour is None else on_background(icon, COLOURS[item.colour])

    def draw_all(self, items: list[Item]) -> Iterator[NDArray[np.uint8]]:
        """The pictures in arrays [n, SIZE, SIZE, 3], drawn on all cores."""
        self._open_icons()
        return draw_in_parallel(self.draw, items)

    def random_pictures(self, count: int) -> Iterator[NDArray[np.uint8]]:
        """random_picture of the seeds from 0 to count - 1, likewise."""
        self._open_icons()
        return draw_in_parallel(self.random_picture, range(count))

    def _open_icons(self) -> None:
        """Before the workers fork, so that they share what is read, and none renders it anew."""
        _ = self.rows, self.autoencoder_rows

    def describe(self, item: Item, rng: np.random.Generator) -> str:
        """One of the item's many captions."""
        style, first = self.styles[item.style], self.concepts[item.concept]
        if item.second is not None and item.scene is not None:
            return scene_caption(first, self.concepts[item.second], item.scene, item.colour, style, rng)
        return caption(first, style, item.colour, rng)

    def random_rows(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Rows of `items`, the kinds in their shares."""
        shares = [1 - self.share_of_scenes - SHARE_OF_COLOURED, SHARE_OF_COLOURED, self.share_of_scenes]
        kinds = rng.choice(3, count, p=shares)
        starts, ends = np.array(self.bounds).T
        return rng.integers(starts[kinds], ends[kinds])

    def random_picture(self, seed: int) -> NDArray[np.uint8]:
        """For the autoencoder: any shared icon not kept from it; 55 % on white, 20 % on a colour, 25 % scenes."""
        rng = np.random.default_rng(seed)
        kept, pictures = self.autoencoder_rows[0], self.shared[1]
        first, second = (pictures[kept[row], rng.integers(len(self.styles))] for row in rng.integers(0, len(kept), 2))
        kind = rng.random()
        if kind < 0.55:
            return on_background(first)
        if kind < 0.75:
            return on_background(first, list(COLOURS.values())[int(rng.integers(len(COLOURS)))])
        return draw_scene(first, second, random_scene(rng))

    def white_pictures(self) -> NDArray[np.uint8]:
        """Every fourth of the single icons on white, to measure latents on."""
        first, last = self.bounds[0]
        return np.concatenate(list(self.draw_all(self.items[first:last:4])))

    def probes(self) -> dict[str, NDArray[np.uint8]]:
        """Pictures to measure an autoencoder on: concepts it was trained on and concepts it never saw, on white."""
        seen = [
            on_background(self.icon(c, c % 4)) for c in range(0, len(self.concepts), max(1, len(self.concepts) // 48))
        ]
        new = [on_background(self.shared[1][row, k % 4]) for k, row in enumerate(self.autoencoder_rows[1])]
        return {"trained": np.stack(seen), "held-out": np.stack(new)}


def cached_latents(dataset: Dataset, encode: Callable[[NDArray[np.uint8]], torch.Tensor], path: Path) -> torch.Tensor:
    """Latents [items, channels, SIZE / 8, SIZE / 8] of all items by `encode`, float16 on the device; kept in `path`."""
    if path.exists():
        stored = torch.load(path, weights_only=True, map_location=DEVICE)["latents"]
        if len(stored) == len(dataset.items):
            return stored
    latents = torch.cat([encode(pictures).half() for pictures in dataset.draw_all(dataset.items)])
    save_atomically({"latents": latents}, path)
    return latents
