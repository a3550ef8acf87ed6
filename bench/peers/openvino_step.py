"""OpenVINO on the CPU.  openvino_step.py unet|vae MODEL f32|int8w|int8 SIZE THREADS [convert]

    f32      float32 arithmetic
    int8w    8-bit weights, one scale a channel (nncf.compress_weights)
    int8     weights and activations: NNCF's post-training quantisation on CALIBRATION random inputs of unit scale

export.py writes the float32 model with height and width left open; they are fixed before it is compiled. The other two
are made of it here, once, the last calibrated at the size of the first call.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from protocol import asked_to_convert, config_of, disk_bytes, feed, home, keep, require, serve

import openvino as ov  # isort: skip  (after the clock has been started)

CALIBRATION = 8
MODEL = "model.xml"


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
    given = feed(part, config_of(folder, part), int(size))
    place = home("openvino", folder, part, kind, int(size))
    if asked_to_convert():
        source = home("openvino", folder, part, "f32", int(size))
        keep(place, lambda to: compress(part, kind, source, given, to))
        return
    require(place)
    core = ov.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": int(threads)})
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = core.read_model(place / MODEL)
    model.reshape({index: list(x.shape) for index, x in enumerate(given)})
    request = core.compile_model(model, "CPU", hints).create_infer_request()

    def run() -> Any:
        return request.infer(given)[0]

    serve(run, program=f"OpenVINO {kind}", version=ov.__version__, disk=disk_bytes(place))


if __name__ == "__main__":
    main()
