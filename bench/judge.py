"""Whether pictures of quantised weights still show what was asked for: the training's judge names them all.

    python bench/judge.py WORK/MODEL --icons DIR [--judge judge.pt]       (needs torch)

Without a judge, the nearest of all real icons names a picture, in squares at 48x48 pixels: good for a model that draws
what it has seen. WORK is as `bench/quality.py` left it. Prints for every kind of weights the shares of pictures whose
concept and whose style are named as asked, and how many are named otherwise than those of float32.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "weights" / "train"))

from captions import read_concepts
from dataset import Dataset, Item
from icons import STYLES
from judge import Judge
from measures import name
from numpy.typing import NDArray
from paths import work_folder
from torch.nn import functional

Named = Callable[[NDArray[np.uint8]], tuple[NDArray[np.int64], NDArray[np.int64]]]
SMALL = 48  # pixels of pictures that are compared one by one


def by_judge(file: Path) -> Named:
    """pictures [N, H, W, 3] -> (concepts [N], styles [N]), as the trained judge sees them."""
    state = torch.load(file, weights_only=True, map_location="cpu")
    judge = Judge(len(state["concept.bias"]), len(state["style.bias"]))
    judge.load_state_dict(state)
    judge.eval()
    return lambda pictures: name(judge, pictures)[:2]


def by_nearest_icon(packages: Path) -> Named:
    """The same, as the nearest real icon says."""
    dataset = Dataset(packages, work_folder("."), scenes=1)
    styles = range(len(dataset.styles))

    def reduced(pictures: NDArray[np.uint8]) -> torch.Tensor:
        planes = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
        return functional.interpolate(planes, (SMALL, SMALL), mode="area").flatten(1)

    icons = [
        np.stack([dataset.draw(Item(concept, style)) for style in styles]) for concept in range(len(dataset.concepts))
    ]
    real = torch.cat([reduced(pictures) for pictures in icons])

    def named(pictures: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = torch.cdist(reduced(pictures), real).argmin(1).numpy()
        return rows // len(styles), rows % len(styles)

    return named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pictures", type=Path, help="a folder with float32, int8 ... in it")
    parser.add_argument("--judge", type=Path, help="the trained judge (default: the nearest real icon)")
    parser.add_argument("--icons", type=Path, required=True, help="as weights/train/train.py takes them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    named = by_judge(options.judge) if options.judge else by_nearest_icon(options.icons)
    rows = {concept.icon: row for row, concept in enumerate(read_concepts(options.icons))}
    styles = list(STYLES)
    before = None
    for folder in sorted(options.pictures.iterdir(), key=lambda path: (path.name != "float32", path.name)):
        files = sorted(folder.glob("*.npz"))
        asked = np.array([[rows[f.stem.split(".")[0]], styles.index(f.stem.split(".")[1])] for f in files])
        pictures = np.stack([np.rint(np.load(f)["picture"] * 255).astype(np.uint8) for f in files])
        concepts, found = named(pictures)
        before = concepts if before is None else before
        same = f"{np.count_nonzero(concepts != before)} named otherwise" if len(concepts) == len(before) else ""
        shares = f"concept {np.mean(concepts == asked[:, 0]):.1%}, style {np.mean(found == asked[:, 1]):.1%}"
        print(f"{folder.name:<10}{len(files):4d} pictures: {shares}  {same}")


if __name__ == "__main__":
    main()
