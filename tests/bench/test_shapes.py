"""Shape files are what the configs give; the configs are those of the models that they are named after."""

from __future__ import annotations

from math import prod

import pytest

from bench import make_shapes
from tinydiff.bench.families import NETWORKS, build
from tinydiff.parameters import Parameters
from tinydiff_kernels.plan import Plan

PUBLISHED = {  # parameters of the released models
    "sd15-unet": 859_520_964,
    "sd21-unet": 865_910_724,
    "sdxl-unet": 2_567_463_684,
    "bk-tiny-unet": 323_384_964,
    "sd-vae": 83_653_863,
    "taesd": 2_445_063,
    "clip-l": 123_060_480,
    "openclip-g": 694_659_840,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts(name: str) -> None:
    parameters = Parameters.declare()
    build(NETWORKS[name], parameters, Plan())
    assert sum(map(prod, parameters.declared.values())) == PUBLISHED[name]


def test_files_are_as_the_script_makes_them() -> None:
    made = make_shapes.files()
    kept = {file.name: file.read_text(encoding="utf-8") for file in make_shapes.FOLDER.glob("*.txt")}
    assert kept == made, "`python bench/make_shapes.py` makes them again"


def test_reading_gives_what_was_written() -> None:
    file = make_shapes.FOLDER / "clip-l.txt"
    shapes = make_shapes.read(file)
    assert "\n".join(f"{s} x{n}" for s, n in shapes.items()) == file.read_text().split("\n", 1)[1].strip()
    assert sum(n for s, n in shapes.items() if s.kind == "attention") == 12
