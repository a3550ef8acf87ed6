"""Ctrl-C and SIGTERM: the first ends the work after the current operation, the second at once. No half file stays.

where the work is                 first signal                       second signal
reading arguments, loading        KeyboardInterrupt                  the process ends
computing (`gently`)              the pipeline's cancel token        the process ends
writing a file (`finishing`)      the file is finished, then stop    KeyboardInterrupt: removes the temporary file
fetching (`at_once`)              the process ends; what was fetched is kept and taken up again
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)
Action = Callable[[], None]


def leave() -> None:
    """End the process now, without any clean-up of Python's."""
    os._exit(INTERRUPTED)


def _stop() -> None:
    raise KeyboardInterrupt


class Interrupts:
    """The signal handlers of one command. `count`: how many signals came; `noticed` is called at the first one."""

    def __init__(self) -> None:
        self.count = 0
        self.noticed: Action = lambda: None
        self._first, self._second = _stop, leave
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Also where SIGINT was ignored, as in a script's background job. Without effect outside the main thread."""
        for number in SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:
                return

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came. For places where its exception may have been swallowed."""
        if self.count:
            raise KeyboardInterrupt

    @contextmanager
    def gently(self, stop: Action) -> Iterator[None]:
        """The first signal calls `stop`, which lets the current operation end."""
        with self._mode(stop, leave):
            yield

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """The first signal is only counted (see `check`), the second raises KeyboardInterrupt."""
        with self._mode(lambda: None, _stop):
            yield

    @contextmanager
    def at_once(self, last_words: Action) -> Iterator[None]:
        """The first signal ends the process after `last_words`."""

        def end() -> None:
            last_words()
            leave()

        with self._mode(end, leave):
            yield

    @contextmanager
    def _mode(self, first: Action, second: Action) -> Iterator[None]:
        self.check()
        before = self._first, self._second
        self._first, self._second = first, second
        try:
            yield
        finally:
            self._first, self._second = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            self.noticed()
            self._first()
        elif self.count == 2:
            self._second()
        else:
            leave()
