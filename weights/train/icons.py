"""Icons with transparency from npm packages, rendered once and kept in the cache. Deterministic.

The packages are fetched once with npm (nothing is installed), into any folder:

    npm pack @iconify-json/noto @iconify-json/fluent-emoji @iconify-json/fluent-emoji-flat @iconify-json/twemoji \\
        emojibase-data

An icon set holds one SVG body per icon name ("red-apple"). Names that all four sets share are rendered; skin tones,
hair colours and flags are left out.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = int(os.environ.get("TINYDIFF_TRAIN_SIZE", "256"))  # pixels of a training picture; 128 learns four times as fast
STYLES = {  # style word in captions -> npm package of the icon set
    "noto": "iconify-json-noto",  # Google, Apache-2.0
    "fluent": "iconify-json-fluent-emoji",  # Microsoft, MIT
    "flat": "iconify-json-fluent-emoji-flat",  # Microsoft, MIT
    "twemoji": "iconify-json-twemoji",  # Twitter, CC BY 4.0
}
VARIANTS = ("skin-tone", "light-", "dark-", "medium-", "flag-")


def read_package(folder: Path, package: str, member: str) -> Any:
    """JSON `member` of the newest `package-VERSION.tgz` in `folder`."""
    found = sorted(path for path in folder.glob(f"{package}-*.tgz") if path.name[len(package) + 1].isdigit())
    if not found:
        raise SystemExit(f"{folder}: no {package}-VERSION.tgz; fetch it there with `npm pack` (see icons.py)")
    with tarfile.open(found[-1]) as archive:
        stream = archive.extractfile(f"package/{member}")
        if stream is None:
            raise SystemExit(f"{found[-1]}: holds no {member}")
        return json.load(stream)


def svg_of(icon_set: dict[str, Any], name: str) -> str:
    """One icon as a document of SIZE pixels."""
    icon = icon_set["icons"][name]
    width = icon.get("width", icon_set.get("width", 16))
    height = icon.get("height", icon_set.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" '
        f'width="{SIZE}" height="{SIZE}">{icon["body"]}</svg>'
    )


def render(svg: str) -> NDArray[np.uint8]:
    """A document as RGBA [SIZE, SIZE, 4]."""
    from resvg_py import svg_to_bytes

    return np.asarray(Image.open(io.BytesIO(bytes(svg_to_bytes(svg_string=svg)))).convert("RGBA"))


def shared_names(icon_sets: list[dict[str, Any]]) -> list[str]:
    """Names that every icon set holds, in alphabetical order, without variants of one picture."""
    names = set.intersection(*(set(icon_set["icons"]) for icon_set in icon_sets))
    return sorted(name for name in names if not any(variant in name for variant in VARIANTS))


def load_icons(packages: Path, cache: Path) -> tuple[list[str], NDArray[np.uint8]]:
    """(names, pictures [name, style, SIZE, SIZE, 4]) from `cache`, rendered first when missing (on all cores)."""
    listing, array = cache / f"icons_{SIZE}.json", cache / f"icons_{SIZE}.npy"
    if not listing.exists():
        icon_sets = [read_package(packages, package, "icons.json") for package in STYLES.values()]
        names = shared_names(icon_sets)
        shape = (len(names), len(STYLES), SIZE, SIZE, 4)
        pictures = np.lib.format.open_memmap(array, "w+", np.uint8, shape)
        documents = (svg_of(icon_set, name) for name in names for icon_set in icon_sets)
        with multiprocessing.get_context("fork").Pool() as pool:
            for row, drawn in enumerate(pool.imap(render, documents, chunksize=16)):
                pictures[row // len(STYLES), row % len(STYLES)] = drawn
        pictures.flush()
        listing.write_text(json.dumps(names))
    return json.loads(listing.read_text()), np.load(array, mmap_mode="r")
