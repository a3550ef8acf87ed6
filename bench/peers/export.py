"""torch's networks for programs that read other formats.  export.py openvino|onnxruntime unet|vae MODEL SIZE

Runs in torch's environment, once: OpenVINO's model has its height and width left open, an ONNX file is of one size. In
float32; the programs quantise it in their own environments, without torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from protocol import config_of, feed, home, keep


class Wrapped(torch.nn.Module):
    """One step, or one decode, as a function of arrays."""

    def __init__(self, part: str, folder: Path) -> None:
        super().__init__()
        kind: Any = UNet2DConditionModel if part == "unet" else AutoencoderKL
        self.network = kind.from_pretrained(folder / part)

    def forward(self, x: Any, *rest: Any) -> Any:
        return self.network(x, *rest, return_dict=False)[0] if rest else self.network.decode(x, return_dict=False)[0]


def to_openvino(network: Wrapped, given: tuple[Any, ...], target: Path) -> None:
    import openvino as ov

    shapes = [(*given[0].shape[:2], -1, -1), *(tuple(x.shape) for x in given[1:])]
    model = ov.convert_model(network, example_input=given, input=shapes)
    ov.save_model(model, target / "model.xml", compress_to_fp16=False)


def to_onnx(network: Wrapped, given: tuple[Any, ...], target: Path) -> None:
    torch.onnx.export(network, given, str(target / "model.onnx"), dynamo=True, external_data=True)


WRITERS: dict[str, Callable[[Wrapped, tuple[Any, ...], Path], None]] = {"openvino": to_openvino, "onnxruntime": to_onnx}


def main() -> None:
    program, part, where, size = sys.argv[1:]
    folder = Path(where)
    given = tuple(torch.from_numpy(x) for x in feed(part, config_of(folder, part), int(size)))
    with torch.inference_mode():
        keep(
            home(program, folder, part, "f32", int(size)),
            lambda to: WRITERS[program](Wrapped(part, folder).eval(), given, to),
        )


if __name__ == "__main__":
    main()
