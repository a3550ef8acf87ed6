"""Who claims which tensor of a single file, so that what is left over is counted or named, never lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from tinydiff_weights import kinds
from tinydiff_weights.names import Mapped
from tinydiff_weights.safetensors import SafetensorsFile, StoredTensor
from tinydiff_weights.vae_file import incomplete

Mapper = Callable[[Mapping[str, StoredTensor]], Mapped]  # a file's names -> diffusers names


class Claims:
    """Who claimed which tensor of the file, so that what is left over can be counted or named."""

    def __init__(self, file: SafetensorsFile):
        self.file = file
        self._claimed: set[str] = set()
        self._set_aside: Counter[str] = Counter()
        self.elsewhere: tuple[str, ...] = ()  # unknown tensors of another file (--vae)

    def under(self, prefix: str) -> dict[str, StoredTensor]:
        """The tensors below a prefix, by their names without it."""
        return {n.removeprefix(prefix): t for n, t in self.file.tensors.items() if n.startswith(prefix)}

    def claim(self, prefix: str, mapper: Mapper, path: Path, part: str) -> dict[str, StoredTensor]:
        """Map what is below `prefix`. ModelFileError if the network found there is incomplete."""
        inside = self.under(prefix)
        mapped = mapper(inside)
        if mapped.missing:
            raise incomplete(path, part, tuple(prefix + name for name in mapped.missing))
        self.mark(prefix, inside, mapped.unmatched)
        return mapped.tensors

    def mark(self, prefix: str, names: Mapping[str, object], unmatched: tuple[str, ...]) -> None:
        self._claimed.update(prefix + name for name in names.keys() - set(unmatched))

    def set_aside(self, kind: str, names: list[str]) -> None:
        """Count tensors that are known and not needed."""
        fresh = [name for name in names if name not in self._claimed]
        self._claimed.update(fresh)
        if fresh:
            self._set_aside[kind] += len(fresh)

    def leftovers(self) -> Counter[str]:
        """Training leftovers, kind -> count."""
        rest = (name for name in self.file.tensors if name not in self._claimed)
        return self._set_aside + Counter(kind for name in rest if (kind := kinds.leftover(name)) is not None)

    def unused(self) -> tuple[str, ...]:
        """What no one claims, most telling first: inside the UNet, then other networks, then the rest; by size."""
        rest = [n for n in self.file.tensors if n not in self._claimed and kinds.leftover(n) is None]
        order = (kinds.UNET, "conditioner.", "cond_stage_model.", *kinds.VAE)

        def telling(name: str) -> tuple[int, int, str]:
            rank = next((i for i, prefix in enumerate(order) if name.startswith(prefix)), len(order))
            return rank, -self.file.tensors[name].nbytes, name

        return (*sorted(rest, key=telling), *self.elsewhere)
