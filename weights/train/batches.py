"""Endless random rows of the dataset with tokenized captions, made beside the training where there are cores for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import torch
from dataset import Dataset
from device import DEVICE
from text_encoder import token_ids
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import CLIPTokenizer

WORKERS = 0 if DEVICE.type == "cpu" else max(1, min(8, (os.cpu_count() or 1) - 2))


class CaptionedRows(IterableDataset):
    """(rows [count] of dataset.items, ids [count, 77]); `empty` is the share of captions left empty."""

    def __init__(self, dataset: Dataset, tokenizer: CLIPTokenizer, count: int, empty: float, seed: int) -> None:
        self.dataset, self.tokenizer, self.count, self.empty, self.seed = dataset, tokenizer, count, empty, seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            rows = self.dataset.random_rows(self.count, rng)
            items = [self.dataset.items[row] for row in rows]
            captions = ["" if rng.random() < self.empty else self.dataset.describe(item, rng) for item in items]
            yield torch.from_numpy(rows), token_ids(self.tokenizer, captions)


def batches(
    dataset: Dataset, tokenizer: CLIPTokenizer, count: int, *, empty: float = 0.0, seed: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same without end, both on the device."""
    rows = CaptionedRows(dataset, tokenizer, count, empty, seed)
    ahead = {"num_workers": WORKERS, "prefetch_factor": 8, "pin_memory": True} if WORKERS else {}
    for numbers, ids in DataLoader(rows, batch_size=None, **ahead):
        yield numbers.to(DEVICE, non_blocking=True), ids.to(DEVICE, non_blocking=True)
