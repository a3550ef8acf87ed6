"""Four very small networks against numbers that diffusers and transformers gave once (tests/golden/make_golden.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled_tools import BACKENDS, make_backend
from miniatures import network
from numpy.typing import NDArray

from tinydiff_weights.safetensors import open_safetensors

FILE = Path(__file__).resolve().parents[1] / "golden" / "networks.safetensors"
LIMIT = 1e-5  # relative root mean square; at most 7.7e-7 was measured


class Golden:
    """One network of the file."""

    def __init__(self, name: str, backend: str) -> None:
        file = open_safetensors(FILE)
        parts: dict[str, dict[str, Any]] = {"weights": {}, "inputs": {}, "outputs": {}}
        for key, tensor in file.tensors.items():
            owner, part, rest = key.split(".", 2)
            if owner == name:
                parts[part][rest] = tensor if part == "weights" else tensor.raw
        self.given, self.wanted = parts["inputs"], parts["outputs"]
        options = {"penultimate": True} if name == "text" else {}
        self.model = network(json.loads(file.metadata[name]), parts["weights"], make_backend(backend), **options)

    def check(self, output: str, ours: NDArray[Any]) -> None:
        wanted = self.wanted[output]
        assert ours.shape == wanted.shape
        assert float(np.sqrt(((ours - wanted) ** 2).sum() / (wanted**2).sum())) < LIMIT


def test_file_is_small() -> None:
    assert FILE.stat().st_size < 200_000


@pytest.mark.parametrize("backend", BACKENDS)
def test_unet(backend: str) -> None:
    golden = Golden("unet", backend)
    added = {k: golden.given[k] for k in ("text_embeds", "time_ids")}
    sample, timestep, context = (golden.given[k] for k in ("sample", "timestep", "context"))
    golden.check("sample", golden.model(sample, timestep, context, added=added))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["vae", "taesd"])
def test_autoencoder(name: str, backend: str) -> None:
    golden = Golden(name, backend)
    golden.check("decoded", golden.model.decode(golden.given["latents"]))
    golden.check("encoded", golden.model.encode(golden.given["image"]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_text_encoder(backend: str) -> None:
    golden = Golden("text", backend)
    hidden, pooled = golden.model(golden.given["ids"])
    golden.check("hidden", hidden)
    golden.check("pooled", pooled)
