"""ONNX Runtime on the CPU.  onnxruntime_step.py unet|vae MODEL f32|int8 SIZE THREADS [convert]

int8 is `quantize_dynamic`: weights in advance, activations of matrix products as they come. Convolutions stay in
float32: ONNX Runtime's dynamic ones need a kernel that its CPU provider lacks for most shapes. Exported once, from
torch, for each size.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from protocol import TIMESTEP, asked_to_convert, config_of, converted, disk_bytes, inputs, replaced, serve

import onnxruntime as ort  # isort: skip  (after the clock has been started)

MODEL = "model.onnx"


def export(part: str, folder: Path, given: list[Any], target: Path) -> None:
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
    network = Wrapped(kind.from_pretrained(folder / part).eval())
    with torch.inference_mode():
        torch.onnx.export(
            network, tuple(torch.from_numpy(x) for x in given), str(target), dynamo=True, external_data=True
        )


def quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source, target, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8, per_channel=True,
        use_external_data_format=True,
    )  # fmt: skip


def main() -> None:
    part, where, kind, size, threads = sys.argv[1:6]
    folder = Path(where)
    given = inputs(part, config_of(folder, part), int(size))
    if part == "unet":
        given.insert(1, np.array([TIMESTEP], np.float32))
    homes = {one: converted(folder) / "onnx" / f"{part}-{one}-{size}" for one in ("f32", "int8")}
    for wanted in dict.fromkeys(("f32", kind)):
        if not homes[wanted].exists():
            if wanted == "f32":
                replaced(homes["f32"], lambda to: export(part, folder, given, to / MODEL))
            else:
                replaced(homes["int8"], lambda to: quantise(homes["f32"] / MODEL, to / MODEL))
            os.execv(sys.executable, [sys.executable, *sys.argv])  # give the converter's memory back
    if asked_to_convert():
        return
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = int(threads)
    session = ort.InferenceSession(str(homes[kind] / MODEL), settings, providers=["CPUExecutionProvider"])
    feed = dict(zip((i.name for i in session.get_inputs()), given, strict=True))

    def run() -> Any:
        return session.run(None, feed)[0]

    serve(run, program=f"ONNX Runtime {kind}", version=ort.__version__, disk=disk_bytes(homes[kind]))


if __name__ == "__main__":
    main()
