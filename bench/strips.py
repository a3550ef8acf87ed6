"""What strips cost: processor time of the decoder against the memory of its activations.

    python bench/strips.py MODEL [--size 512x512] [--budgets 340 206 0] [--rounds 2] [-o FILE]

The whole image and, for each budget (MB of the arena; 0: the smallest there is), what planning chooses, in turn, on
one thread. Weights are packed before. Times are processor time, which others on the same core disturb least; the ratio
is that of the medians. `error` is the relative root mean square of the difference to the whole image.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from memory import cpu_name

import tinydiff
from tinydiff.loading import build
from tinydiff.memory.stages import kinds_of
from tinydiff_kernels.compiled.strip_plan import StripPlanner
from tinydiff_kernels.rows import rows_from_nchw
from tinydiff_weights.open import open_model

MB = 2**20


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--vae")
    p.add_argument("--size", default="512x512")
    p.add_argument("--budgets", type=int, nargs="*", default=[340, 206, 0])
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("-o", dest="output", type=Path, help="write the figures as JSON")
    a = p.parse_args()
    model = build(open_model(a.model, vae=a.vae), weights="auto", backend="numba", prediction_type="epsilon", threads=1)
    vae: Any = model.vae
    width, height = (int(side) // vae.config.factor for side in a.size.split("x"))
    latents = np.random.default_rng(0).standard_normal((1, vae.config.latent_channels, height, width), np.float32)
    planner = StripPlanner(lambda b: vae.forward_decode(b, rows_from_nchw(latents)), kinds_of(vae.backend), threads=1)
    plans = [planner.plan(planner.whole), *(planner.within(budget * MB) for budget in a.budgets)]
    seconds: list[list[float]] = [[] for _ in plans]
    whole, errors = vae.decode(latents), [0.0] * len(plans)
    for _ in range(a.rounds):
        for i, plan in enumerate(plans):
            vae.backend.strips = plan.policy
            started = time.process_time()
            image = vae.decode(latents)
            seconds[i].append(time.process_time() - started)
            errors[i] = float(np.linalg.norm(image - whole) / np.linalg.norm(whole))
    first = statistics.median(seconds[0])
    print("| arena MB | extra work | processor seconds | ratio | error | policy |\n|---|---|---|---|---|---|")
    rows = []
    for plan, taken, error in zip(plans, seconds, errors, strict=True):
        policy = "whole" if plan.policy is None else str(plan.policy)
        rows.append({
            "arena": plan.arena_bytes, "extra_work": plan.extra_work, "seconds": taken,
            "ratio": statistics.median(taken) / first, "error": error, "policy": policy,
        })  # fmt: skip
        print(
            f"| {plan.arena_bytes / MB:.0f} | {plan.extra_work:+.1%} | {statistics.median(taken):.1f} | "
            f"{statistics.median(taken) / first:.2f} | {error:.1e} | `{policy}` |"
        )
    if a.output is not None:
        found = {"date": time.strftime("%Y-%m-%d"), "cpu": cpu_name(), "model": Path(a.model).name, "size": a.size}
        versions = {name: version(name) for name in ("numpy", "numba", "llvmlite")} | {"tinydiff": tinydiff.__version__}
        a.output.write_text(json.dumps(found | {"versions": versions, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
