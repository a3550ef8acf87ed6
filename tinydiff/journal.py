"""A picture in the making, on disk: what a loop needs to go on in another process, bit for bit.

A journal is a safetensors file, written anew after every step and atomically:

    latents                 [B, C, h, w] float32, those before step `index`
    scheduler.NAME          timesteps, sigmas and what the method remembers (Scheduler.state_dict)
    generator.I.NAME        the random numbers of image I (Generator.get_state); unsigned integers as signed ones
    metadata "format"       "tinydiff journal 1"
    metadata "state"        JSON: {"index": n, "seconds": [per step], "scheduler": {counts}}
    metadata "run"          JSON: how the picture was asked for, of whatever began it (tinydiff/commands/run_record.py)

Read back it is a stranger's file. Everything but the values of latents follows from the settings: timesteps, counts,
how many arrays a scheduler remembers after `index` steps, the generators' seeds. `restore` compares all of that with
what the loop itself says, so that a journal can lead to a wrong picture at worst, never to a wrong memory access.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff.denoise import Loop
from tinydiff.errors import InvalidArgumentError, JournalError, ModelFileError
from tinydiff_weights.safetensors import StoredTensor, open_safetensors
from tinydiff_weights.write import save_safetensors

F32 = NDArray[np.float32]
FORMAT = "tinydiff journal 1"
UNSIGNED: dict[str, dict[str, type[np.unsignedinteger[Any]]]] = {
    "generator": {"words": np.uint32, "seed": np.uint64},
    "scheduler": {"seeds": np.uint64},
}


def write_journal(path: str | Path, loop: Loop, run: Mapping[str, Any]) -> None:
    """Put the loop's state into the file, whole or not at all. `run` is JSON. Raises JournalError."""
    with _enough_memory(path, "written"):
        _write(path, loop, run)


def _write(path: str | Path, loop: Loop, run: Mapping[str, Any]) -> None:
    state = loop.state_dict()
    arrays = {"latents": state["latents"]}
    counts = {}
    for name, value in state["scheduler"].items():
        if isinstance(value, np.ndarray):
            arrays[f"scheduler.{name}"] = value
        else:
            counts[name] = value
    for number, generator in enumerate(state["generators"]):
        arrays |= {f"generator.{number}.{name}": array for name, array in generator.items()}
    signed = {n: a.view(f"i{a.itemsize}") if a.dtype.kind == "u" else a for n, a in arrays.items()}
    facts = {"index": state["index"], "seconds": loop.seconds, "scheduler": counts}
    metadata = {"format": FORMAT, "state": json.dumps(facts), "run": json.dumps(run)}
    try:
        save_safetensors(path, signed, metadata)
    except ModelFileError as error:
        raise JournalError(path, error.reason, hint="--journal FILE puts it elsewhere") from error


