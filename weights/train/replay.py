"""A training step recorded once as a CUDA graph and replayed: the device gets all its kernels in one call.

A step of the denoiser starts some thousands of small kernels, and an H100 finishes most of them before Python has
started the next. In a graph (https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/) they follow without
gaps. What a recorded step must heed: shapes never change, nothing is read back to Python, random numbers come from the
device's generator, and what changes from step to step (learning rates) lies in tensors that are changed in place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from device import DEVICE

WARM_UP = 4  # plain steps first: optimisers make their state, cuDNN chooses its algorithms


class Replayed:
    """Calls `step` with tensors of fixed shapes; on CUDA all but the first calls replay a recording of it."""

    def __init__(self, step: Callable[..., None]) -> None:
        self.step, self.calls = step, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[torch.Tensor, ...] = ()

    def __call__(self, *inputs: torch.Tensor) -> None:
        if DEVICE.type != "cuda":
            self.step(*inputs)
            return
        if self.calls < WARM_UP:
            self._aside(inputs)
        else:
            if self.graph is None:
                self._record(inputs)
            for own, given in zip(self.inputs, inputs, strict=True):
                own.copy_(given)
            assert self.graph is not None
            self.graph.replay()
        self.calls += 1

    def _aside(self, inputs: tuple[torch.Tensor, ...]) -> None:
        """A plain step on a stream of its own, as recording asks for."""
        stream, main = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(main)
        with torch.cuda.stream(stream):
            self.step(*inputs)
        main.wait_stream(stream)

    def _record(self, inputs: tuple[torch.Tensor, ...]) -> None:
        """Record without running; the loader's thread may allocate pinned memory meanwhile, hence the mode."""
        self.inputs, self.graph = tuple(given.clone() for given in inputs), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.step(*self.inputs)
