"""`tinydiff quantize --report`: what the packed file loses against its source, by layer, by step, and in pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tinydiff.api import Pipeline
from tinydiff.quality import LayerError, layer_errors, step_errors

PROMPTS = ("a red apple", "a cat", "a house at the sea")
LAYER_STEPS = 2  # NumPy computes them, three times each
LAYER_SIZE = 256  # pixels at most
WORST = 10


def lines(
    source: str | Path | None, target: str | Path, kinds: Mapping[str, str], vae: str | Path | None = None
) -> Iterator[str]:
    """The report, line by line as it is found: pictures first, which take seconds, then layers.

    `kinds`: "component/layer" -> kind of every layer of the file.
    """
    exact = Pipeline.from_pretrained(source, weights="float32", vae=vae)
    yield from pictures(exact, Pipeline.from_pretrained(target))
    d, factor = exact.model.defaults, exact.vae.config.factor
    width, height = (min(side, LAYER_SIZE) // factor * factor for side in (d.width, d.height))
    errors = layer_errors(
        exact, kinds, PROMPTS[:1], num_inference_steps=LAYER_STEPS, width=width, height=height, seed=0
    )
    yield from layers(errors)


def pictures(exact: Pipeline, packed: Pipeline) -> Iterator[str]:
    steps, found = [], []
    for seed, prompt in enumerate(PROMPTS):
        error = step_errors(exact, packed, prompt, seed)
        steps.append(error.steps)
        found.append(error.picture)
        yield f"picture of {prompt!r}, seed {seed}: {error.picture:.1f} dB (PSNR against float32)"
    by_step = " ".join(f"{snr:.1f}" for snr in np.mean(steps, axis=0))
    yield f"pictures: {np.mean(found):.1f} dB in the mean; latents after each step (SNR, dB): {by_step}"


def layers(errors: Mapping[str, LayerError]) -> Iterator[str]:
    """The layers that lose most for the same input, and the mean of each kind."""
    by_kind: dict[str, list[float]] = {}
    for error in errors.values():
        by_kind.setdefault(error.kind, []).append(error.snr)
    for kind, found in sorted(by_kind.items()):
        yield f"{len(found)} layers of kind {kind}: {np.median(found):.1f} dB in the median, {min(found):.1f} at least"
    for name, error in sorted(errors.items(), key=lambda item: item[1].snr)[:WORST]:
        yield f"  {error.snr:5.1f} dB  {error.kind:<4} {name}"
