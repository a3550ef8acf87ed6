"""Stable Diffusion 1.5's UNet (860 M) and CLIP-L at full size, random weights, ours against diffusers.

    OMP_NUM_THREADS=1 python tests/oracle/fullsize_sd15.py FOLDER [--size 256]

A command of its own, not collected as a test: it writes 3.9 GB to FOLDER (and leaves them there for another
run) and needs some 5 GB of memory. Each side runs in a process of its own, so that its peak is its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in (".", "kernels", "weights", "tests")]
CONTEXT = 768
CLIP: dict[str, Any] = {
    "eos_token_id": 49407,
    "hidden_act": "quick_gelu",
    "hidden_size": CONTEXT,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": CONTEXT,
    "vocab_size": 49408,
}


def inputs(size: int) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    ids = rng.integers(0, 49406, (1, 77))
    ids[0, 12:] = 49407
    return {
        "sample": rng.standard_normal((1, 4, size // 8, size // 8), np.float32),
        "context": rng.standard_normal((1, 77, CONTEXT), np.float32),
        "timestep": 601.0,
        "ids": ids,
    }


def make(folder: Path, size: int) -> None:
    """Both networks as diffusers and transformers initialise and save them."""
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    if not (folder / "text_encoder").exists():
        CLIPTextModel(CLIPTextConfig(**CLIP)).save_pretrained(folder / "text_encoder")
    if not (folder / "unet").exists():
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=CONTEXT, attention_head_dim=8)
        unet.save_pretrained(folder / "unet")


def theirs(folder: Path, size: int) -> None:
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    given = inputs(size)
    with torch.no_grad():
        text = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
        ids = torch.from_numpy(given["ids"])
        save(folder, "theirs", "text", lambda: text(ids).last_hidden_state.numpy())
        unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
        sample, context = torch.from_numpy(given["sample"]), torch.from_numpy(given["context"])
        save(folder, "theirs", "unet", lambda: unet(sample, given["timestep"], context).sample.numpy())


def ours(folder: Path, size: int) -> None:
    from miniatures import network

    from tinydiff_kernels.reference import Reference
    from tinydiff_weights.rename_old import hub_clip_names
    from tinydiff_weights.weight_files import open_weights

    given = inputs(size)

    def model(name: str) -> Any:
        config = json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
        tensors: Any = open_weights(folder / name, folder)
        if name == "text_encoder":
            tensors, _ = hub_clip_names(tensors)
        return network(config, tensors, Reference())

    text, unet = model("text_encoder"), model("unet")
    save(folder, "ours", "text", lambda: text(given["ids"]))
    save(folder, "ours", "unet", lambda: unet(given["sample"], given["timestep"], given["context"]))


def save(folder: Path, side: str, name: str, compute: Callable[[], Any]) -> None:
    start = time.perf_counter()
    result = compute()
    print(f"{side:>6} {name}: {time.perf_counter() - start:.1f} s, {memory()}", flush=True)
    np.save(folder / f"{side}_{name}.npy", result)


def memory() -> str:
    """Anonymous and file-backed now, and the peak of both together, from the kernel."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith("kB")}
    names = {"RssAnon": "anonymous", "RssFile": "mapped files", "VmHWM": "peak of all"}
    return ", ".join(f"{text} {values[key]:,.0f} MiB" for key, text in names.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=256, help="side of the picture in pixels")
    parser.add_argument("--part", choices=["make", "ours", "theirs"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        {"make": make, "ours": ours, "theirs": theirs}[args.part](args.folder, args.size)
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    for part in ("make", "ours", "theirs"):
        command = [sys.executable, __file__, str(args.folder), "--size", str(args.size), "--part", part]
        subprocess.run(command, check=True)
    failed = False
    for name in ("text", "unet"):
        a, b = (np.load(args.folder / f"{side}_{name}.npy") for side in ("ours", "theirs"))
        error = float(np.sqrt(((a - b) ** 2).sum(dtype=np.float64) / (b**2).sum(dtype=np.float64)))
        print(f"{name} {b.shape}: relative RMS {error:.2g}, largest difference {float(abs(a - b).max()):.2g}")
        failed |= not error < 1e-4
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
