"""How a measured program talks to `compare.py`: it loads, says "ready" with what it is, then answers lines.

    go              run once; the answer is its seconds
    output FILE     the last result as a NumPy file; the answer is "saved", or "none" where a program cannot give it
    memory          peak resident bytes so far

All programs of a comparison stay loaded and run in turn, so that each meets the same minutes of the machine. All get
the same numbers: `inputs` draws them.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FACTOR, TOKENS, TIMESTEP = 8, 77, 500.0
STARTED = time.perf_counter()  # this module is imported first


def inputs(part: str, folder: Path, size: int) -> list[Any]:
    """Of the UNet: latents, context. Of the decoder: latents, already divided by the scaling factor."""
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(1, 4, size // FACTOR, size // FACTOR)).astype(np.float32)
    if part == "vae":
        return [latents]
    width = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))["cross_attention_dim"]
    return [latents, rng.normal(size=(1, TOKENS, width)).astype(np.float32)]


def disk_bytes(*places: Path) -> int:
    """Of files and folders."""
    files = [f for place in places for f in (place.rglob("*") if place.is_dir() else [place])]
    return sum(f.stat().st_size for f in files if f.is_file())


def peak_bytes() -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def serve(run: Callable[[], Any], *, disk: int, computes: bool = True, **about: Any) -> None:
    """Answer until standard input ends. `run` gives its output, or, where it cannot, seconds that it measured itself.

    It runs once before the program is ready: compiling and packing belong to loading.
    """
    out = sys.stdout
    sys.stdout = sys.stderr  # libraries print
    result = run()
    about |= {"load_seconds": round(time.perf_counter() - STARTED, 2), "disk": disk}
    print("ready", json.dumps(about), file=out, flush=True)
    for line in sys.stdin:
        word, _, file = line.strip().partition(" ")
        if word == "go":
            started = time.perf_counter()
            result = run()
            print(result if not computes else time.perf_counter() - started, file=out, flush=True)
        elif word == "output":
            if computes:
                np.save(file, np.asarray(result, np.float32))
            print("saved" if computes else "none", file=out, flush=True)
        elif word == "memory":
            print(peak_bytes(), file=out, flush=True)
