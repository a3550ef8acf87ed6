"""Miniature networks on the compiled backend and on the reference: inputs, weights, errors."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from miniatures import UNETS, VAES, class_name, network, random_tensors
from numpy.typing import NDArray

from tinydiff.recipe import kind_of
from tinydiff_kernels.backend import Backend, Observer
from tinydiff_kernels.compiled.backend import Compiled
from tinydiff_kernels.reference import Reference

BACKENDS = ("reference", "numba")
TOKENS = 11
Floats = NDArray[np.float32]


class Values:
    """A weight in memory."""

    def __init__(self, name: str, values: Floats) -> None:
        self.name, self.values = name, values

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def float32(self) -> Floats:
        return self.values


def make_backend(name: str, *, observers: Sequence[Observer] = ()) -> Backend:
    """A backend of BACKENDS in float32."""
    return Reference(observers=observers) if name == "reference" else compiled(observers=observers)


def compiled(
    weights: str = "float32",
    component: str = "unet",
    *,
    threads: int = 2,
    observers: Sequence[Observer] = (),
    resolutions: int = 4,
) -> Compiled:
    kinds = kind_of(component, weights, resolutions, small="i4")  # miniatures have nothing but small matrices
    return Compiled(kinds, threads=threads, observers=observers)


@functools.cache
def tensors(table: str, name: str) -> dict[str, Floats]:
    """Weights of a miniature of UNETS ("unet") or VAES ("vae")."""
    config = (UNETS if table == "unet" else VAES)[name]
    return random_tensors(class_name(config), config, 7)


def unet(name: str, backend: Backend, **options: Any) -> Any:
    return network(UNETS[name], tensors("unet", name), backend, **options)


def unet_inputs(name: str, size: tuple[int, int, int] = (2, 9, 7), seed: int = 0) -> dict[str, Any]:
    """Random inputs of a UNet by the names of its call; `size` is batch, height, width."""
    config, rng = UNETS[name], np.random.default_rng(seed)
    batch = size[0]
    found: dict[str, Any] = {
        "sample": rng.standard_normal((batch, config["in_channels"], *size[1:]), np.float32),
        "timestep": rng.uniform(0, 999, batch),
        "context": rng.standard_normal((batch, TOKENS, config["cross_attention_dim"]), np.float32),
    }
    if "addition_embed_type" in config:
        sizes = rng.integers(0, 1025, (batch, 6)).astype(np.float32)
        found["added"] = {"text_embeds": rng.standard_normal((batch, 20), np.float32), "time_ids": sizes}
    if config.get("time_cond_proj_dim"):
        found["timestep_cond"] = rng.standard_normal((batch, config["time_cond_proj_dim"]), np.float32)
    return found


@functools.cache
def reference_unet(name: str, size: tuple[int, int, int] = (2, 9, 7), seed: int = 0) -> Floats:
    found: Floats = unet(name, Reference())(**unet_inputs(name, size, seed))
    return found


def relative(ours: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Relative root mean square of the difference."""
    assert ours.shape == wanted.shape
    return float(np.linalg.norm(np.float64(ours) - wanted) / np.linalg.norm(np.float64(wanted)))