@dataclass(frozen=True)
class Journal:
    """A journal that was read. Its form is checked; `restore` and `final_latents` check that it fits."""

    path: Path
    index: int  # steps that are done
    seconds: list[float]  # of each
    counts: Mapping[str, int]
    run: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    def restore(self, loop: Loop) -> None:
        """Bring a loop that stands at its first step to where this one was. Raises JournalError."""
        with _enough_memory(self.path, "read"):
            self._restore(loop)

    def _restore(self, loop: Loop) -> None:
        latents = self.latents(loop.latents.shape, loop.steps)
        template = loop.scheduler.rehearsed(self.index)
        state = self._scheduler_state(template.state_dict(), template.state_fields, loop)
        generators = [self._generator_state(i, g.get_state()) for i, g in enumerate(loop.generators)]
        known = {"latents", *(f"scheduler.{n}" for n in state)}
        known |= {f"generator.{i}.{n}" for i, g in enumerate(generators) for n in g}
        if extra := sorted(set(self.tensors) - known):
            raise self._error(f"has {extra[0]!r}, which this picture does not need")
        try:
            loop.load_state_dict(
                {"index": self.index, "latents": latents, "scheduler": state, "generators": generators}
            )
        except InvalidArgumentError as error:
            raise self._error(str(error)) from error
        loop.seconds[:] = self.seconds

    def latents(self, shape: tuple[int, ...], steps: int) -> F32:
        """The latents, if they are those of a picture of this shape and number of steps. Raises JournalError."""
        if self.index > steps:
            raise self._error(f"is at step {self.index} of {steps}")
        return self._floats("latents", shape)

    def _scheduler_state(self, known: Mapping[str, Any], fields: Mapping[str, str], loop: Loop) -> dict[str, Any]:
        """The scheduler's state, `known` being that of a rehearsal on one number at the same step."""
        arrays = {name: value for name, value in known.items() if isinstance(value, np.ndarray)}
        if dict(self.counts) != {n: v for n, v in known.items() if n not in arrays}:
            raise self._error("the scheduler's counts are not those of its step")
        state: dict[str, Any] = dict(self.counts)
        own = loop.scheduler.state_dict()
        for name, example in arrays.items():
            if name in ("timesteps", "sigmas") or fields.get(name) == "seeds":
                state[name] = self._equal(f"scheduler.{name}", own[name])
                continue
            batch, channels, *sides = loop.latents.shape
            listed = example.shape[:-2]  # "arrays" are stacked
            state[name] = self._floats(f"scheduler.{name}", (*listed, batch, channels * example.shape[-1], *sides))
        return state

    def _generator_state(self, number: int, own: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        prefix = f"generator.{number}"
        self._equal(f"{prefix}.seed", own["seed"])
        state = {}
        for name, array in own.items():
            stored = self._tensor(f"{prefix}.{name}")
            if name != "spare" and stored.shape != array.shape:
                raise self._error(f"{prefix}.{name} has shape {stored.shape}")
            state[name] = self._unsigned(f"{prefix}.{name}", stored)
        return state

    def _equal(self, name: str, expected: NDArray[Any]) -> NDArray[Any]:
        """The tensor, if it is what follows from the settings."""
        stored = self._tensor(name)
        found = self._unsigned(name, stored) if stored.shape == expected.shape else np.zeros(0)
        if found.dtype != expected.dtype or not np.array_equal(found, expected):
            raise self._error(f"{name} is not that of the picture's settings")
        return found

    def _floats(self, name: str, shape: tuple[int, ...]) -> F32:
        stored = self._tensor(name)
        if stored.dtype != "F32" or stored.shape != shape:
            raise self._error(f"{name} is {stored.dtype} {list(stored.shape)}, expected F32 {list(shape)}")
        values = np.array(stored.raw, np.float32)
        if not np.isfinite(values).all():
            raise self._error(f"{name} holds NaN or infinity")
        return values

    @staticmethod
    def _unsigned(name: str, stored: StoredTensor) -> NDArray[Any]:
        """A copy of the values, as unsigned integers where the state has such."""
        values = np.array(stored.raw)
        first, last = name.split(".")[0], name.split(".")[-1]
        kind = UNSIGNED.get(first, {}).get(last)
        return values.view(kind) if kind is not None and values.dtype.itemsize == np.dtype(kind).itemsize else values

    def _tensor(self, name: str) -> StoredTensor:
        if name not in self.tensors:
            raise self._error(f"lacks {name!r}")
        return self.tensors[name]

    def _error(self, reason: str) -> JournalError:
        return JournalError(self.path, reason, hint="It is damaged or not of this picture; begin the picture again")


def read_journal(path: str | Path) -> Journal:
    """Open a journal and check its form. Raises JournalError."""
    path = Path(path)
    try:
        with _enough_memory(path, "read"):
            file = open_safetensors(path)
    except ModelFileError as error:
        raise JournalError(path, error.reason) from error
    if file.metadata.get("format") != FORMAT:
        found = file.metadata.get("format", "")
        what = f"has the format {found[:40]!r}" if found.startswith("tinydiff journal") else "is not a journal"
        raise JournalError(path, f"{what}; this version reads {FORMAT!r}")
    state, run = (_json_object(path, key, file.metadata.get(key, "")) for key in ("state", "run"))
    index, seconds, counts = state.get("index"), state.get("seconds"), state.get("scheduler")
    if type(index) is not int or index < 0:
        raise JournalError(path, "its step is not a whole number")
    if not isinstance(seconds, list) or len(seconds) != index or not all(map(_is_time, seconds)):
        raise JournalError(path, "its times of steps are not one number for each")
    if not isinstance(counts, dict) or any(type(value) is not int for value in counts.values()):
        raise JournalError(path, "its scheduler's counts are not whole numbers")
    return Journal(path, index, [float(s) for s in seconds], counts, run, file.tensors)


@contextlib.contextmanager
def _enough_memory(path: str | Path, what: str) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise JournalError(path, f"cannot be {what}: out of memory", hint="Close other programs") from error


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12


def _json_object(path: Path, key: str, text: str) -> dict[str, Any]:
    def refuse(word: str) -> float:
        raise ValueError(f"{word} is no JSON number")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise JournalError(path, f"its {key!r} is not valid JSON: {str(error)[:100]}") from None
    if not isinstance(value, dict):
        raise JournalError(path, f"its {key!r} is not a JSON object")
    return value
