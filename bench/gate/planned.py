"""Bytes of the arena that the compiled backend plans for a UNet step and a decode, from shapes alone."""

from __future__ import annotations

from tinydiff.bench.families import NETWORKS, build, caller
from tinydiff.parameters import Parameters
from tinydiff.recipe import kind_of
from tinydiff_kernels.compiled.dry import Dry

THREADS = 4  # each has scratch in the arena
CASES = (  # network, part as the recipe names it, weights, pixels, pictures
    ("sd15-unet", "unet", "float32", 512, 2),
    ("sd15-unet", "unet", "int8", 512, 2),
    ("sd-vae", "vae", "float32", 512, 1),
    ("sd-vae", "vae", "int8", 512, 1),
    ("taesd", "vae", "float32", 512, 1),
)


def arena_bytes() -> dict[str, int]:
    """`network weights size batch` -> bytes of the largest program."""
    found = {}
    for network, part, weights, size, batch in CASES:
        backend = Dry(kind_of(part, weights, 4), threads=THREADS)
        caller(NETWORKS[network], build(NETWORKS[network], Parameters.declare(), backend), size, batch)()
        name = f"{network} {weights} {size} x{batch}"
        found[name] = max(program.arena_bytes for program in backend.programs.values())
    return found
