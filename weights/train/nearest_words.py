"""Every plain English word and the concept that it means most nearly, by the sentence model's judgement.

A word's score for a concept is the cosine to the nearest of its names, or 0.9 times that to the nearest of emojibase's
tags for it, whichever is more, plus 0.2 times that to the mean of the tags. (Each tag that one concept alone carries,
judged without itself, finds its concept in 28 % of cases so, by names alone in 23 %; of the 60 held-out synonyms 28, by
names alone 23.) Synonyms that captions use go to their own concept. Held-out synonyms are words like others here, of
which the sentence model alone says what they mean: tags that contain one are not looked at, nor whose they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from captions import Concept, english, held_out, read_tags
from text_encoder import WHEEL, Teacher

FRAMES = ("a {}", "{}")  # a word's embedding is the sum of both
TAG, TAGS = 0.9, 0.2  # weights of the nearest tag and of the mean tag beside the nearest name
LEAST = 0.65  # words whose best score is below mean nothing that can be drawn
FILE = "nearest_words.json"


def embed(teacher: Teacher, words: Sequence[str]) -> torch.Tensor:
    """[N, 384], normalised."""
    found = sum((teacher.embed([frame.format(word) for word in words]) for frame in FRAMES), torch.zeros(()))
    return torch.nn.functional.normalize(found, dim=-1)


def best_of_each(similarity: torch.Tensor, owners: torch.Tensor, concepts: int) -> torch.Tensor:
    """[words, texts] and the concepts [texts] that own the texts -> the most of each [words, concepts], else -1."""
    found = torch.full((len(similarity), concepts), -1.0)
    return found.scatter_reduce(1, owners.expand_as(similarity), similarity, "amax")


def owned(texts: list[Sequence[str]]) -> tuple[list[str], torch.Tensor]:
    """All concepts' texts in one list, and the rows of the concepts that they belong to."""
    pairs = [(row, text) for row, own in enumerate(texts) for text in own]
    return [text for _, text in pairs], torch.tensor([row for row, _ in pairs])


def scores(words: list[str], concepts: tuple[Concept, ...], tags: list[list[str]], teacher: Teacher) -> torch.Tensor:
    """[words, concepts], see above."""
    names, named = owned([concept.names for concept in concepts])
    carried, carriers = owned(tags)
    name_meanings, tag_meanings = embed(teacher, names), embed(teacher, carried)
    means = torch.zeros(len(concepts), tag_meanings.shape[1]).index_add(0, carriers, tag_meanings)
    means = torch.nn.functional.normalize(means, dim=-1)
    parts = []
    for some in embed(teacher, words).split(1000):
        nearest = best_of_each(some @ name_meanings.T, named, len(concepts))
        nearest = torch.maximum(nearest, TAG * best_of_each(some @ tag_meanings.T, carriers, len(concepts)))
        parts.append(nearest + TAGS * (some @ means.T))
    return torch.cat(parts)


def nearest_words(concepts: tuple[Concept, ...], packages: Path, teacher: Teacher) -> dict[str, str]:
    """word -> icon name, of every word that is no name and has a concept near enough."""
    hidden = {word for _, word in held_out()["synonyms"]}
    all_tags = read_tags(packages)
    tags = [
        [tag for tag in all_tags.get(concept.icon, []) if not any(h in tag or tag in h for h in hidden)]
        for concept in concepts
    ]
    own = {word: concept.icon for concept in concepts for word in concept.synonyms}
    names = {name for concept in concepts for name in concept.names}
    words = sorted(word for word in {*teacher.words(), *english(packages), *own} - names if len(word) > 2)
    best, rows = scores(words, concepts, tags, teacher).max(1)
    return {
        word: own.get(word, concepts[row].icon)
        for word, score, row in zip(words, best.tolist(), rows.tolist(), strict=True)
        if score >= LEAST or word in own
    }


def open_nearest_words(packages: Path, concepts: tuple[Concept, ...], folder: Path) -> dict[str, str] | None:
    """From `packages` where pack.py has put them, else from the sentence model (kept in `folder`), else None."""
    for stored in (packages / FILE, folder / FILE):
        if stored.exists():
            found: dict[str, str] = json.loads(stored.read_text())
            return found
    if not list(packages.glob(WHEEL)):
        return None
    found = nearest_words(concepts, packages, Teacher(packages))
    (folder / FILE).write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n")
    return found
