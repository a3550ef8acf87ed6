"""ONNX Runtime on the CPU.  onnxruntime_step.py unet|vae MODEL f32|int8 SIZE THREADS [convert]

int8 is `quantize_dynamic`: weights in advance, activations of matrix products as they come. Convolutions stay in
float32: ONNX Runtime's dynamic ones need a kernel that its CPU provider lacks for most shapes. export.py writes the
float32 model of each size.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from protocol import asked_to_convert, config_of, disk_bytes, feed, home, keep, require, serve

import onnxruntime as ort  # isort: skip  (after the clock has been started)

MODEL = "model.onnx"


def quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source, target, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8, per_channel=True,
        use_external_data_format=True,
    )  # fmt: skip


def main() -> None:
    part, where, kind, size, threads = sys.argv[1:6]
    folder = Path(where)
    given = feed(part, config_of(folder, part), int(size))
    place = home("onnxruntime", folder, part, kind, int(size))
    if asked_to_convert():
        source = home("onnxruntime", folder, part, "f32", int(size))
        keep(place, lambda to: quantise(source / MODEL, to / MODEL))
        return
    require(place)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = int(threads)
    session = ort.InferenceSession(str(place / MODEL), settings, providers=["CPUExecutionProvider"])
    named = dict(zip((i.name for i in session.get_inputs()), given, strict=True))

    def run() -> Any:
        return session.run(None, named)[0]

    serve(run, program=f"ONNX Runtime {kind}", version=ort.__version__, disk=disk_bytes(place))


if __name__ == "__main__":
    main()
