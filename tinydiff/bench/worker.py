"""One process that makes pictures and times them: `python -m tinydiff.bench.worker`, asked and answering in JSON lines.

    in    {"model": ..., "weights": ..., "size": [w, h], "steps": n, "rounds": n, "minutes": m or null, ...}
    out   {"progress": [done, of]} ...                            while it runs
          {"result": {...}} or {"error": text, "kind": name}      at the end

A process of its own for each setting: its peak memory is that of this setting, and its start can be timed. `slow`
multiplies the time of every step, for tests of what compares two runs.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from typing import Any

started = time.perf_counter()

from tinydiff.api import Pipeline  # noqa: E402
from tinydiff.bench.sensors import Energy, clock_mhz, memory, temperatures  # noqa: E402
from tinydiff.errors import TinyDiffError  # noqa: E402

imported = time.perf_counter()
PROMPT = "a red apple"


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def measure(asked: dict[str, Any]) -> dict[str, Any]:
    """Start, a first picture (which packs weights and plans), `rounds` more; then as many as fit into `minutes`."""
    before = time.perf_counter()
    pipe = Pipeline.from_pretrained(
        asked["model"],
        weights=asked["weights"],
        memory=asked["memory"],
        backend=asked["backend"],
        threads=asked["threads"],
    )
    loaded = time.perf_counter()
    first = picture(pipe, asked)
    start = {"import": imported - started, "load": loaded - before, "first_picture": first["total"]}
    rounds, energy, sensors = int(asked["rounds"]), Energy.read(), [look()]
    made = []
    for number in range(rounds):
        say(progress=[number, rounds])
        made.append(picture(pipe, asked))
    sensors.append(look())
    result = {
        "start": start,
        "text": [m["text"] for m in made],
        "steps": [m["steps"] for m in made],
        "decode": [m["decode"] for m in made],
        "total": [m["total"] for m in made],
        "memory": memory(),
        "joules": Energy.read().since(energy) if made else None,
        "sensors": sensors,
    }
    if asked["minutes"] is not None:
        result["sustained"] = sustained(pipe, asked)
    return result


def picture(pipe: Pipeline, asked: dict[str, Any]) -> dict[str, Any]:
    width, height = asked["size"] or (None, None)
    factor = float(asked.get("slow", 1.0))

    def wait(_pipe: Pipeline, _step: int, _t: float, _state: dict[str, Any]) -> None:
        """Injected slowness: spins, as slower kernels would."""
        until = time.perf_counter() + (factor - 1) * (time.perf_counter() - marks[-1])
        while time.perf_counter() < until:
            pass
        marks.append(time.perf_counter())

    marks = [time.perf_counter()]
    made = pipe(
        PROMPT, width=width, height=height, num_inference_steps=asked["steps"], guidance_scale=asked["cfg"], seed=1,
        output_type="np", callback_on_step_end=wait if factor > 1 else None,
    ).timings  # fmt: skip
    if factor > 1:
        marks[0] += made["text"]
        made["steps"] = [after - before for before, after in pairwise(marks)]
    return made


def look() -> dict[str, Any]:
    return {"mhz": clock_mhz(), "celsius": temperatures()}


def sustained(pipe: Pipeline, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Pictures without a pause, each with the time since the first one began."""
    begun, limit = time.perf_counter(), 60 * float(asked["minutes"])
    made: list[dict[str, Any]] = []
    while (now := time.perf_counter() - begun) < limit or not made:
        say(progress=[now, limit])
        timings = picture(pipe, asked)
        made.append({"at": now, "total": timings["total"], "steps": timings["steps"], **look()})
    return made


def main() -> int:
    asked = json.loads(sys.stdin.readline())
    try:
        say(result=measure(asked))
    except TinyDiffError as error:
        say(error=str(error), kind=type(error).__name__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
