"""`tinydiff plan [MODEL]`: what memory a picture would take, stage by stage; nothing is computed, no weight is read."""

from __future__ import annotations

import argparse
import json

from tinydiff.commands.console import Console
from tinydiff.commands.generate import in_users_words, limit_threads
from tinydiff.commands.interrupts import Interrupts
from tinydiff.commands.settings import settle


def run(args: argparse.Namespace, console: Console, interrupts: Interrupts) -> int:
    settings = settle(vars(args))
    limit_threads(settings)
    from tinydiff import arguments
    from tinydiff.loading import build
    from tinydiff.memory.limits import budget_of
    from tinydiff.memory.plan import plan, process_at_work
    from tinydiff.memory.report import as_json, lines
    from tinydiff.packed_cache import packed_if_there
    from tinydiff_weights.open import open_model

    with in_users_words(settings):
        budget = budget_of(settings["memory"])
        weights = settings["weights"] or "auto"
        source, copied = packed_if_there(open_model(settings["model"], vae=settings["vae"]), weights)
        model = build(
            source, weights=weights, backend="numba", prediction_type=settings["prediction_type"] or "epsilon",
            threads=settings["threads"], limited=budget is not None,
        )  # fmt: skip
        width, height = settings["size"] or (None, None)
        s = arguments.settle(
            model, width=width, height=height, steps=settings["steps"], guidance_scale=settings["cfg"],
            guidance_rescale=0.0, seed=0, images=settings["batch"] or 1, output_type="pil", latents=None,
            clip_skip=None,
        )  # fmt: skip
        made = plan(model, s, budget, base=process_at_work(), copied=copied, smallest=True)
    if copied:
        console.note("the packed copy of these weights is not there yet; `tinydiff generate` makes it first")
    console.result(json.dumps(as_json(made), indent=2) if args.json else "\n".join(lines(made)))
    return 0
