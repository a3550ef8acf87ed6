"""OpenVINO on the CPU, float32 arithmetic.  openvino_step.py unet|vae MODEL SIZE THREADS

Converted once, from torch, to MODEL/openvino-PART-SIZE.xml.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from protocol import serve


def convert(part: str, folder: Path, side: int, target: Path) -> None:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    class Wrapped(torch.nn.Module):
        def __init__(self, network: Any) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Any, *rest: Any) -> Any:
            return (
                self.network(x, *rest, return_dict=False)[0] if rest else self.network.decode(x, return_dict=False)[0]
            )

    kind: Any = UNet2DConditionModel if part == "unet" else AutoencoderKL
    inputs = [torch.randn(1, 4, side, side)]
    if part == "unet":
        inputs += [torch.tensor([500.0]), torch.randn(1, 77, 768)]
    with torch.inference_mode():
        network = Wrapped(kind.from_pretrained(folder / part).eval())
        model = ov.convert_model(network, example_input=tuple(inputs), input=[tuple(x.shape) for x in inputs])
    ov.save_model(model, target, compress_to_fp16=True)


def main() -> None:
    part, where, size, threads = sys.argv[1:]
    folder, side = Path(where), int(size) // 8
    target = folder / f"openvino-{part}-{size}.xml"
    if not target.exists():
        convert(part, folder, side, target)
        os.execv(sys.executable, [sys.executable, *sys.argv])  # give torch's memory back
    core = ov.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": int(threads)})
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(target, "CPU", hints).create_infer_request()
    inputs = [np.random.randn(1, 4, side, side).astype(np.float32)]
    if part == "unet":
        inputs += [np.array([500.0], np.float32), np.random.randn(1, 77, 768).astype(np.float32)]

    def run() -> None:
        request.infer(inputs)

    run()
    serve(run, program="OpenVINO float32", version=ov.__version__)


if __name__ == "__main__":
    main()
