"""Progress of a picture: which step, seconds per step, time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from tinydiff.commands.console import Console


class StepProgress:
    """Draws `[###---] 7/20  0.42 s/step  0:05 left` on a terminal, and nothing elsewhere."""

    def __init__(
        self, console: Console, steps: int, clock: Callable[[], float] = time.monotonic, begin: int = 0
    ) -> None:
        self._console, self._steps, self._clock, self._begin = console, steps, clock, begin
        self._started = clock()
        self._show(begin, "reading the prompt")

    def step(self, done: int) -> None:
        """`done` steps have ended."""
        pace = (self._clock() - self._started) / max(done - self._begin, 1)
        left = "decoding" if done >= self._steps else f"{duration(pace * (self._steps - done))} left"
        self._show(done, f"{pace:.2f} s/step  {left}")

    def _show(self, done: int, text: str) -> None:
        self._console.bar(done / max(self._steps, 1), f"{done}/{self._steps}  {text}")


def duration(seconds: float) -> str:
    """`0:05`, `12:34`, `1:02:03`."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def byte_count(count: float) -> str:
    """`512 B`, `3.4 MB`, `1.2 GB`; 2^20 and 2^30 bytes, as everywhere here."""
    if count < 2**10:
        return f"{count:.0f} B"
    unit, size = ("GB", 2**30) if count >= 2**30 else ("MB", 2**20) if count >= 2**20 else ("kB", 2**10)
    return f"{count / size:.1f} {unit}"


class Rate:
    """Bytes per second since the first look; what was there before does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def per_second(self, count: int) -> float:
        """0 where it is not known yet."""
        now = self._clock()
        if self._first is None:
            self._first = (now, count)
        seconds = now - self._first[0]
        return (count - self._first[1]) / seconds if seconds > 0 else 0.0
