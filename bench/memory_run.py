"""One picture under a memory limit, for `bench/memory.py`, which starts it in a control group: JSON on stdout."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time


def main() -> None:
    started = time.perf_counter()
    p = argparse.ArgumentParser()
    p.add_argument("model", nargs="?")
    for name in ("weights", "memory", "vae", "size", "steps", "cfg"):
        p.add_argument(f"--{name}")
    a = p.parse_args()
    import tinydiff
    from tinydiff.memory import report

    pipe = tinydiff.Pipeline.from_pretrained(
        a.model, weights=a.weights or "auto", memory=a.memory, vae=a.vae, threads=None
    )
    width, height = (int(x) for x in a.size.split("x")) if a.size else (None, None)
    out = pipe(
        "a lighthouse at night", width=width, height=height, num_inference_steps=int(a.steps), seed=1,
        scheduler="ddim", guidance_scale=None if a.cfg is None else float(a.cfg),
    )  # fmt: skip
    plan = None if pipe.model.keeper is None else pipe.model.keeper.plan
    picture = hashlib.sha256(out.images[0].tobytes()).hexdigest()
    found = {
        "plan": None if plan is None else report.as_json(plan), "memory": out.memory, "timings": out.timings,
        "wall": time.perf_counter() - started, "sha256": picture,
        "arena": pipe.unet.backend.arena.largest,  # type: ignore[attr-defined]
    }  # fmt: skip
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
