"""tinydiff: one UNet step or VAE decode of a diffusers folder.  ours.py unet|vae MODEL WEIGHTS SIZE THREADS [FLAG]

MODEL: a diffusers folder, or a file that `tinydiff quantize` made (WEIGHTS then says what that is).
WEIGHTS: float32, float16, int8, int4, or int8_limited (pairs of weights bounded for AVX2's vpmaddubsw).
Flags print, once, where the time of a run goes instead of serving: --table by kernel, --layers by shape of layer.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocol import TIMESTEP, config_of, disk_bytes, inputs, serve

from tinydiff import __version__
from tinydiff.bench.shapes import shape_of
from tinydiff.config import UNetConfig, VAEConfig
from tinydiff.packed import mapped
from tinydiff.parameters import Parameters
from tinydiff.recipe import kind_of
from tinydiff.unet import UNet
from tinydiff.vae import VAE
from tinydiff_kernels import dispatch
from tinydiff_kernels.compiled.backend import Compiled
from tinydiff_kernels.compiled.program import Launch, Program
from tinydiff_kernels.handles import MatmulWeight
from tinydiff_kernels.matmul.packing import Kind
from tinydiff_weights.open import open_model
from tinydiff_weights.weight_files import open_weights


def kinds(part: str, weights: str, levels: int) -> Callable[[MatmulWeight], Kind]:
    chosen = kind_of(part, "int8" if weights == "int8_limited" else weights, levels)
    if weights != "int8_limited":
        return chosen
    return lambda weight: "i8_limited" if chosen(weight) == "i8" else chosen(weight)


def load(part: str, model: Path, weights: str, size: int, threads: int) -> tuple[Callable[[], Any], Compiled]:
    """A function that runs the network once on fixed random input, and its backend."""
    tensors: Any
    if model.is_file():
        component = open_model(model).components[part]
        config, tensors, weights = component.config, mapped(component.tensors), "auto"
    else:
        config, tensors = config_of(model, part), open_weights(model / part, model)
    backend = Compiled(kinds(part, weights, len(config["block_out_channels"])), threads=threads)
    given = inputs(part, config, size)
    if part == "vae":
        vae = VAE(VAEConfig.from_json(config, part), Parameters(tensors, part), backend)
        return lambda: vae.decode(given[0]), backend
    unet = UNet(UNetConfig.from_json(config, part), Parameters(tensors, part), backend)
    return lambda: unet(given[0], TIMESTEP, given[1]), backend


def table(program: Program) -> str:
    """Milliseconds, launches and rate of each kernel of a profiled run."""
    seconds: Counter[str] = Counter()
    launches: Counter[str] = Counter()
    work: Counter[str] = Counter()
    for action, taken in zip(program.actions, program.seconds, strict=True):
        name = action.kernel if isinstance(action, Launch) else "numpy"
        seconds[name] += taken
        launches[name] += 1
        work[name] += action.work if isinstance(action, Launch) else 0
    whole = sum(seconds.values())
    rows = []
    for name, taken in seconds.most_common():
        rate = f"{2 * work[name] / taken / 1e9:7.0f} GOP/s" if name.startswith(("matmul", "attention")) else ""
        rows.append(f"{name:18} {launches[name]:4} launches {1e3 * taken:8.1f} ms {taken / whole:6.1%} {rate}")
    return "\n".join(rows)


def layers(program: Program, shapes: list[Any]) -> str:
    """Milliseconds, kernels and rate of the layers of each shape; `shapes` are those of the program's steps."""
    seconds: Counter[str] = Counter()
    work: Counter[str] = Counter()
    kernels: dict[str, set[str]] = {}
    steps: dict[str, set[int]] = {}
    for action, taken in zip(program.actions, program.seconds, strict=True):
        name = str(shapes[action.step] or "embedding")
        seconds[name] += taken
        steps.setdefault(name, set()).add(action.step)
        if isinstance(action, Launch):
            kernels.setdefault(name, set()).add(action.kernel)
            work[name] += action.work if action.kernel.startswith(("matmul", "attention")) else 0
    whole, rows = sum(seconds.values()), []
    for name, taken in seconds.most_common():
        rate = f"{2 * work[name] / taken / 1e9:6.0f}"
        rows.append(f"{1e3 * taken:8.2f} ms {taken / whole:6.1%} {len(steps[name]):3} x {rate} GOP/s  {name}")
    return "\n".join(rows)


class Shapes:
    """An observer that keeps the shape of every operation of the last run."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def before(self, operation: Any) -> None:
        self.seen.append(shape_of(operation))

    def after(self, operation: Any, result: Any) -> None:
        """Nothing to learn."""


def main() -> None:
    part, folder, weights, size, threads, *flags = sys.argv[1:]
    run, backend = load(part, Path(folder), weights, int(size), int(threads))
    if flags:
        run()
        backend.profile, shapes = True, Shapes()
        backend.observers.append(shapes)
        run()
        program = list(backend.programs.values())[-1]
        print(layers(program, shapes.seen) if "--layers" in flags else table(program))
        return
    path, place = dispatch.choose().path.name, Path(folder)
    disk = disk_bytes(place if place.is_file() else place / part)  # a file holds all networks
    serve(run, program=f"tinydiff {weights}", version=__version__, path=path, disk=disk)


if __name__ == "__main__":
    main()
