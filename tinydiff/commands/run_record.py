"""How a picture was asked for, kept in its journal: prompt, settings, model, and who is at it.

    {"version", "prompt", "settings": {name: text as on the command line}, "output": absolute path or null, "force",
     "model": fingerprint, "plan": the memory plan's own words, "pid", "started"}

Settings are those in force, wherever they came from: `resume` reads neither flags nor variables nor the config file.
They go through the same readers as flags do, so that a hostile journal can ask for no more than a command line can.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydiff._version import __version__
from tinydiff.breadcrumb import Process
from tinydiff.commands.settings import READERS, Settings, read, written
from tinydiff.errors import InvalidArgumentError, JournalError
from tinydiff_weights.fingerprint import fingerprint

if TYPE_CHECKING:
    from tinydiff.api import Pipeline

OWN = ("journal", "quiet")  # of the run, not of the picture


def record(
    pipe: Pipeline, settings: Settings, prompt: str, seed: int, output: str | None, *, force: bool, plan: str = ""
) -> dict[str, Any]:
    """The run as JSON. `plan`: the memory plan in force, which a resumed run must follow."""
    values = {name: settings[name] for name in READERS if settings[name] is not None and name not in OWN}
    for name in ("model", "vae"):
        if name in values and os.path.lexists(os.path.expanduser(values[name])):
            values[name] = os.path.abspath(os.path.expanduser(values[name]))  # else a hub id
    values |= {"seed": seed, "backend": pipe.unet.backend.name}
    return {
        "version": __version__,
        "prompt": prompt,
        "settings": {name: written(value) for name, value in values.items()},
        "output": None if output is None else os.path.abspath(output),
        "force": force,
        "model": fingerprint(pipe.model.source),
        "plan": plan,
        **Process.current().to_json(),
    }


@dataclass(frozen=True)
class RunRecord:
    """A record that was read and checked."""

    version: str
    prompt: str
    settings: Settings
    output: str | None
    force: bool
    model: Mapping[str, Any]
    plan: str
    process: Process


def read_record(path: Path, run: Mapping[str, Any]) -> RunRecord:
    """Check what a journal's "run" says. Raises JournalError, InvalidArgumentError (settings)."""
    process = Process.from_json(run)
    match run:
        case {
            "version": str(version),
            "prompt": str(prompt),
            "settings": dict(texts),
            "output": None | str() as output,
            "force": bool(force),
            "model": dict(model),
            "plan": str(plan),
        } if process is not None and all(isinstance(text, str) for text in texts.values()):
            settings = _settings(path, texts)
            return RunRecord(version, prompt, settings, output, force, model, plan, process)
    raise JournalError(path, "does not say how its picture was asked for", hint="Begin the picture again")


def _settings(path: Path, texts: Mapping[str, str]) -> Settings:
    values: dict[str, Any] = dict.fromkeys(READERS)
    places = {name: f"journal {str(path)!r}, {name}" for name in READERS}
    for name, text in texts.items():
        if name not in READERS or name in OWN:
            raise JournalError(path, f"has the setting {name[:40]!r}, which this version does not know")
        values[name] = read(name, text, places[name])
    if values["seed"] is None or values["backend"] is None:
        raise InvalidArgumentError(f"journal {str(path)!r} lacks the seed or the backend of its picture")
    return Settings(values, places)
