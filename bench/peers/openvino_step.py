"""OpenVINO on the CPU.  openvino_step.py unet|vae MODEL f32|int8w|int8 SIZE THREADS [convert]

    f32      float32 arithmetic
    int8w    8-bit weights, one scale a channel (nncf.compress_weights)
    int8     weights and activations: NNCF's post-training quantisation on CALIBRATION random inputs of unit scale

Converted once, from torch, with height and width left open; they are fixed before the model is compiled. Calibrated at
the size of the first conversion.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from protocol import TIMESTEP, asked_to_convert, config_of, converted, disk_bytes, inputs, replaced, serve

import openvino as ov  # isort: skip  (after the clock has been started)

CALIBRATION = 8
MODEL = "model.xml"


def home_of(folder: Path, part: str, kind: str) -> Path:
    return converted(folder) / "openvino" / f"{part}-{kind}"


def convert(part: str, folder: Path, size: int, target: Path) -> None:
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
    given = [torch.from_numpy(x) for x in feed(part, inputs(part, config_of(folder, part), size))]
    shapes = [(*given[0].shape[:2], -1, -1), *(tuple(x.shape) for x in given[1:])]
    with torch.inference_mode():
        network = Wrapped(kind.from_pretrained(folder / part).eval())
        model = ov.convert_model(network, example_input=tuple(given), input=shapes)
    ov.save_model(model, target / MODEL, compress_to_fp16=False)


def feed(part: str, given: list[Any]) -> list[Any]:
    """The inputs in the model's order."""
    return [given[0], np.array([TIMESTEP], np.float32), given[1]] if part == "unet" else given


def compress(part: str, kind: str, source: Path, given: list[Any], target: Path) -> None:
    import nncf

    model = ov.Core().read_model(source / MODEL)
    if kind == "int8w":
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    else:
        rng = np.random.default_rng(1)
        steps = np.linspace(1, 999, CALIBRATION)
        sets = [[rng.normal(size=x.shape).astype(np.float32) for x in given] for _ in steps]
        for one, step in zip(sets, steps, strict=True):
            if part == "unet":
                one[1] = np.array([step], np.float32)
        model = nncf.quantize(model, nncf.Dataset(sets), subset_size=CALIBRATION, model_type=nncf.ModelType.TRANSFORMER)
    ov.save_model(model, target / MODEL, compress_to_fp16=False)


def main() -> None:
    part, where, kind, size, threads = sys.argv[1:6]
    folder = Path(where)
    given = feed(part, inputs(part, config_of(folder, part), int(size)))
    for wanted in dict.fromkeys(("f32", kind)):
        home = home_of(folder, part, wanted)
        if not home.exists():
            if wanted == "f32":
                replaced(home, lambda to: convert(part, folder, int(size), to))
            else:
                replaced(home, lambda to: compress(part, kind, home_of(folder, part, "f32"), given, to))
            os.execv(sys.executable, [sys.executable, *sys.argv])  # give the converter's memory back
    if asked_to_convert():
        return
    core = ov.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": int(threads)})
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    home = home_of(folder, part, kind)
    model = core.read_model(home / MODEL)
    model.reshape({index: list(x.shape) for index, x in enumerate(given)})
    request = core.compile_model(model, "CPU", hints).create_infer_request()

    def run() -> Any:
        return request.infer(given)[0]

    serve(run, program=f"OpenVINO {kind}", version=ov.__version__, disk=disk_bytes(home))


if __name__ == "__main__":
    main()
