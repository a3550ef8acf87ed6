"""Training the UNet and the text encoder: a run that was stopped goes on as if it had not been, and Muon turns matrices
into nearly orthogonal ones. (Nothing is learned here: random latents, random ids.)"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

TRAIN = Path(__file__).resolve().parents[2] / "weights" / "train"
MODULES = ("muon", "denoiser", "text_encoder", "profile_step")


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """Modules of weights/train, imported from their folder and forgotten afterwards."""
    monkeypatch.syspath_prepend(str(TRAIN))
    before = set(sys.modules)
    yield {name: __import__(name) for name in MODULES}
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(TRAIN)):
            del sys.modules[name]


def start(train: dict[str, ModuleType], folder: Path) -> Any:
    torch.manual_seed(0)
    ends = train["profile_step"].Ends()  # stands for a tokenizer
    networks = train["text_encoder"].make_text_encoder(ends), train["denoiser"].make_unet(4)
    return train["denoiser"].DenoiserTraining(ends, *networks, folder)


def step(training: Any) -> None:
    torch.manual_seed(training.step)
    training.set_rates(0.7)
    training.train_step(torch.randn(2, 4, 8, 8), torch.randint(0, 8000, (2, 77)))


def test_a_stopped_run_goes_on_as_if_it_had_not_been(train: dict[str, ModuleType], tmp_path: Path) -> None:
    whole = start(train, tmp_path)
    first = [parameter.detach().clone() for parameter in whole.parameters]
    step(whole)
    whole.save()
    stopped = start(train, tmp_path)
    assert (stopped.step, stopped.samples) == (1, 2)
    for training in (whole, stopped):
        step(training)
    for mine, other in zip(whole.parameters, stopped.parameters, strict=True):
        np.testing.assert_array_equal(mine.detach().numpy(), other.detach().numpy())
    for mine, other in zip(whole.average.values, stopped.average.values, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())
    moved = [bool((new != old).any()) for new, old in zip(whole.parameters, first, strict=True)]
    assert np.mean(moved) > 0.99  # but for words that no caption had


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 24, 24)])
def test_orthogonal_matrices(train: dict[str, ModuleType], shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(train["muon"].orthogonalise(torch.randn(shape)).float())
    assert 0.4 < float(values.min()) <= float(values.max()) < 1.3
