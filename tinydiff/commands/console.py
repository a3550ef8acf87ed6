"""What a command says: results on stdout, everything else on stderr, a progress bar where someone watches."""

from __future__ import annotations

import contextlib
import os
import re
import sys

BAR_WIDTH = 24
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Console:
    """Streams are looked up when they are used, and may be closed (`2>&-`): then nothing is said."""

    def __init__(self) -> None:
        self.quiet = False
        self._bar = 0  # columns of the bar on screen

    # ------------------------------------------------------------------------------------------- stdout

    def result(self, text: str) -> None:
        """A line of output. A file name that is not UTF-8 goes out as the bytes it is."""
        self.clear()
        if sys.stdout is None:
            return
        try:
            sys.stdout.write(f"{text}\n")
        except UnicodeEncodeError:
            sys.stdout.flush()
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
            sys.stdout.buffer.flush()

    def flush(self) -> None:
        """Raises OSError: a full disk or a closed pipe behind stdout is an error like any other."""
        if sys.stdout is not None:
            sys.stdout.flush()

    def drop_output(self) -> None:
        """Where stdout takes no more, forget what is left for it: Python would complain of it at exit."""
        try:
            self.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    # ------------------------------------------------------------------------------------------- stderr

    def error(self, *lines: str) -> None:
        self._say("tinydiff: error: ", *lines)

    def warning(self, line: str) -> None:
        self._say("tinydiff: warning: ", line)

    def note(self, line: str) -> None:
        """For information; not with --quiet."""
        if not self.quiet:
            self._say("tinydiff: ", line)

    def traceback(self, error: BaseException) -> None:
        import traceback

        for part in traceback.format_exception(error):
            self._write(part)

    def _say(self, start: str, *lines: str) -> None:
        self.clear()
        for line in lines:
            self._write(f"{start}{printable(line)}\n")
            start = "  "

    def _write(self, text: str) -> None:
        if sys.stderr is None:
            return
        with contextlib.suppress(OSError, ValueError):  # nobody is left to be told
            sys.stderr.write(text)
            sys.stderr.flush()

    # ---------------------------------------------------------------------------------------------- bar

    @property
    def watched(self) -> bool:
        """Whether a progress bar makes sense: stderr is a terminal that can redraw a line."""
        if self.quiet or sys.stderr is None or os.environ.get("TERM") == "dumb":
            return False
        try:
            return sys.stderr.isatty()
        except ValueError:
            return False

    def bar(self, share: float, text: str) -> None:
        """Draw the bar over itself, `share` of it filled."""
        if not self.watched:
            return
        filled = min(max(round(share * BAR_WIDTH), 0), BAR_WIDTH)
        done, rest = "#" * filled, "-" * (BAR_WIDTH - filled)
        import shutil

        columns = shutil.get_terminal_size().columns
        text = printable(text)[: max(columns - BAR_WIDTH - 4, 0)]
        shown = BAR_WIDTH + 3 + len(text)
        if not os.environ.get("NO_COLOR") and done:
            done = f"\x1b[32m{done}\x1b[0m"
        self._write(f"\r[{done}{rest}] {text}{' ' * max(self._bar - shown, 0)}")
        self._bar = shown

    def clear(self) -> None:
        """Take the bar away, so that a line can be written."""
        if self._bar:
            self._write(f"\r{' ' * self._bar}\r")
            self._bar = 0


def printable(text: str) -> str:
    """`text` in one line, without characters that steer a terminal (names in files are a stranger's)."""
    return _CONTROL.sub(lambda c: " " if c[0] in "\n\t" else f"\\x{ord(c[0]):02x}", text)
