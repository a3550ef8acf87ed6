"""Which backend runs a model: compiled kernels where they can run, NumPy where they cannot or where it is asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from tinydiff.errors import InvalidArgumentError
from tinydiff.observers import CancelToken, Watchdog
from tinydiff.recipe import kind_of
from tinydiff_kernels import native
from tinydiff_kernels.backend import Backend, Observer
from tinydiff_kernels.reference import Reference

BACKENDS = ("auto", "numba", "reference")


def chosen(backend: str) -> tuple[str, str]:
    """(backend, why) for a name of BACKENDS. InvalidArgumentError where it cannot run."""
    if backend == "reference":
        return "reference", "NumPy, asked for"
    if native.library()[0] is not None:
        return "numba", f"kernels compiled ahead of time: {native.library()[1]}"
    if importlib.util.find_spec("numba") is not None:
        return "numba", "kernels compiled by Numba when first used, and kept"
    if backend == "numba":
        raise InvalidArgumentError("backend 'numba' needs the package numba: pip install numba, or backend='reference'")
    return "reference", "NumPy: numba is not installed, and there is no library of compiled kernels for this machine"


class Backends:
    """Makes the backends of a model's networks. They share one arena, one cancel word, and the process's threads.

    `limited`: weights stream from their files, and none that can be packed when it is used is kept (`tinydiff.memory`).
    """

    def __init__(
        self, backend: str, weights: str, cancel: CancelToken, threads: int | None, *, limited: bool = False
    ) -> None:
        self.name, _ = chosen(backend)
        if self.name == "reference" and weights in ("int8", "int4"):
            raise InvalidArgumentError(
                f"weights={weights!r} needs the backend 'numba'; the reference computes in float32"
            )
        if self.name == "reference" and limited:
            raise InvalidArgumentError("memory= needs the backend 'numba'; the reference keeps to no limit")
        self.limited = limited
        self.weights, self.cancel, self.threads = weights, cancel, threads
        self._arena: Any = None

    def make(self, component: str, config: Mapping[str, Any]) -> Backend:
        observers: list[Observer] = [self.cancel, Watchdog(component)]
        if self.name == "reference":
            return Reference(observers=observers)
        from tinydiff_kernels.compiled.arena import Arena
        from tinydiff_kernels.compiled.backend import Compiled

        self._arena = self._arena or Arena()
        channels = config.get("block_out_channels")  # not checked yet: the network will refuse what is no list
        kinds = kind_of(component, self.weights, len(channels) if isinstance(channels, list) else 0)
        stream = None
        if self.limited:
            from tinydiff.memory.stream import WeightStream

            stream = WeightStream()
        return Compiled(
            kinds, observers=observers, threads=self.threads, arena=self._arena, cancel=self.cancel.word,
            keep=not self.limited, stream=stream,
        )  # fmt: skip
