"""Whether pictures of quantised weights still show what was asked for: the training's judge names them all.

    python bench/judge.py WORK/MODEL --judge judge.pt --icons DIR       (needs torch)

WORK is as `bench/quality.py` left it. Prints for every kind of weights the shares of pictures whose concept and whose
style the judge names as asked, and how many it names otherwise than those of float32.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "weights" / "train"))

from captions import read_concepts
from icons import STYLES
from judge import Judge
from measures import name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pictures", type=Path, help="a folder with float32, int8 ... in it")
    parser.add_argument("--judge", type=Path, required=True, help="the trained judge")
    parser.add_argument("--icons", type=Path, required=True, help="as weights/train/train.py takes them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    state = torch.load(options.judge, weights_only=True, map_location="cpu")
    judge = Judge(len(state["concept.bias"]), len(state["style.bias"]))
    judge.load_state_dict(state)
    judge.eval()
    rows = {concept.icon: row for row, concept in enumerate(read_concepts(options.icons, len(state["concept.bias"])))}
    styles = list(STYLES)
    before = None
    for folder in sorted(options.pictures.iterdir(), key=lambda path: (path.name != "float32", path.name)):
        files = sorted(folder.glob("*.npz"))
        asked = np.array([[rows[f.stem.split(".")[0]], styles.index(f.stem.split(".")[1])] for f in files])
        pictures = np.stack([np.rint(np.load(f)["picture"] * 255).astype(np.uint8) for f in files])
        concepts, found, _ = name(judge, pictures)
        before = concepts if before is None else before
        same = f"{np.count_nonzero(concepts != before)} named otherwise" if len(concepts) == len(before) else ""
        shares = f"concept {np.mean(concepts == asked[:, 0]):.1%}, style {np.mean(found == asked[:, 1]):.1%}"
        print(f"{folder.name:<10}{len(files):4d} pictures: {shares}  {same}")


if __name__ == "__main__":
    main()
