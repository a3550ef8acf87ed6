"""`tinydiff bench`: measure this machine, compare two measurements, predict one that is not here."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from tinydiff.bench import schema
from tinydiff.commands import settings
from tinydiff.commands.console import Console
from tinydiff.commands.interrupts import Interrupts
from tinydiff.errors import InvalidArgumentError

MOST_BYTES = 64 * 2**20  # of a file to compare


def run(args: argparse.Namespace, console: Console, interrupts: Interrupts) -> int:
    console.quiet = args.quiet
    words = list(args.words)
    if not words:
        _measure(args, console)
    elif words[0] == "compare" and len(words) == 3:
        _compare(words[1], words[2], console)
    elif words[0] == "plot" and len(words) == 3:
        from tinydiff.bench import plot

        plot.save(read(words[1]), words[2])
        console.result(words[2])
    elif words == ["predict"]:
        _predict(args, console)
    else:
        raise InvalidArgumentError(
            f"bench {' '.join(words)[:60]!r} is not known; there are: tinydiff bench, bench compare A.json B.json,"
            " bench plot A.json PICTURE.png, bench predict --device NAME"
        )
    return 0


def _measure(args: argparse.Namespace, console: Console) -> None:
    from tinydiff.bench import plot, text
    from tinydiff.bench import run as runs

    data = runs.report(asked(args), lambda share, words: console.bar(share, words))
    console.clear()
    if args.submit_file:
        Path(args.submit_file).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        plot.save(data, args.plot)
    console.result(json.dumps(data, indent=1) if args.json else "\n".join(text.lines(data)))
    for file in filter(None, (args.submit_file, args.plot)):
        console.note(f"{file} is written")


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as values; those that may be lists as lists."""

    def one(name: str) -> Any:
        given = getattr(args, name)
        return None if given is None else settings.read(name, given, settings.flag_of(name))

    def several(name: str) -> list[Any]:
        given = getattr(args, name)
        return [] if given is None else [settings.read(name, part, settings.flag_of(name)) for part in given.split(",")]

    rounds = settings.whole(args.rounds) if args.rounds.strip().isdigit() else 0
    if not 1 <= rounds <= 10000:
        raise InvalidArgumentError(f"--rounds must be a whole number from 1 to 10000, not {args.rounds!r}")
    return {
        "model": one("model"),
        "backend": args.backend or "auto",
        "weights": several("weights") or ["auto"],
        "size": several("size"),
        "threads": several("threads"),
        "memory": _memories(args.memory),
        "steps": one("steps"),
        "cfg": one("cfg"),
        "rounds": rounds,
        "minutes": _minutes(args.minutes),
        "cold": args.cold,
    }


def _predict(args: argparse.Namespace, console: Console) -> None:
    from dataclasses import asdict

    from tinydiff.bench import predict, text

    if args.device is None:
        raise InvalidArgumentError(f"bench predict needs --device: one of {', '.join(predict.devices())}")
    device = predict.device(args.device)
    model, weights = args.model or "sd15", args.weights or "int8"
    sizes = [settings.read("size", args.size or "512x512", "--size")]
    steps = settings.read("steps", args.steps or "20", "--steps")
    cfg = settings.read("cfg", args.cfg or "7.5", "--cfg")
    if sizes[0][0] != sizes[0][1]:
        raise InvalidArgumentError("bench predict knows square pictures only: --size NxN")
    made = predict.picture(model, device, weights=weights, size=sizes[0][0], steps=steps, guided=cfg != 1)
    what = f"{model}, {weights}, {sizes[0][0]}x{sizes[0][0]}, {'guided' if cfg != 1 else 'no guidance'}"
    if args.json:
        stages = {name: asdict(one) | {"seconds_in_all": one.total} for name, one in made.items()}
        console.result(json.dumps({"prediction": what, "device": asdict(device), "stages": stages}, indent=1))
    else:
        console.result("\n".join(text.predicted(device, made, what, steps)))


def _memories(given: str | None) -> list[str]:
    parts = [] if given is None else given.split(",")
    for part in parts:
        settings.read("memory", part, "--memory")
    return parts


def _minutes(given: str | None) -> float | None:
    if given is None:
        return None
    try:
        minutes = settings.number(given)
    except ValueError:
        minutes = -1.0
    if not 0 < minutes <= 24 * 60:
        raise InvalidArgumentError(f"--minutes must be a number up to 1440, not {given!r}")
    return minutes


def _compare(first: str, second: str, console: Console) -> None:
    from tinydiff.bench import text

    console.result("\n".join(text.compared(read(first), read(second))))


def read(name: str) -> dict[str, Any]:
    """A file of `tinydiff bench`. InvalidArgumentError where it is none."""
    content = Path(name).read_bytes()[: MOST_BYTES + 1]
    data: Any = None
    if len(content) <= MOST_BYTES:
        with contextlib.suppress(ValueError, RecursionError):
            data = json.loads(content)
    if found := schema.problems(data):
        raise InvalidArgumentError(f"{name!r}: {found[0]}")
    checked: dict[str, Any] = data
    return checked
