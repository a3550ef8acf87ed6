"""What each network will take, from its programs on shapes alone: no weight is read and nothing is computed.

The networks are those that will run, called as they will be called, on a backend that only builds programs
(`compiled/dry.py`). So the arena is exact: the same buffers are placed by the same code.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from tinydiff.arguments import Settings
from tinydiff.conditioning import Conditioning, GuidedUNet, Prompt
from tinydiff.loading import Model
from tinydiff.memory.stream import Schedule
from tinydiff_kernels.compiled.backend import Compiled
from tinydiff_kernels.compiled.dry import Dry
from tinydiff_kernels.compiled.program import Launch, Program
from tinydiff_kernels.compiled.strip_plan import StripPlanner
from tinydiff_kernels.compiled.strips import StripPolicy
from tinydiff_kernels.compiled.weights import kind_in_use
from tinydiff_kernels.handles import MatmulWeight

ACTION_BYTES = (
    3072  # of Python objects for one launch: its words, links, the list they are in (measured: 1.7 to 2.9 kB)
)
TEXT, DENOISING, DECODING = "text encoder", "denoising", "VAE decode"  # as `pipeline.STAGES`


@dataclass(frozen=True)
class Stage:
    """One of the three parts of a picture. All in bytes."""

    name: str
    arena: int  # activations: exact
    tables: int  # rows and offsets that programs keep, and their Python objects
    results: int  # arrays that programs return
    kept: int  # weights in anonymous memory
    mapped: int  # weights in mapped files
    largest: int  # of these, what one launch needs
    work: int  # multiply-adds
    strips: StripPolicy | None = None


def text_stage(model: Model, s: Settings, keep: bool, copied: bool = False) -> Stage:
    """One prompt at a time through each encoder; the arena is that of the larger one."""
    parts = []
    for tokenizer, encoder in model.text.pairs:
        dry = dry_of(encoder.backend, keep)
        skip = (s.clip_skip or 0) + (1 if encoder.penultimate else 0)
        out = encoder.forward(dry, np.zeros((1, tokenizer.max_length), np.int64), min(skip, encoder.config.layers - 1))
        assert out.normed.array is not None
        parts.append(_stage(TEXT, dry, copied=copied))
    return _together(parts)


def unet_stage(model: Model, s: Settings, keep: bool, copied: bool = False) -> Stage:
    """The first step, which computes the keys and values of the prompt too, and a later one."""
    dry = dry_of(model.unet.backend, keep)
    unet, vae = copy.copy(model.unet), model.vae.config
    unet.backend = dry
    tokens = model.text.pairs[0][0].max_length
    prompts = [Prompt(np.zeros((tokens, model.text.width), np.float32), _pooled(model)) for _ in (0, 1)]
    guided = GuidedUNet(
        unet, Conditioning((prompts[0],), prompts[1]), s.guidance_scale, interval=(0.0, 1.0),
        time_ids=None if unet.config.text_time is None else np.zeros(6, np.float32),
    )  # fmt: skip
    factor = vae.factor
    x = np.zeros((s.images, unet.config.in_channels, s.height // factor, s.width // factor), np.float32)
    if model.few_steps is not None:
        model.few_steps.switch(s.few_steps)
    for _ in range(2):
        guided(x, 0.0, 0.0)
    return _stage(DENOISING, dry, copied=copied)


def _pooled(model: Model) -> Any:
    if model.unet.config.text_time is None:
        return None
    return np.zeros(cast("int", model.text.pairs[-1][1].config.projection_dim), np.float32)


def vae_stage(model: Model, s: Settings, keep: bool, strips: StripPolicy | None = None, copied: bool = False) -> Stage:
    """Decoding of all images at once."""
    dry = dry_of(model.vae.backend, keep)
    dry.strips = strips
    vae = copy.copy(model.vae)
    vae.backend = dry
    c = vae.config
    vae.decode(np.zeros((s.images, c.latent_channels, s.height // c.factor, s.width // c.factor), np.float32))
    return _stage(DECODING, dry, strips, copied=copied)


def dry_of(backend: Any, keep: bool) -> Dry:
    """A backend that plans what `backend` would run."""
    real = cast("Compiled", backend)
    return Dry(real.kind_of, threads=real.threads, keep=keep)


def kinds_of(backend: Any) -> Callable[[MatmulWeight], Any]:
    """How each layer's weight is kept, for planning strips."""
    return lambda weight: kind_in_use(weight, backend.kind_of)


def strip_planner(model: Model, s: Settings) -> StripPlanner:
    """Of the decoder at this picture's size; a plan's bytes are its arena's and its tables'."""
    backend: Any = model.vae.backend
    return StripPlanner(
        forward_of_vae(model, s), kinds_of(backend), threads=backend.threads, launch_bytes=ACTION_BYTES, keep=False
    )


def forward_of_vae(model: Model, s: Settings) -> Callable[[Any], Any]:
    """For planning strips: calls the decoder on latents of this picture's size."""
    from tinydiff_kernels.rows import rows_from_nchw

    c = model.vae.config
    zeros = np.zeros((s.images, c.latent_channels, s.height // c.factor, s.width // c.factor), np.float32)
    return lambda backend: model.vae.forward_decode(backend, rows_from_nchw(zeros))


def _stage(name: str, dry: Dry, strips: StripPolicy | None = None, *, copied: bool = False) -> Stage:
    """`copied`: integers that are made at load come from a packed copy, which is mapped."""
    programs = list(dry.programs.values())
    schedules = [Schedule(program, 0) for program in programs]
    return Stage(
        name,
        arena=max(program.arena_bytes for program in programs),
        tables=table_bytes(programs),
        results=sum(value.nbytes for program in programs for value in program.outputs),
        kept=dry.shapes.anonymous + (0 if copied else dry.shapes.quantised),
        mapped=max(schedule.nbytes for schedule in schedules) + (dry.shapes.quantised if copied else 0),
        largest=max(schedule.largest for schedule in schedules),
        work=sum(a.work for p in programs for a in p.actions if isinstance(a, Launch)),
        strips=strips,
    )


def table_bytes(programs: Iterable[Program]) -> int:
    """Offsets and rows that launches point to, each once, and the launches themselves."""
    sizes: dict[int, int] = {}
    count = 0
    for program in programs:
        for action in program.actions:
            count += 1
            if not isinstance(action, Launch):
                continue
            for array in action.constants:
                if array.flags.owndata and array.dtype == np.int64:
                    sizes[id(array)] = array.nbytes
    return sum(sizes.values()) + ACTION_BYTES * count


def _together(parts: list[Stage]) -> Stage:
    """Encoders one after the other, in one arena."""
    return Stage(
        parts[0].name,
        arena=max(p.arena for p in parts),
        tables=sum(p.tables for p in parts),
        results=sum(p.results for p in parts),
        kept=sum(p.kept for p in parts),
        mapped=sum(p.mapped for p in parts),
        largest=max(p.largest for p in parts),
        work=sum(p.work for p in parts),
    )
