"""stable-diffusion.cpp with flash attention: seconds per UNet step.  sdcpp.py FILE q8_0|q4_0|f32 SIZE THREADS

One run is a picture of three steps without guidance; its figure is the median of the last two steps.
"""

from __future__ import annotations

import sys
import time
from itertools import pairwise

from protocol import serve
from stable_diffusion_cpp import StableDiffusion


def main() -> None:
    file, kind, size, threads = sys.argv[1:]
    model = StableDiffusion(
        model_path=file, n_threads=int(threads), wtype=kind, diffusion_flash_attn=True, verbose=False, enable_mmap=True
    )
    marks: list[float] = []

    def run() -> float:
        marks.clear()
        model.generate_image(
            prompt="a cat", width=int(size), height=int(size), cfg_scale=1.0, sample_steps=3, sample_method="euler",
            seed=1, progress_callback=lambda *_: marks.append(time.perf_counter()),
        )  # fmt: skip
        steps = sorted(after - before for before, after in pairwise(marks))
        return steps[len(steps) // 2]

    serve(run, program=f"stable-diffusion.cpp {kind}")


if __name__ == "__main__":
    main()
