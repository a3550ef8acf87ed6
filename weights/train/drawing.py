"""Many pictures at once: drawn by all cores, and kept on the device for networks that want random pieces of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from device import DEVICE
from numpy.typing import NDArray

CHUNK = 32  # pictures that a worker draws at once
Draw = Callable[[Any], NDArray[np.uint8]]

_draw: Draw | None = None  # in a worker: what it draws with, inherited by fork


def _start(draw: Draw) -> None:
    global _draw
    _draw = draw


def _work(keys: Sequence[Any]) -> NDArray[np.uint8]:
    assert _draw is not None
    return np.stack([_draw(key) for key in keys])


def draw_in_parallel(draw: Draw, keys: Sequence[Any]) -> Iterator[NDArray[np.uint8]]:
    """draw(key) [H, W, 3] of all keys, in their order, in arrays [at most CHUNK, H, W, 3].

    The next pictures are drawn while the caller works on these; no more are ahead than two rounds of the workers.
    """
    chunks = [keys[at : at + CHUNK] for at in range(0, len(keys), CHUNK)]
    with multiprocessing.get_context("fork").Pool(initializer=_start, initargs=(draw,)) as pool:
        round_ = 2 * multiprocessing.cpu_count()
        waiting = pool.map_async(_work, chunks[:round_], chunksize=1)
        for at in range(round_, len(chunks) + round_, round_):
            ready, waiting = waiting.get(), pool.map_async(_work, chunks[at : at + round_], chunksize=1)
            yield from ready


def to_tensor(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in [-1, 1] on the device."""
    return normalise(torch.from_numpy(np.ascontiguousarray(pictures)).to(DEVICE))


def normalise(pictures: torch.Tensor) -> torch.Tensor:
    return (pictures.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


class Store:
    """Pictures uint8 [count, SIZE, SIZE, 3] on the device, and random batches cut from them."""

    def __init__(self, pictures: Iterable[NDArray[np.uint8]]) -> None:
        """From arrays [n, SIZE, SIZE, 3]."""
        self.pictures = torch.cat([torch.from_numpy(part).to(DEVICE) for part in pictures])

    def batch(self, count: int, crop: int) -> torch.Tensor:
        """[count, 3, crop, crop] in [-1, 1]: random places of random pictures, half of them mirrored."""
        size = self.pictures.shape[1]
        rows, ys, xs = (
            torch.randint(0, end, (count, 1), device=DEVICE) for end in (len(self.pictures), *[size - crop + 1] * 2)
        )
        along = torch.arange(crop, device=DEVICE)
        mirrored = torch.rand(count, 1, device=DEVICE) < 0.5
        across = xs + torch.where(mirrored, crop - 1 - along, along)
        return normalise(self.pictures[rows[:, :, None], (ys + along)[:, :, None], across[:, None, :]])
