"""torch and diffusers, float32, channels last.  torch_diffusers.py unet|vae MODEL SIZE THREADS"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from protocol import serve


def main() -> None:
    part, folder, size, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    kind: Any = UNet2DConditionModel if part == "unet" else AutoencoderKL
    network = kind.from_pretrained(Path(folder) / part).eval().to(memory_format=torch.channels_last)
    latents = torch.randn(1, 4, int(size) // 8, int(size) // 8).to(memory_format=torch.channels_last)
    context, timestep = torch.randn(1, 77, 768), torch.tensor([500.0])

    def run() -> None:
        with torch.inference_mode():
            _ = network(latents, timestep, context) if part == "unet" else network.decode(latents)

    run()
    serve(run, program="torch float32", version=torch.__version__, capability=torch.backends.cpu.get_cpu_capability())


if __name__ == "__main__":
    main()
