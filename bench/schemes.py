"""Ways to round weights and activations, and what each costs: signal to noise of the UNet's output against float32.

    python bench/schemes.py                        the embedded model: guided predictions at three moments of pictures
    python bench/schemes.py --random FOLDER        one call at 256x256 of a model with random weights
    python bench/schemes.py --only int8 "int4 g32"

No scheme here needs a kernel: inputs and weights are rounded, then NumPy computes in float32
(tinydiff_kernels.rounded). The layers that the recipe keeps wide are wide in all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality import MASTER, prompts

from tinydiff import Pipeline
from tinydiff.config import UNetConfig
from tinydiff.parameters import Parameters
from tinydiff.quality import moments, snr
from tinydiff.recipe import kind_of
from tinydiff.unet import UNet
from tinydiff_kernels import operations as op
from tinydiff_kernels.matmul.packing import Kind
from tinydiff_kernels.ref import quantise
from tinydiff_kernels.reference import Reference
from tinydiff_kernels.rounded import Rounded
from tinydiff_kernels.rows import Rows
from tinydiff_weights.safetensors import open_safetensors

Floats = NDArray[np.float32]
Round = Callable[[Floats], Floats]


def symmetric(largest: int) -> Round:
    """One scale for each output channel of a weight, |q| <= largest."""

    def rounded(w: Floats) -> Floats:
        axes = tuple(range(1, w.ndim))
        scale = np.maximum(np.abs(w).max(axes, keepdims=True) / np.float32(largest), np.float32(1e-30))
        return np.asarray(np.rint(w / scale) * scale, np.float32)

    return rounded


def grouped(size: int, bits: int = 4) -> Round:
    """One float scale for each `size` input channels of a tap."""

    def rounded(w: Floats) -> Floats:
        by_tap = w.reshape(*w.shape[:2], -1).transpose(0, 2, 1)
        padded = np.pad(by_tap, ((0, 0), (0, 0), (0, -w.shape[1] % size)))
        groups = padded.reshape(*padded.shape[:2], -1, size)
        most = np.float32(2 ** (bits - 1) - 1)
        scale = np.maximum(np.abs(groups).max(-1, keepdims=True) / most, np.float32(1e-30))
        back = (np.rint(groups / scale) * scale).reshape(padded.shape)[:, :, : w.shape[1]]
        return np.ascontiguousarray(back.transpose(0, 2, 1).reshape(w.shape), np.float32)

    return rounded


@dataclass(frozen=True)
class Scheme:
    """`weight` None: as the kernels round it for `kind`. `activations`: "u8" as the kernels, "u7", "s8", "" (float)."""

    kind: str = "int8"
    weight: Round | None = None
    activations: str = "u8"
    small: Kind = "i4"  # what small matrices become where `kind` is "int4" (`recipe.kind_of`)


def unchanged(w: Floats) -> Floats:
    return w


SCHEMES = {
    "int8": Scheme(),
    "int8, activations symmetric s8": Scheme(activations="s8"),
    "int8, activations of 7 bits": Scheme(activations="u7"),
    "int8, weights alone": Scheme(activations=""),
    "int8, activations alone": Scheme(weight=unchanged),
    "int8 limited (pairs up to 128)": Scheme("limited"),
    "int8, weights up to 64": Scheme(weight=symmetric(64)),
    "int4": Scheme("int4", small="i8"),
    "int4 g32": Scheme("int4"),
    "int4 g32, weights alone": Scheme("int4", activations=""),
    "int4 g32, float group scales": Scheme("int4", grouped(32)),
    "int4 g16, float group scales": Scheme("int4", grouped(16)),
    "int4 g64, float group scales": Scheme("int4", grouped(64)),
    "int4, one scale a channel": Scheme("int4", symmetric(7)),
}


class Tried(Rounded):
    """A scheme on one component."""

    def __init__(self, component: str, scheme: Scheme, levels: int, keep: bool = True) -> None:
        choose = kind_of(component, "int4" if scheme.kind == "int4" else "int8", levels, small=scheme.small)
        limited = scheme.kind == "limited"
        super().__init__(lambda w: "i8_limited" if limited and choose(w) == "i8" else choose(w), keep=keep)
        self.scheme = scheme

    def weight(self, values: Floats, kind: str) -> Floats:  # type: ignore[override]
        return super().weight(values, kind) if self.scheme.weight is None else self.scheme.weight(values)  # type: ignore[arg-type]

    def input(self, operation: op.Linear | op.Geglu | op.Conv) -> Rows:
        x, how = operation.x, self.scheme.activations
        if how == "u8":
            return super().input(operation)
        if not how:
            return x
        conv = isinstance(operation, op.Conv)
        parts = x.array.reshape(x.grid.batch, -1) if conv else x.array
        low = np.minimum(parts.min(1, keepdims=True), 0)
        high = np.maximum(parts.max(1, keepdims=True), 0)
        if how == "s8":
            scale = np.maximum(np.maximum(-low, high) / np.float32(127), quantise.SMALLEST_SCALE)
            rounded = np.rint(parts / scale) * scale
        else:
            scale = np.maximum((high - low) / np.float32(127), quantise.SMALLEST_SCALE)
            zero = np.rint(-low / scale)
            rounded = (np.clip(np.rint(parts / scale) + zero, 0, 127) - zero) * scale
        return Rows(x.grid, x.channels, np.asarray(rounded.reshape(x.array.shape), np.float32))


def of_pictures(model: str | Path, count: int) -> Callable[[Scheme], float]:
    pipe = Pipeline.from_pretrained(model, weights="float32", backend="reference")
    at = [m for _, _, p in prompts(count) for m in moments(pipe, p, (0.0, 0.5, 0.9), seed=0, num_inference_steps=20)]

    def measure(scheme: Scheme) -> float:
        made = {name: Tried(name, scheme, levels(pipe, name)) for name in pipe.model.source.components}
        pairs = [m.again(pipe, made.__getitem__) for m in at]
        exact, other = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
        return snr(exact, other)

    return measure


def of_random(folder: Path, size: int) -> Callable[[Scheme], float]:
    config = json.loads((folder / "unet" / "config.json").read_text())
    tensors = open_safetensors(folder / "unet" / "diffusion_pytorch_model.safetensors").tensors
    unet = UNet(UNetConfig.from_json(config, "unet"), Parameters(tensors, "unet"), Reference())
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((1, config["in_channels"], size // 8, size // 8), np.float32)
    context = rng.standard_normal((1, 77, config["cross_attention_dim"]), np.float32)
    exact = unet(sample, 500.0, context)

    def measure(scheme: Scheme) -> float:
        unet.backend = Tried("unet", scheme, 0, keep=False)
        return snr(exact, unet(sample, 500.0, context))

    return measure


def levels(pipe: Pipeline, component: str) -> int:
    return len(pipe.model.source.components[component].config.get("block_out_channels") or ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=MASTER, help="a trained model (default: the embedded one's master)")
    parser.add_argument("--random", metavar="FOLDER", type=Path, help="a model of random weights instead")
    parser.add_argument("--size", type=int, default=256, help="pixels, with --random")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=SCHEMES, default=list(SCHEMES), metavar="SCHEME")
    options = parser.parse_args()
    measure = of_random(options.random, options.size) if options.random else of_pictures(options.model, options.prompts)
    for name in options.only:
        started = time.monotonic()
        found = measure(SCHEMES[name])
        print(f"{name:<36}{found:7.2f} dB   ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
