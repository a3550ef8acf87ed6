"""`tinydiff quantize SRC DST`: any model into one packed file."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from tinydiff.commands.console import Console
from tinydiff.commands.interrupts import Interrupts
from tinydiff.commands.progress import Rate, byte_count, duration
from tinydiff.errors import InvalidArgumentError

if TYPE_CHECKING:
    from tinydiff.quantize import Report

WORST_SHOWN = 3


def run(args: argparse.Namespace, console: Console, interrupts: Interrupts) -> int:
    """Write DST and print its name. After a Ctrl-C or a kill the same command goes on where it was."""
    from tinydiff.packing import Recipe
    from tinydiff.quantize import quantize
    from tinydiff_weights.open import open_model

    console.quiet = args.quiet
    if args.weights is None:
        raise InvalidArgumentError("--weights is missing: int8, int4 or mixed")
    recipe = Recipe(args.weights, tuple(args.keep or ()), args.wide or "auto", target_size(args.target_size))
    losses = None
    if args.sensitivity is not None:
        from tinydiff.quality import read_sensitivities

        losses = read_sensitivities(args.sensitivity)
    source = open_model(args.source, vae=args.vae)
    with interrupts.at_once(lambda: console.note("interrupted; the same command goes on where it was")):
        report = quantize(source, args.target, recipe, bar(console), force=args.force, losses=losses)
    console.clear()
    for line in summary(report):
        console.note(line)
    console.result(os.fspath(report.path))
    if args.report:
        from tinydiff.commands.quality_report import lines

        kinds = {name: layer.kind for name, layer in report.formats.items()}
        for line in lines(args.source, report.path, kinds, args.vae):
            console.result(line)
    return 0


def target_size(text: str | None) -> int | None:
    """`900MB` in bytes."""
    from tinydiff.commands.settings import memory

    try:
        return None if text is None else memory(text)
    except ValueError as error:
        raise InvalidArgumentError(f"--target-size {text!r:.60} is not {error}") from None


def bar(console: Console) -> Callable[[int, int], None]:
    """Progress in bytes of the source."""
    rate = Rate()

    def show(done: int, total: int) -> None:
        speed = rate.per_second(done)
        left = f"  {duration((total - done) / speed)} left" if speed else ""
        console.bar(done / max(total, 1), f"quantising {byte_count(done)} of {byte_count(total)}{left}")

    return show


def summary(report: Report) -> list[str]:
    """Sizes, kinds, and the layers that lost most."""
    kinds = Counter(layer.kind for layer in report.formats.values())
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    lossy = sorted((snr, name) for name, snr in report.snr.items() if snr is not None)
    worst = ", ".join(f"{name} {snr:.1f} dB" for snr, name in lossy[:WORST_SHOWN])
    return [f"{byte_count(report.size)}; layers: {counted}"] + ([f"least exact: {worst}"] if worst else [])
