"""torch and diffusers, float32, channels last.  torch_diffusers.py unet|vae MODEL eager|compiled SIZE THREADS"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from protocol import TIMESTEP, config_of, disk_bytes, inputs, serve

import torch  # isort: skip  (after the clock has been started)
from diffusers import AutoencoderKL, UNet2DConditionModel


def main() -> None:
    part, where, mode, size, threads = sys.argv[1:]
    folder = Path(where)
    torch.set_num_threads(int(threads))
    kind: Any = UNet2DConditionModel if part == "unet" else AutoencoderKL
    network = kind.from_pretrained(folder / part).eval().to(memory_format=torch.channels_last)
    given = [torch.from_numpy(x) for x in inputs(part, config_of(folder, part), int(size))]
    given[0] = given[0].to(memory_format=torch.channels_last)
    timestep = torch.tensor([TIMESTEP])

    def forward() -> Any:
        if part == "unet":
            return network(given[0], timestep, given[1], return_dict=False)[0]
        return network.decode(given[0], return_dict=False)[0]

    called = torch.compile(forward) if mode == "compiled" else forward

    def run() -> Any:
        with torch.inference_mode():
            return called().numpy()

    capability = torch.backends.cpu.get_cpu_capability()
    serve(
        run,
        program=f"torch float32 {mode}",
        version=torch.__version__,
        capability=capability,
        disk=disk_bytes(folder / part),
    )


if __name__ == "__main__":
    main()
