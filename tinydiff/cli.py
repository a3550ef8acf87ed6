"""The command line: `tinydiff generate "a red apple"`. What went wrong becomes two lines and an exit code.

    0    done
    1    error: a file, a model, the disk, the memory
    2    usage: what was asked for cannot work, whatever the machine
    130  interrupted (Ctrl-C, SIGTERM)

The commands are in `tinydiff/commands/`, each imported when it is asked for: `tinydiff --help` loads no library.
TINYDIFF_DEBUG=1 adds the traceback to an error.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tinydiff.commands.interrupts import INTERRUPTED, Interrupts

if TYPE_CHECKING:  # imported where they are used: a Ctrl-C while modules load must find its handler installed
    from tinydiff.commands.console import Console

DONE, FAILED, USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code. `argv` None: the arguments of the process."""
    interrupts = Interrupts()
    interrupts.install()
    try:
        return _guarded(list(sys.argv[1:] if argv is None else argv), interrupts)
    except KeyboardInterrupt:  # before there was a console, or while an error was being worded
        return INTERRUPTED
    finally:
        if argv is not None:  # a process that ends keeps its handlers: a late Ctrl-C shall end it quietly too
            interrupts.restore()


def _guarded(argv: list[str], interrupts: Interrupts) -> int:
    from tinydiff.commands.console import Console

    console = Console()
    try:
        code = _run(argv, console, interrupts)
        console.flush()
    except BaseException as error:
        code = _outcome(error, console, interrupts)
        console.drop_output()
    return code


def _run(argv: list[str], console: Console, interrupts: Interrupts) -> int:
    from tinydiff.commands.parser import parse

    parsed = parse(argv)
    code: int = parsed.run(parsed, console, interrupts)
    return code


def _outcome(error: BaseException, console: Console, interrupts: Interrupts) -> int:
    """The exit code of what ended a command; says on stderr what there is to say."""
    from tinydiff.errors import Cancelled, InvalidArgumentError

    if isinstance(error, SystemExit):  # argparse, after --help and --version
        try:
            console.flush()
            return DONE
        except OSError as failure:
            error = failure
    if interrupts.count or isinstance(error, (KeyboardInterrupt, Cancelled)):
        console.note("interrupted")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return FAILED
    console.error(*explain(error))
    if os.environ.get("TINYDIFF_DEBUG", "0") not in ("", "0"):
        console.traceback(error)
    return USAGE if isinstance(error, InvalidArgumentError) else FAILED


def explain(error: BaseException) -> list[str]:
    """What an error means to the user, in one or two lines."""
    from tinydiff.errors import TinyDiffError
    from tinydiff_kernels.errors import KernelError

    if isinstance(error, KernelError):
        return [str(error)]
    if isinstance(error, TinyDiffError):
        text, hint = str(error), getattr(error, "hint", None)
        return [text.removesuffix(f". {hint}"), hint] if hint else [text]
    if isinstance(error, MemoryError):
        return ["out of memory", "Try a smaller --size, --batch 1, or close other programs"]
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)!r}: " if isinstance(error.filename, (str, bytes)) else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full; free some space" if full else error.strerror or str(error)
        return [f"{where}{reason}"]
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return [f"internal error, please report it: {what}", "TINYDIFF_DEBUG=1 shows where it happened"]


if __name__ == "__main__":
    sys.exit(main())
