"""How a measured program talks to `compare.py`: it loads, says "ready" with what it is, then answers lines.

    go              run once; the answer is its seconds
    output FILE     the last result as a NumPy file; the answer is "saved", or "none" where a program cannot give it
    memory          peak resident bytes so far

All programs of a comparison stay loaded and run in turn, so that each meets the same minutes of the machine. All get
the same numbers: `inputs` draws them.

Each program runs in an environment of its own (`make_env.sh`). Two read other formats: `export.py`, in torch's
environment, writes their models into `converted(folder)`; with the word "convert" as their last argument they quantise
those, in their own, and end. A timed run never converts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FACTOR, TOKENS, TIMESTEP = 8, 77, 500.0
CACHE_VARIABLE = "TINYDIFF_PEERS_CACHE"
STARTED = time.perf_counter()  # this module is imported first


def config_of(folder: Path, part: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
    return config


def inputs(part: str, config: Mapping[str, Any], size: int) -> list[Any]:
    """Of the UNet: latents, context. Of the decoder: latents, already divided by the scaling factor."""
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(1, 4, size // FACTOR, size // FACTOR)).astype(np.float32)
    if part == "vae":
        return [latents]
    return [latents, rng.normal(size=(1, TOKENS, config["cross_attention_dim"])).astype(np.float32)]


def feed(part: str, config: Mapping[str, Any], size: int) -> list[Any]:
    """What an exported network takes, in its order: the same, and of the UNet the timestep between them."""
    first, *rest = inputs(part, config, size)
    return [first, np.array([TIMESTEP], np.float32), *rest] if part == "unet" else [first]


def converted(folder: Path) -> Path:
    """Where conversions of a model are kept: beside it, or in a folder of its own below $TINYDIFF_PEERS_CACHE."""
    root = os.environ.get(CACHE_VARIABLE)
    return folder if not root else Path(root) / str(folder.resolve()).strip("/").replace("/", "-")


def home(program: str, folder: Path, part: str, kind: str, size: int) -> Path:
    """Of a converted network. OpenVINO's leaves height and width open; an ONNX file is of one size."""
    if program == "openvino":
        return converted(folder) / "openvino" / f"{part}-{kind}"
    return converted(folder) / "onnx" / f"{part}-{kind}-{size}"


def keep(target: Path, write: Callable[[Path], None]) -> None:
    """Write a folder, if it is not there, and give it its name when it is complete."""
    if target.exists():
        return
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    partial.rename(target)


def asked_to_convert() -> bool:
    return sys.argv[-1] == "convert"


def require(target: Path) -> None:
    """End, saying what to do, unless the model has been converted."""
    if not target.exists():
        raise SystemExit(f"{target.name} is not converted: the same command with --convert")


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
