"""The file that `tinydiff bench --json` writes, and whether a given one is such a file.

schema, version  "tinydiff-bench", 1. A new field leaves the version alone; one that means something else raises it
created          UTC, ISO 8601
tinydiff         version of the program
machine          architecture, models, features, cores, usable_cores, clusters, memory (bytes), system, python,
                 path (of the kernels), kernels ("library" or "Numba")
runs             one object for each combination of settings:
  settings       model, weights, size [w, h] or null (the model's), steps, cfg, threads, memory (text), backend,
                 rounds, minutes
  skipped        why it could not run, and then nothing else but `settings`
  start          seconds: import, load, first_picture (weights packed, programs planned); caches are warm
  cold           the same with the model's files out of the page cache; null where not asked for or not possible
  text, decode, total    seconds, one number a round
  steps          seconds, one list a round
  memory         bytes: anonymous, file (mapped), peak; or null
  joules         by source ("rapl package-0", "battery") over all rounds, or null
  sensors        before and after the rounds: mhz of each core, celsius by sensor, or null each
  sustained      only with --minutes, pictures in a row: at (seconds since the first began), total, steps, mhz,
                 celsius
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NAME, VERSION = "tinydiff-bench", 1
SETTINGS = ("model", "weights", "size", "steps", "cfg", "threads", "memory", "backend", "rounds", "minutes")
MACHINE = (
    "architecture", "models", "features", "cores", "usable_cores", "clusters", "memory", "system", "python", "path",
    "kernels",
)  # fmt: skip
TIMES = ("text", "decode", "total")


def problems(data: Any) -> list[str]:
    """What is wrong with a file's content, empty where nothing is."""
    if not isinstance(data, Mapping) or data.get("schema") != NAME:
        return [f"no file of `tinydiff bench`: its schema is not {NAME!r}"]
    if data.get("version") != VERSION:
        return [f"version {data.get('version')!r} of the schema; this program reads {VERSION}"]
    found = [f"{key} is missing" for key in ("created", "tinydiff", "machine", "runs") if key not in data]
    if found:
        return found
    found += [f"machine.{key} is missing" for key in MACHINE if key not in data["machine"]]
    if not isinstance(data["runs"], list) or not data["runs"]:
        return [*found, "runs is not a list of at least one"]
    for number, run in enumerate(data["runs"]):
        found += [f"runs[{number}]: {problem}" for problem in _run_problems(run)]
    return found


def _run_problems(run: Any) -> list[str]:
    if not isinstance(run, Mapping) or not isinstance(run.get("settings"), Mapping):
        return ["settings are missing"]
    found = [f"settings.{key} is missing" for key in SETTINGS if key not in run["settings"]]
    if "skipped" in run:
        return found
    found += [
        f"start.{key} is no time"
        for key in ("import", "load", "first_picture")
        if not _time(run.get("start", {}).get(key))
    ]
    rounds = run["settings"].get("rounds")
    for key in TIMES:
        if not _times(run.get(key), rounds):
            found.append(f"{key} is not a list of {rounds} times")
    steps = run.get("steps")
    if not isinstance(steps, list) or len(steps) != rounds or not all(_times(one, None) and one for one in steps):
        found.append(f"steps is not {rounds} lists of times")
    for key in ("memory", "joules", "sensors"):
        if key not in run:
            found.append(f"{key} is missing")
    return found


def _times(values: Any, count: int | None) -> bool:
    return isinstance(values, Sequence) and (count is None or len(values) == count) and all(map(_time, values))


def _time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e7
