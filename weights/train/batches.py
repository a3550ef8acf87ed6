"""Endless random rows of the dataset with tokenized captions, made beside the training where there are cores for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from dataset import Dataset
from device import DEVICE
from recombine import Recombination
from text_encoder import token_ids
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import CLIPTokenizer

WORKERS = 0 if DEVICE.type == "cpu" else max(1, min(8, (os.cpu_count() or 1) - 2))


class CaptionedRows(IterableDataset):
    """(what Mixer takes [count, 3], ids [count, 77]); `empty` is the share of captions left empty."""

    def __init__(self, dataset: Dataset, tokenizer: CLIPTokenizer, count: int, empty: float, seed: int) -> None:
        self.dataset, self.tokenizer, self.count, self.empty, self.seed = dataset, tokenizer, count, empty, seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        recombination = Recombination(self.dataset)
        while True:
            rows = self.dataset.random_rows(self.count, rng).tolist()
            items, others, cuts = zip(*(recombination.choose(row, rng) for row in rows), strict=True)
            captions = ["" if rng.random() < self.empty else self.dataset.describe(item, rng) for item in items]
            yield torch.tensor([rows, others, cuts]).T.contiguous(), token_ids(self.tokenizer, captions)


def batches(
    dataset: Dataset, tokenizer: CLIPTokenizer, count: int, *, empty: float = 0.0, seed: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same without end, both on the device."""
    return stream(CaptionedRows(dataset, tokenizer, count, empty, seed))


def stream(made: IterableDataset) -> Iterator[Any]:
    """Its tuples of tensors on the device, made ahead by other processes where there are cores for it."""
    ahead = {"num_workers": WORKERS, "prefetch_factor": 8, "pin_memory": True} if WORKERS else {}
    for tensors in DataLoader(made, batch_size=None, **ahead):
        yield tuple(tensor.to(DEVICE, non_blocking=True) for tensor in tensors)
