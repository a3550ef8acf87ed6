"""`tinydiff pull HUB_ID`: a model from the Hugging Face hub into the cache it shares with other tools."""

from __future__ import annotations

import argparse

from tinydiff.commands.console import Console
from tinydiff.commands.interrupts import Interrupts
from tinydiff.commands.progress import Rate, byte_count, duration


def run(args: argparse.Namespace, console: Console, interrupts: Interrupts) -> int:
    """Fetch and print where the model lies. An interrupted pull keeps what is complete; the next one goes on."""
    from tinydiff_weights.hub_pull import pull

    console.quiet = args.quiet
    rate = Rate()

    def show(here: int, total: int) -> None:
        speed = rate.per_second(here)
        left = f"  {duration((total - here) / speed)} left" if speed else ""
        console.bar(here / max(total, 1), f"{byte_count(here)} of {byte_count(total)}{left}")

    # Threads of huggingface_hub would be waited for; its cache survives an end at any moment.
    with interrupts.at_once(lambda: console.note("interrupted; the same command goes on with what is missing")):
        path = pull(args.name, args.revision, show, variant=args.variant)
    console.clear()
    console.result(str(path))
    return 0
