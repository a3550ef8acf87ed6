"""Captions for unseen_words.py: what the pupil reads, what the teacher reads, and which state stands for which."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from captions import (
    BACKGROUNDS,
    SCENES,
    TEMPLATES,
    Concept,
    add_style,
    caption,
    caption_frames,
    choose,
    scene_caption,
    with_article,
)
from compose import COLOURS, random_scene
from icons import STYLES
from torch.utils.data import IterableDataset, get_worker_info
from transformers import CLIPTokenizer

SCENE, COLOURED, EMPTY = 0.25, 0.4, 0.02  # shares of captions
SHORT, LONG = 24, 77  # positions in most steps; in every eighth, of a quarter of the captions
NAME = re.compile(r"(\{[xy]0?\})")


@dataclass(frozen=True)
class Example:
    """Token ids that the pupil reads, those that the teacher reads, and where the teacher has what each is to say."""

    pupil: list[int]
    teacher: list[int]
    places: list[int]


def as_tensor(examples: Sequence[Example]) -> torch.Tensor:
    """Pupil's ids, teacher's ids and places [3, N, length]; places stay within the length."""
    rows = ([e.pupil for e in examples], [e.teacher for e in examples], [e.places for e in examples])
    found = torch.tensor(rows)
    found[2].clamp_(max=found.shape[2] - 1)
    return found


class Captions:
    """Endless random captions, tokenized, with an unseen word or without."""

    def __init__(self, tokenizer: CLIPTokenizer, concepts: tuple[Concept, ...], words: dict[str, str]) -> None:
        self.tokenizer, self.concepts = tokenizer, concepts
        rows = {concept.icon: row for row, concept in enumerate(concepts)}
        self.words = [(word, rows[icon]) for word, icon in words.items() if icon in rows]
        self.rng = np.random.default_rng(0)
        self.start, self.end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.tokens = cache(self.encode)
        self.plainest = [min(concept.names, key=lambda name: (len(self.tokens(name)), name)) for concept in concepts]

    def encode(self, text: str) -> list[int]:
        """Ids without start and end, by the backend: the tokenizer's own call takes four times as long."""
        return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def known_tokens(self) -> set[int]:
        """All that a known caption can have."""
        names = [name for concept in self.concepts for name in (*concept.names, *concept.synonyms)]
        texts = [*names, *map(with_article, names), *caption_frames(), *COLOURS]
        return {self.start, self.end}.union(*map(self.tokens, texts))

    def template(self) -> str:
        """A caption with {x}, and {y} of a scene, where names with their articles go; {x0} and {y0}: without."""
        rng = self.rng
        if rng.random() < SCENE:
            text = choose(SCENES[random_scene(rng).layout], rng)
        else:
            text = choose(TEMPLATES, rng).replace("{a} {name}", "{x}").replace("{name}", "{x0}")
        if rng.random() < COLOURED:
            text = choose(BACKGROUNDS, rng).format(base=text, colour=choose(tuple(COLOURS), rng))
        return add_style(text, choose(tuple(STYLES), rng), rng)

    def unseen(self, length: int) -> Example:
        """A caption with an unseen word; the teacher reads the nearest concept's name in its place."""
        word, row = self.words[int(self.rng.integers(len(self.words)))]
        parts = NAME.split(self.template())
        slots = [part for part in parts if NAME.match(part)]
        slot = slots[int(self.rng.integers(len(slots)))]
        pupil, teacher, places = [self.start], [self.start], [0]
        for part in parts:
            if part == slot:
                mine, other = (self.named(name, part) for name in (word, self.plainest[row]))
            elif NAME.match(part):
                known = self.concepts[int(self.rng.integers(len(self.concepts)))].names
                mine = other = self.named(choose(known, self.rng), part)
            else:
                mine = other = self.tokens(part)
            places += [len(teacher) + place for place in counterparts(len(mine), len(other))]
            pupil += mine
            teacher += other
        places += [max(place, len(teacher)) for place in range(len(pupil), length)]
        return Example(self.padded(pupil, length), self.padded(teacher, length), places[:length])

    def named(self, name: str, slot: str) -> list[int]:
        """A name's tokens, with an article where the slot wants one."""
        return self.tokens(name if slot.endswith("0}") else with_article(name))

    def known(self, length: int) -> Example:
        """A caption as the UNet's training has them, or the empty one."""
        rng, styles, colours = self.rng, tuple(STYLES), (None, *COLOURS)
        first, second = (self.concepts[int(row)] for row in rng.integers(len(self.concepts), size=2))
        colour, style = colours[int(rng.integers(len(colours)))], choose(styles, rng)
        if rng.random() < EMPTY:
            text = ""
        elif rng.random() < SCENE:
            text = scene_caption(first, second, random_scene(rng), colour, style, rng)
        else:
            text = caption(first, style, colour, rng)
        ids = self.padded([self.start, *self.encode(text)], length)
        return Example(ids, ids, list(range(length)))

    def padded(self, ids: list[int], length: int) -> list[int]:
        """Cut or filled with the end token, which is also last."""
        return [*(ids + [self.end] * length)[: length - 1], self.end]


class Batches(IterableDataset):
    """Endless batches as_tensor: `unseen` captions with an unseen word, then half as many known ones."""

    def __init__(self, captions: Captions, unseen: int, first_step: int) -> None:
        self.captions, self.unseen, self.first_step = captions, unseen, first_step

    def __iter__(self) -> Iterator[tuple[torch.Tensor]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        self.captions.rng = np.random.default_rng([1, self.first_step, number])
        for step in itertools.count(self.first_step + number, workers):
            yield (self.batch(step),)

    def batch(self, step: int) -> torch.Tensor:
        length, share = (LONG, 4) if step % 8 == 0 else (SHORT, 1)
        unseen = [self.captions.unseen(length) for _ in range(self.unseen // share)]
        return as_tensor([*unseen, *(self.captions.known(length) for _ in range(self.unseen // share // 2))])


def counterparts(mine: int, other: int) -> list[int]:
    """For each token of one name the token of the other that it stands for: first to first (articles), then counted
    from the last, which knows the whole name."""
    return [0 if place == 0 < mine - 1 else max(min(1, other - 1), other - mine + place) for place in range(mine)]
