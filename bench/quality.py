"""What quantised weights cost in pictures: the same prompts and seeds, against the pictures of float32.

The exact pictures are those of MODEL, of the embedded model those of its fp16 master.

    python bench/quality.py pictures --weights int8 int4          8 prompts, one seed; --full: 64 prompts, two seeds
    python bench/quality.py pictures --model FOLDER --weights mixed=FILE.safetensors
    python bench/quality.py pictures --steps 4 --weights int8=weights/tinydiff_weights/default.safetensors
    python bench/quality.py layers --weights int8                 the layers that lose most
    python bench/quality.py sensitivity --to FILE.json            what each layer costs if it alone is quantised

Pictures have the model's own size. They are kept in WORK and found again, so that an interrupted run goes on, under the
names that `judge.py` reads.
A name of `--weights` is a choice of tinydiff, or NAME=PATH: a packed file. What was found: weights/QUANTISATION.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff import Pipeline
from tinydiff.quality import layer_errors, psnr, sensitivities, snr
from tinydiff_weights.fingerprint import fingerprint
from tinydiff_weights.open import open_model

HERE = Path(__file__).parent
MASTER = HERE.parent / "weights" / "train" / "master"
STEPS = 20
Floats = NDArray[np.float32]


def prompts(count: int) -> list[tuple[str, str, str]]:
    """(icon, style, prompt), evenly spread over the file."""
    lines = [line for line in (HERE / "prompts.txt").read_text().splitlines() if not line.startswith("#")]
    rows: list[Any] = [tuple(part.strip() for part in line.split("|")) for line in lines]
    return [rows[i * len(rows) // count] for i in range(count)]


def open_pipeline(model: Path, weights: str) -> Pipeline:
    """`weights`: a choice of tinydiff, or NAME=PATH of a packed file."""
    _, named, path = weights.partition("=")
    if named:
        return Pipeline.from_pretrained(path, threads=1)
    return Pipeline.from_pretrained(model, weights=weights, threads=1)


def draw(pipe: Pipeline, prompt: str, seed: int, options: argparse.Namespace) -> tuple[Floats, Floats]:
    """(latents after each step [steps, C, h, w], picture [H, W, 3] on [0, 1])."""
    way: list[Floats] = []

    def keep(_: Any, index: int, t: float, now: dict[str, Any]) -> None:
        way.append(now["latents"][0].copy())

    out = pipe(
        prompt, seed=seed, num_inference_steps=options.steps, guidance_scale=options.cfg, output_type="np",
        callback_on_step_end=keep,
    )  # fmt: skip
    return np.stack(way), np.asarray(out.images)[0]


def key(options: argparse.Namespace) -> str:
    """The name of the folder of pictures; a model that was changed gets another one."""
    found = json.dumps(fingerprint(open_model(options.model)), sort_keys=True)
    digest = hashlib.sha256(found.encode()).hexdigest()[:8]
    model = f"embedded-{digest}" if options.model == MASTER else digest
    return model if options.steps == STEPS else f"{model}-{options.steps}-steps"


def pictures(options: argparse.Namespace) -> None:
    count, seeds = (64, 2) if options.full else (options.prompts, options.seeds)
    folder = options.work / key(options)
    shown = sorted({max(round(share * options.steps), 1) for share in (0.05, 0.25, 0.5, 0.75, 1)})
    wanted = [(icon, style, prompt, seed) for icon, style, prompt in prompts(count) for seed in range(seeds)]
    for weights in ["float32", *options.weights]:
        name = weights.split("=")[0]
        (folder / name).mkdir(parents=True, exist_ok=True)
        pipe = None
        for number, (icon, style, prompt, seed) in enumerate(wanted):
            file = folder / name / f"{icon}.{style}.{seed}.npz"
            if not file.exists():
                pipe = pipe or open_pipeline(options.model, weights)
                way, picture = draw(pipe, prompt, seed, options)
                partial = file.with_suffix(".partial")
                with partial.open("wb") as stream:
                    np.savez(stream, way=way, picture=picture)
                partial.rename(file)
                if sys.stderr.isatty():
                    print(f"\r{name} {number + 1}/{len(wanted)}", end="", file=sys.stderr)
    print(f"{options.model}, {len(wanted)} pictures of {options.steps} steps in {folder}")
    heads = f"{'weights':<12}{'mean dB':>9}{'median':>8}{'least':>7}{'below 25':>9}"
    print(f"{heads}   latents after steps {', '.join(map(str, shown))} (dB)")
    for weights in options.weights:
        name = weights.split("=")[0]
        rows = [f"{icon}.{style}.{seed}.npz" for icon, style, _, seed in wanted]
        pairs = [(np.load(folder / "float32" / row), np.load(folder / name / row)) for row in rows]
        found = [psnr(a["picture"], b["picture"], peak=1.0) for a, b in pairs]
        ways = [np.mean([snr(a["way"][k], b["way"][k]) for a, b in pairs]) for k in (s - 1 for s in shown)]
        figures = f"{np.mean(found):9.2f}{np.median(found):8.2f}{min(found):7.2f}{sum(f < 25 for f in found):9d}"
        print(f"{name:<12}{figures}   {' '.join(f'{w:.1f}' for w in ways)}   worst: {rows[int(np.argmin(found))]}")


def layers(options: argparse.Namespace) -> None:
    pipe = open_pipeline(options.model, "float32")
    for weights in options.weights:
        named = [prompt for _, _, prompt in prompts(options.prompts)]
        errors = layer_errors(pipe, weights, named, num_inference_steps=4, seed=0, guidance_scale=options.cfg)
        print(f"{weights}: {len(errors)} layers, SNR of each layer's output for the same float32 input")
        for name, error in sorted(errors.items(), key=lambda item: item[1].snr)[: options.worst]:
            print(f"  {error.snr:6.2f} dB  {name}")


def sensitivity(options: argparse.Namespace) -> None:
    pipe = open_pipeline(options.model, "float32")
    named = [prompt for _, _, prompt in prompts(options.prompts)]

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done}/{total}", end="", file=sys.stderr)

    settings = {"num_inference_steps": options.steps, "guidance_scale": options.cfg, "seed": 0}
    found = sensitivities(pipe, ("i4", "i8"), named, progress=show, **settings)
    options.to.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=["pictures", "layers", "sensitivity"])
    parser.add_argument(
        "--model", type=Path, default=MASTER, help="in float32 or half precision (default: the embedded model's master)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="few without --cfg: the model's way to draw in few")
    parser.add_argument("--weights", nargs="+", default=["int8", "int4"])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="64 prompts, two seeds")
    parser.add_argument("--cfg", type=float, help="guidance (default: the model's)")
    parser.add_argument("--worst", type=int, default=12, help="layers to name")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "tinydiff" / "quality")
    parser.add_argument("--to", type=Path, default=Path("sensitivity.json"))
    options = parser.parse_args()
    {"pictures": pictures, "layers": layers, "sensitivity": sensitivity}[options.what](options)


if __name__ == "__main__":
    main()
