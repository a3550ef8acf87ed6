"""The cost model against this machine: whole UNet steps, predicted and measured.

    python bench/calibrate.py MODEL [--device xeon-1-core] [--weights int8] [--sizes 256,384,512] [--rounds 3]

MODEL is a diffusers folder of Stable Diffusion 1.5's shape; values do not matter. One thread for each core of the
profile. Run it on a quiet machine. `--kernels` shows the parts of both, kernel by kernel: where a prediction errs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "weights")]

import numpy as np  # noqa: E402

from tinydiff.bench import predict  # noqa: E402
from tinydiff.config import UNetConfig  # noqa: E402
from tinydiff.parameters import Parameters  # noqa: E402
from tinydiff.recipe import kind_of  # noqa: E402
from tinydiff.unet import UNet  # noqa: E402
from tinydiff_kernels.compiled.backend import Compiled  # noqa: E402
from tinydiff_kernels.compiled.program import Launch  # noqa: E402
from tinydiff_weights.safetensors import open_safetensors  # noqa: E402


def measured(unet: UNet, backend: Compiled, size: int, rounds: int) -> tuple[float, Counter[str]]:
    """Median seconds of a step, and those of each kernel in one more."""
    sample = np.zeros((1, 4, size // 8, size // 8), np.float32)
    context = np.zeros((1, 77, unet.config.cross_attention_dim[0]), np.float32)
    unet(sample, 500.0, context)
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        unet(sample, 500.0, context)
        times.append(time.perf_counter() - started)
    backend.profile = True
    unet(sample, 500.0, context)
    backend.profile = False
    kernels: Counter[str] = Counter()
    program = list(backend.programs.values())[-1]
    for action, taken in zip(program.actions, program.seconds, strict=True):
        kernels[action.kernel if isinstance(action, Launch) else "numpy"] += taken
    return statistics.median(times), kernels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="xeon-1-core")
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--sizes", default="256,384,512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kernels", action="store_true")
    options = parser.parse_args()
    device = predict.device(options.device)
    folder = options.model / "unet"
    tensors = open_safetensors(folder / "diffusion_pytorch_model.safetensors").tensors
    backend = Compiled(kind_of("unet", options.weights, 4), threads=device.cores)
    config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    unet = UNet(UNetConfig.from_json(config, "unet"), Parameters(tensors, "unet"), backend)
    print("size  weights   measured  predicted  predicted / measured")
    worst = 0.0
    for size in map(int, options.sizes.split(",")):
        taken, kernels = measured(unet, backend, size, options.rounds)
        cost = predict.cost(predict.programs("sd15-unet", "unet", options.weights, size, 1, device.cores), device)
        worst = max(worst, abs(cost.total / taken - 1))
        print(
            f"{size:4}  {options.weights:8} {taken:8.3f} s {cost.total:8.3f} s  {cost.total / taken:8.2f}", flush=True
        )
        for name in kernels if options.kernels else ():
            print(f"      {name:18} {kernels[name]:8.4f} s {cost.seconds.get(name, 0.0):8.4f} s")
    print(f"largest error {worst:.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
