"""Writes near_words.json: plain English words that mean almost what a concept's name means, by the teacher's judgement.

    python near_words.py --icons DIR

A word belongs to the concept whose name has the nearest sentence embedding, if that is near (cosine of at least NEAR)
and clearly nearer than any other concept (by MARGIN); the nearest MOST are kept. (Tags of the concept in place of its
names gave "splitting" to the axe and "wait" to the alarm clock.) Captions use such words now and then in place of the
name, so that the UNet meets a concept's neighbourhood and not its name alone. Held-out synonyms, and words that share
their spelling in part, are left out: they measure what happens to words that no caption ever showed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from captions import STYLED, Concept, english, held_out, read_concepts
from compose import COLOURS
from icons import STYLES
from paths import HERE
from text_encoder import Teacher

NEAR, MARGIN, MOST = 0.68, 0.08, 5
# near by a double meaning, or unkind
UNFIT = frozenset(
    """anatolia australian australians autopsy babe cantonese chinese cremated deaths die dies dumb female females gal
    girlfriends her hiroshima idiots insulted irish jurassic nude patrick piss tasmanian terrorism turk turkish
    turks""".split()  # noqa: SIM905  (a list of words reads best as words)
)
TARGET = HERE / "near_words.json"


def candidates(concepts: tuple[Concept, ...], packages: Path, words: list[str]) -> list[str]:
    """English words and emojibase's labels and tags that are neither a name nor kept from training."""
    hidden = {word for _, word in held_out()["synonyms"]}
    taken = {word for concept in concepts for word in (*concept.names, *concept.synonyms)}
    taken |= {*STYLES, *COLOURS, *(word for template in STYLED for word in template.split())}
    found = sorted({*words, *english(packages)} - taken)
    return [
        word
        for word in found
        if len(word) > 2 and word not in UNFIT and not any(h in word or word in h for h in hidden)
    ]


@torch.no_grad()
def near_words(concepts: tuple[Concept, ...], words: list[str], teacher: Teacher) -> dict[str, list[str]]:
    """icon name -> words nearest to it, nearest first."""
    best = torch.full((len(words), len(concepts)), -1.0)
    meanings = teacher.embed([f"a {word}" for word in words])
    for column, concept in enumerate(concepts):
        own = teacher.embed([f"a {name}" for name in concept.names])
        best[:, column] = (meanings @ own.T).amax(1)
    (first, second), columns = best.topk(2, dim=1).values.T, best.argmax(1)
    kept = ((first >= NEAR) & (first - second >= MARGIN)).nonzero().flatten().tolist()
    found: dict[str, list[str]] = {}
    for row in sorted(kept, key=lambda row: -first[row].item()):
        found.setdefault(concepts[int(columns[row])].icon, []).append(words[row])
    return {icon: near[:MOST] for icon, near in sorted(found.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--icons", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    concepts, teacher = read_concepts(options.icons, near=False), Teacher(options.icons)
    found = near_words(concepts, candidates(concepts, options.icons, teacher.words()), teacher)
    TARGET.write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n")
    print(f"{TARGET}: {sum(map(len, found.values()))} words of {len(found)} concepts")


if __name__ == "__main__":
    main()
