"""Running the worker for every combination of settings, and what is written about it."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinydiff._version import __version__
from tinydiff.bench import schema
from tinydiff.commands import machine
from tinydiff.errors import TinyDiffError
from tinydiff_kernels import dispatch, native

Progress = Callable[[float, str], None]  # share done, words
SWEPT = ("weights", "size", "threads", "memory")


def combinations(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings of each run: every value of those that may be lists, the last one changing fastest."""
    lists = [asked[name] or [None] for name in SWEPT]
    return [{**asked, **dict(zip(SWEPT, chosen, strict=True))} for chosen in itertools.product(*lists)]


def report(asked: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """All runs, as `schema.py` says. A setting that this version or machine cannot do is kept as skipped."""
    settings = combinations(asked)
    runs = []
    for number, one in enumerate(settings):
        label = f"run {number + 1} of {len(settings)}"
        try:
            cold = cold_start(one) if asked["cold"] else None
            runs.append({"settings": public(one), "cold": cold, **worker(one, progress, label)})
        except Skipped as reason:
            runs.append({"settings": public(one), "skipped": str(reason)})
    if all("skipped" in run for run in runs):
        raise TinyDiffError(str(runs[0]["skipped"]))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    about = {"schema": schema.NAME, "version": schema.VERSION, "created": now, "tinydiff": __version__}
    return {**about, "machine": this_machine(), "runs": runs}


class Skipped(Exception):
    """Why a setting cannot run."""


def public(one: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they are kept: of the model its name alone, for paths are private."""
    model = "embedded" if one["model"] is None else os.path.basename(str(one["model"]).rstrip("/")) or "model"
    return {**{key: one[key] for key in schema.SETTINGS}, "model": model}


def worker(one: Mapping[str, Any], progress: Progress, label: str) -> dict[str, Any]:
    """What a process of its own measures. Raises Skipped (settings it refuses), TinyDiffError (it failed)."""
    asked = {key: one.get(key) for key in schema.SETTINGS} | {"slow": one.get("slow", 1.0)}
    command = [sys.executable, "-m", "tinydiff.bench.worker"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(asked) + "\n")
                process.stdin.flush()
            for message in _messages(process):
                if "progress" in message:
                    done, of = message["progress"]
                    progress(done / max(of, 1e-9), label)
                elif "error" in message:
                    raise Skipped(message["error"])
                else:
                    result: dict[str, Any] = message["result"]
                    return result
            assert process.stderr is not None
            tail = process.stderr.read().strip().splitlines()[-1:]
            raise TinyDiffError(f"the measured process ended early (exit {process.wait()}): {' '.join(tail)}")
        finally:
            process.kill()


def _messages(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    for line in process.stdout or ():
        yield json.loads(line)


def cold_start(one: Mapping[str, Any]) -> dict[str, float] | None:
    """Seconds of a start with the model's files out of the page cache; None where they cannot be dropped.

    Files that another process maps stay in the cache; so do Python's own and the kernels'.
    """
    if not drop_from_cache(files_of(one["model"])):
        return None
    start: dict[str, float] = worker({**one, "rounds": 0, "minutes": None}, lambda *_: None, "")["start"]
    return start


def files_of(model: str | None) -> list[Path]:
    from tinydiff_weights.open import DEFAULT_MODEL

    place = Path(DEFAULT_MODEL if model is None else model)
    return [f for f in place.rglob("*") if f.is_file()] if place.is_dir() else [place] * place.is_file()


def drop_from_cache(files: Sequence[Path]) -> bool:
    """Ask the kernel to forget what it keeps of these files; False where it cannot be asked."""
    if not files or not hasattr(os, "posix_fadvise"):
        return False
    for file in files:
        try:
            number = os.open(file, os.O_RDONLY)
        except OSError:
            return False
        try:
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(number)
    return True


def this_machine() -> dict[str, Any]:
    found = machine.cpu()
    about = {key: found[key] for key in ("architecture", "models", "features", "cores", "usable_cores", "clusters")}
    made_by = "Numba" if native.library()[0] is None else "library"
    return {
        **about,
        "memory": machine.memory()["total"],
        "system": platform.platform(),
        "python": platform.python_version(),
        "path": dispatch.choose().path.name,
        "kernels": made_by,
    }
