"""`tinydiff warmup`: compile the kernels now, so that the first picture need not wait for it."""

from __future__ import annotations

import argparse

from tinydiff.commands.console import Console
from tinydiff.commands.interrupts import Interrupts


def run(args: argparse.Namespace, console: Console, interrupts: Interrupts) -> int:
    from tinydiff.backends import chosen

    console.quiet = args.quiet
    name, why = chosen("auto")
    if name == "numba":
        compile_kernels(console)
    console.result(f"{name}: {why}")
    return 0


def compile_kernels(console: Console) -> None:
    """Compile what is missing, in child processes, and show how it goes. Ctrl-C ends it; what is done is kept."""
    from tinydiff_kernels import warm

    if not warm.missing():
        return
    console.note("compiling kernels, once (half a minute or less; `tinydiff warmup` does it ahead of time)")
    warm.compile_all(lambda done, total: console.bar(done / total, f"{done}/{total}  compiling kernels"))
    console.clear()
