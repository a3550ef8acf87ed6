"""Writes more_synonyms.json: plain English words that mean almost what a name means, by the teacher's judgement.

    python more_synonyms.py --icons DIR

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
from captions import STYLED, Concept, english, held_out, icon_name, read_concepts, read_tags
from compose import COLOURS
from icons import STYLES
from paths import HERE
from text_encoder import Teacher

NEAR, MARGIN, MOST = 0.68, 0.08, 5
# near by a double meaning or by spelling, or unkind
UNFIT = frozenset(
    """against air allowed anatolia aqua ari australian australians autopsy babe bent both breast breast-feeding cabin
    calculate calculating cancers cantonese chemotherapy chinese cock compared correctly coven cremated customers
    data deaths detail details die dies dividers divisions drilled dumb either electrons eleven fathers female
    females fence fences financially fingered fourth gal girlfriends her high hiroshima hyundai idiots impaired
    infringement injected injection instead insulted irish italian italians iteration jennie jews jurassic khan
    leukemia licensing lol magnate manager mongol mongolian name negatively neither nos nude occupational omg omw
    pagan para patrick peking permitted piss proprietor regis rockstar roflmao round rounded sable sad sen sewer sha
    shea sheet smuggling soar sow spit spot tasmanian tau terrorism thirds three tumor tumors turk turkish turks
    twelve twinsies two unwind vietnamese whereas woah woo writ""".split()  # noqa: SIM905  (a list of words reads best as words)
)
TARGET = HERE / "more_synonyms.json"


def candidates(concepts: tuple[Concept, ...], packages: Path, words: list[str]) -> list[str]:
    """English words and emojibase's labels and tags that are no name (of any icon) and not kept from training."""
    hidden = {word for _, word in held_out()["synonyms"]}
    taken = {word for concept in concepts for word in (*concept.names, *concept.synonyms)}
    taken |= {*STYLES, *COLOURS, *(word for template in STYLED for word in template.split())}
    others = read_tags(packages).keys() - {concept.icon for concept in concepts}  # pictures that are not learned
    found = sorted({*words, *english(packages)} - taken)
    return [
        word
        for word in found
        if len(word) > 2
        and word not in UNFIT
        and icon_name(word) not in others
        and not any(h in word or word in h for h in hidden)
    ]


@torch.no_grad()
def more_synonyms(concepts: tuple[Concept, ...], words: list[str], teacher: Teacher) -> dict[str, list[str]]:
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
    concepts, teacher = read_concepts(options.icons, more=False), Teacher(options.icons)
    found = more_synonyms(concepts, candidates(concepts, options.icons, teacher.words()), teacher)
    TARGET.write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n")
    print(f"{TARGET}: {sum(map(len, found.values()))} words of {len(found)} concepts")


if __name__ == "__main__":
    main()
