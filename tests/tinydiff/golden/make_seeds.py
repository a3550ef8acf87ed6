"""Write seeds.json: torch's CPU random numbers for `test_rng.py`. Needs torch, on an x86 CPU with AVX2.

    python tests/tinydiff/golden/make_seeds.py

Each row is a seed and a list of calls on one generator, with the sha256 of the bytes of each result (float32,
little-endian) and its first values.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

CALLS = [
    [("uniform", 5), ("uniform", 1000)],
    [("normal", 1), ("normal", 1), ("normal", 3), ("normal", 20), ("normal", 2), ("uniform", 2), ("normal", 15)],
    [("normal", 16), ("normal", 17), ("normal", 31), ("normal", 7), ("normal", 4096)],
    [("normal", 16384)],
]
SEEDS = [0, 1, 42, 2**32 - 1, 2**32 + 1, 2**64 - 1]


def main() -> None:
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        raise SystemExit("torch makes other normals on this CPU: run this on x86 with AVX2")
    rows = []
    for seed in SEEDS:
        for calls in CALLS:
            generator = torch.Generator("cpu").manual_seed(seed)
            results = []
            for kind, n in calls:
                draw = torch.rand if kind == "uniform" else torch.randn
                values = draw(n, generator=generator).numpy().astype("<f4")
                digest = hashlib.sha256(values.tobytes()).hexdigest()
                results.append({"kind": kind, "n": n, "sha256": digest, "first": [float(v) for v in values[:2]]})
            rows.append({"seed": str(seed), "calls": results})
    text = json.dumps({"torch": torch.__version__, "rows": rows}, indent=1)
    Path(__file__).with_name("seeds.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
