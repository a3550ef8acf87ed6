"""Everything whose bits must be the same on every machine: calls of all kernels, and pictures. Imports no Numba:
emulated ARM runs it too. Results are hashed, which keeps what travels small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import attention_calls
import edge_calls
import matmul_calls
import norm_calls

from tinydiff_kernels.dispatch import Path
from tinydiff_kernels.ref.quantise import FLIP

Kernel = Callable[[int, int, int], None]


def _results(kernels: Mapping[str, Kernel], path: Path) -> Iterator[tuple[str, Any]]:
    for name in matmul_calls.KINDS:
        for result in matmul_calls.results(name, kernels[name], signed=path.signed_bytes):
            yield name, result
    for result in attention_calls.results(kernels["attention_f32"]):
        yield "attention_f32", result
    for result in attention_calls.results_i8(kernels["keys_i8"], kernels["attention_i8"]):
        yield "attention_i8", result
    for result in norm_calls.results(kernels, FLIP * path.signed_bytes):
        yield "norms and elementwise", result
    for result in edge_calls.results(kernels, FLIP * path.signed_bytes):
        yield "edges and extremes", result


def digests(kernels: Mapping[str, Kernel], path: Path) -> dict[str, list[str]]:
    """Kernel -> a hash of each of its results, on a path."""
    found: dict[str, list[str]] = {}
    for name, result in _results(kernels, path):
        found.setdefault(name, []).append(hashlib.sha256(result.tobytes()).hexdigest())
    return found


class Picture(NamedTuple):
    """A picture in a few steps, of the embedded model or of a packed file; `output` "latent": before it is decoded."""

    weights: str
    side: int
    steps: int = 4
    threads: int = 1
    model: str | None = None
    output: str = "np"


def picture_digest(picture: Picture) -> str:
    """Hash of its float pixels, before they are rounded to bytes, or of its latents."""
    from tinydiff import Pipeline

    pipe = Pipeline.from_pretrained(picture.model, weights=picture.weights, backend="numba", threads=picture.threads)
    images: Any = pipe(
        "a red apple", seed=1, width=picture.side, height=picture.side, num_inference_steps=picture.steps,
        output_type=picture.output,
    ).images  # fmt: skip
    return hashlib.sha256(images.tobytes()).hexdigest()
