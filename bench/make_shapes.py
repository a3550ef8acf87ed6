"""Shape files of all model families, from their configs: `python bench/make_shapes.py` writes bench/shapes/*.txt."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "weights")]

from tinydiff.bench.families import NETWORKS  # noqa: E402
from tinydiff.bench.shapes import Shape, collect  # noqa: E402
from tinydiff_weights.open import open_model  # noqa: E402

FOLDER = Path(__file__).with_name("shapes")
SIZES = {  # network -> pixels; text encoders have none
    "sd15-unet": (256, 512, 768),
    "sd21-unet": (768,),
    "sdxl-unet": (512, 1024),
    "bk-tiny-unet": (512,),
    "sd-vae": (256, 512),
    "taesd": (512,),
    "clip-l": (0,),
    "openclip-h": (0,),
    "openclip-g": (0,),
}
EMBEDDED = ("unet", "vae", "text_encoder")  # in the model's own size


def files() -> dict[str, str]:
    """File name -> content."""
    made = {}
    for name, sizes in SIZES.items():
        for size in sizes:
            made[f"{name}-{size}.txt" if size else f"{name}.txt"] = content(name, size, collect(NETWORKS[name], size))
    embedded = open_model()
    for part in EMBEDDED:
        size = 0 if part == "text_encoder" else embedded.defaults["width"]
        config = dict(embedded.components[part].config)
        made[f"embedded-{part}.txt"] = content(f"embedded {part}", size, collect(config, size))
    return made


def content(name: str, size: int, shapes: Counter[Shape]) -> str:
    where = f"{name}, {size}x{size} pixels" if size else name
    lines = [f"# {where}, one picture; made by bench/make_shapes.py", *(f"{s} x{n}" for s, n in shapes.items())]
    return "\n".join(lines) + "\n"


def read(file: Path) -> Counter[Shape]:
    """The shapes of a file."""
    found: Counter[Shape] = Counter()
    for line in file.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            text, _, count = line.rpartition(" x")
            found[Shape.parse(text)] += int(count)
    return found


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file_name, text in files().items():
        (FOLDER / file_name).write_text(text, encoding="utf-8")
        print(f"{file_name}: {text.count(chr(10)) - 1} shapes")
