"""stable-diffusion.cpp with flash attention: seconds per UNet step.  sdcpp.py FILE q8_0|q4_0|f32 SIZE THREADS

One picture of many steps without guidance is begun; its progress callback, called after each step, holds it until the
next step is asked for. So steps are timed one by one, in turn with others, and the slow decoder is never reached. It
takes no latents, so its output cannot be compared.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from protocol import STARTED, disk_bytes, peak_bytes

import stable_diffusion_cpp  # isort: skip  (after the clock has been started)
from stable_diffusion_cpp import StableDiffusion

STEPS = 100  # more than anybody will ask for
UNCOUNTED = 2  # the callback before the first step, and the first step, which allocates


def main() -> None:
    file, kind, size, threads = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library prints
    model = StableDiffusion(
        model_path=file, n_threads=int(threads), wtype=kind, diffusion_flash_attn=True, verbose=False, enable_mmap=True
    )
    about = {
        "program": f"stable-diffusion.cpp {kind}",
        "version": getattr(stable_diffusion_cpp, "__version__", "unknown"),
        "disk": disk_bytes(Path(file)),  # holds all networks
    }
    calls, started = 0, 0.0

    def say(text: object) -> None:
        print(text, file=out, flush=True)

    def after_step(*_progress: Any) -> None:
        nonlocal calls, started
        calls += 1
        if calls == UNCOUNTED:
            say("ready " + json.dumps(about | {"load_seconds": round(time.perf_counter() - STARTED, 2)}))
        elif calls > UNCOUNTED:
            say(time.perf_counter() - started)
        if calls >= UNCOUNTED:
            wait()
        started = time.perf_counter()

    def wait() -> None:
        """Until the next step is asked for; `protocol.py` has the words."""
        for line in iter(sys.stdin.readline, ""):
            if line.startswith("go"):
                return
            say(peak_bytes() if line.startswith("memory") else "none")
        os._exit(0)

    model.generate_image(
        prompt="a cat", width=int(size), height=int(size), cfg_scale=1.0, sample_steps=STEPS, sample_method="euler",
        seed=1, progress_callback=after_step,
    )  # fmt: skip


if __name__ == "__main__":
    main()
