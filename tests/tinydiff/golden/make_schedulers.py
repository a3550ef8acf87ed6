"""Writes schedulers.json beside this file: where each sampler's loop ends. Run it only when an oracle run has passed.

python tests/tinydiff/golden/make_schedulers.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tinydiff.schedulers import Scheduler, make, names

STEPS = 6
SHAPE = (1, 2, 3, 2)
BASE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
FILE = Path(__file__).parent / "schedulers.json"
VARIANTS = ("DPM++ 2M Karras", "Euler Exponential", "DPM++ 2M Beta", "Heun SGM Uniform")


def network(x: np.ndarray, t: float) -> np.ndarray:
    """Rational and smooth: no libm, so that it is the same everywhere."""
    scaled = x / (1 + np.abs(x))
    return (1.2 * scaled - 0.3 * scaled**3 + np.float32(float(t) / 4000)).astype(np.float32)


def normals(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Sums of twelve uniforms from a linear congruential generator."""
    state, out = seed + 1, []
    for _ in range(int(np.prod(shape))):
        total = -6.0
        for _ in range(12):
            state = (1664525 * state + 1013904223) % 2**32
            total += state / 2**32
        out.append(total)
    return np.array(out, np.float32).reshape(shape)


def loop(scheduler: Scheduler, steps: int = STEPS) -> np.ndarray:
    scheduler.set_timesteps(steps)
    scheduler.set_noise_seeds([7])
    x = normals(SHAPE, 0) * np.float32(scheduler.init_noise_sigma)
    for index, t in enumerate(scheduler.timesteps):
        output = network(scheduler.scale_model_input(x, t), t)
        noise = normals(SHAPE, index + 1) if scheduler.needs_noise(t) else None
        x, _ = scheduler.step(output, t, x, noise=noise)
    return x


def golden() -> dict[str, list[float]]:
    every = [sampler.name for sampler in names()] + list(VARIANTS)
    return {name: [float(v) for v in loop(make(name, base=BASE)).ravel()] for name in every}


if __name__ == "__main__":
    FILE.write_text(json.dumps(golden(), indent=0) + "\n")
