"""What pictures are called: names, synonyms, style words, backgrounds, scenes; and which words are held out.

A concept's names are its icon's name and everyday names written by hand (concepts.txt); its synonyms are emojibase's
tags that no other concept carries. 60 words (held_out.json), each for one concept, occur in no caption at all.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from compose import Scene
from icons import STYLES, read_package

HERE = Path(__file__).resolve().parent

TEMPLATES = ("{a} {name}", "{name}", "{name}", "{a} {name} icon", "a picture of {a} {name}", "an emoji of {a} {name}")
BACKGROUNDS = ("{base} on a {colour} background", "{base} on {colour}", "{base}, {colour} background")
STYLED = ("{base}, {style}", "{base}, {style}", "{base}, {style} style")
SCENES = {  # layout -> templates; {x} and {y} are the first and the second icon's names with their articles
    "left": ("{x} left of {y}", "{x} to the left of {y}", "{y} right of {x}", "{y} to the right of {x}", "{x} and {y}"),
    "above": ("{x} above {y}", "{x} over {y}", "{y} below {x}", "{y} under {x}"),
    "big": ("a big {x0} and a small {y0}", "a small {y0} beside a big {x0}", "a small {y0} next to a big {x0}"),
}
OPEN_STYLE = 0.3  # share of captions that name no style
SYNONYM = 0.25  # share of captions with a synonym in place of a name
NO_ARTICLE = set(  # last words of names
    """arrows beans blueberries briefs bubbles cherries chips chopsticks clothes dividers dolls droplets fireworks
    flags footprints frames fries glasses goggles grapes hands headphones hugging jeans letters loops lungs maracas
    noodles nuts palms pancakes pants peanuts scissors shades shorts skis sparkles spectacles swords tickets tools
    trainers trousers""".split()  # noqa: SIM905  (a list of words reads best as words)
)
AN = ("a", "e", "i", "o", "u", "hour", "x ")  # how names begin that sound as if they began with a vowel,
A = ("euro", "one ", "ufo", "unicorn", "user")  # except these
UNKIND = {"depressed", "died", "fart", "handicap", "sucks"}  # tags that no caption takes up


@dataclass(frozen=True)
class Concept:
    icon: str  # the name in every icon set: "red-apple"
    names: tuple[str, ...]  # what people call it: "red apple", "apple"
    synonyms: tuple[str, ...]  # emojibase's tags that this concept alone carries, and words that mean the same
    held_out: tuple[str, ...] = ()  # synonyms that training never shows


def held_out() -> dict[str, Any]:
    """held_out.json: concepts kept from the autoencoder, (concept, style) pairs and synonyms kept from the UNet."""
    return json.loads((HERE / "held_out.json").read_text())


def read_names(path: Path = HERE / "concepts.txt") -> dict[str, tuple[str, ...]]:
    """icon name -> names, in the file's order."""
    concepts: dict[str, tuple[str, ...]] = {}
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        icon, _, rest = line.partition(":")
        own = icon.strip().replace("-", " ")
        spoken = own.removesuffix(" face") if own.endswith(("cat face", "dog face", "pig face", "rabbit face")) else own
        names = [own, spoken, *(name.strip() for name in rest.split(",") if name.strip())]
        concepts[icon.strip()] = tuple(dict.fromkeys(names))
    return concepts


def icon_name(label: str) -> str:
    """The icon sets' spelling of an emojibase label: "woman’s boot" -> "womans-boot"."""
    kept = "".join(letter for letter in label.lower().replace(" ", "-") if letter.isalnum() or letter == "-")
    return "-".join(part for part in kept.split("-") if part)


def read_tags(packages: Path) -> dict[str, list[str]]:
    """icon name -> emojibase's tags, lower case."""
    entries = read_package(packages, "emojibase-data", "en/data.json")
    return {icon_name(entry["label"]): [tag.lower() for tag in entry.get("tags", [])] for entry in entries}


def read_concepts(packages: Path, count: int | None = None, more: bool = True) -> tuple[Concept, ...]:
    """The first `count` concepts. A synonym belongs to one concept of the whole list alone and is nobody's name.

    Besides emojibase's tags the words of more_synonyms.json are synonyms, unless `more` is False.
    """
    names, tags = read_names(), read_tags(packages)
    more_synonyms: dict[str, list[str]] = json.loads((HERE / "more_synonyms.json").read_text()) if more else {}
    seen = Counter(tag for icon in names for tag in set(tags.get(icon, [])))
    taken = UNKIND.union(word for known in names.values() for name in known for word in (name, *name.split()))
    pairs = held_out()["synonyms"]
    hidden = {word for _, word in pairs}  # kept from every concept's captions: a tag can belong to more than one
    concepts = []
    for icon, known in list(names.items())[:count]:
        unique = [tag for tag in tags.get(icon, []) if seen[tag] == 1 and tag not in taken and len(tag) > 3]
        words = tuple(word for word in (*unique, *more_synonyms.get(icon, ())) if not hidden & set(word.split()))
        concepts.append(Concept(icon, known, words, tuple(word for owner, word in pairs if owner == icon)))
    return tuple(concepts)


def choose(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def with_article(name: str) -> str:
    if name.split()[-1] in NO_ARTICLE:
        return name
    return f"{'an' if name.startswith(AN) and not name.startswith(A) else 'a'} {name}"


def random_name(concept: Concept, rng: np.random.Generator) -> str:
    synonym = concept.synonyms and rng.random() < SYNONYM
    return choose(concept.synonyms if synonym else concept.names, rng)


def add_style(base: str, style: str, rng: np.random.Generator) -> str:
    """Name the style, or leave it open now and then."""
    return base if rng.random() < OPEN_STYLE else choose(STYLED, rng).format(base=base, style=style)


def caption(concept: Concept, style: str, colour: str | None, rng: np.random.Generator) -> str:
    """A random caption of one icon, on white (`colour` None) or on a flat colour of compose.COLOURS."""
    name = random_name(concept, rng)
    base = choose(TEMPLATES, rng).format(a=with_article(name).removesuffix(name).strip(), name=name).strip()
    base = base.replace("  ", " ")
    if colour is not None:
        base = choose(BACKGROUNDS, rng).format(base=base, colour=colour)
    return add_style(base, style, rng)


def scene_caption(
    first: Concept, second: Concept, scene: Scene, colour: str | None, style: str, rng: np.random.Generator
) -> str:
    """A random caption of two icons in one picture."""
    x0, y0 = choose(first.names, rng), choose(second.names, rng)
    template = choose(SCENES[scene.layout], rng)
    base = template.format(x=with_article(x0), y=with_article(y0), x0=x0, y0=y0)
    if colour is not None:
        base = choose(BACKGROUNDS, rng).format(base=base, colour=colour)
    return add_style(base, style, rng)


def english(packages: Path) -> list[str]:
    """All of emojibase's labels and tags: everyday English around the concepts."""
    entries = read_package(packages, "emojibase-data", "en/data.json")
    return sorted({text.lower() for entry in entries for text in (entry["label"], *entry.get("tags", []))})


def caption_frames() -> list[str]:
    """The words of all templates, for the vocabulary."""
    scenes = [template for templates in SCENES.values() for template in templates]
    empty = dict.fromkeys(("a", "name", "base", "style", "colour", "x", "y", "x0", "y0"), "")
    return [text.format(**empty) for text in (*TEMPLATES, *BACKGROUNDS, *STYLED, *scenes)] + list(STYLES)
