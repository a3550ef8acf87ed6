"""Weights of mapped files come and go with the kernels that use them.

    actions of a program:      0   1   2   3   4   5 ...
                               |   |   |
    let go <- used for the last time   in use   -> brought in ahead, at most AHEAD bytes, by one helper thread

The first `keep` bytes, in order of use, stay from run to run: a network that is run again for every step reads only
the rest again. Keeping a fixed part is the best there is for a cyclic order (the least recently used page is always the
one needed soonest).
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from numpy.typing import NDArray

from tinydiff_kernels.compiled.program import Fill, Launch, Program
from tinydiff_kernels.pool import PATIENCE
from tinydiff_weights import residency
from tinydiff_weights.residency import Region

AHEAD = 32 * 2**20  # bytes brought in before they are needed
SCHEDULES = 4
_STOP = sys.maxsize  # in place of an action's number


class Schedule:
    """Of a program: the regions that each action is the first, and the last, to need."""

    def __init__(self, program: Program, keep: int) -> None:
        needs = [residency.regions(arrays_of(action)) for action in program.actions]
        first: dict[tuple[int, int, int], int] = {}
        last: dict[tuple[int, int, int], int] = {}
        for index, needed in enumerate(needs):
            for region in needed:
                key = id(region.mapping), region.start, region.stop
                first.setdefault(key, index)
                last[key] = index
        self.comes: list[list[Region]] = [[] for _ in needs]
        self.goes: list[list[Region]] = [[] for _ in needs]
        kept = 0
        self.nbytes = 0
        for index, needed in enumerate(needs):
            for region in needed:
                key = id(region.mapping), region.start, region.stop
                if first[key] == index:
                    self.comes[index].append(region)
                    self.nbytes += region.nbytes
                    kept += region.nbytes
                    if kept <= keep:
                        last.pop(key, None)
                if last.get(key) == index:
                    self.goes[index].append(region)

    @property
    def largest(self) -> int:
        """Most bytes that one action needs."""
        return max((sum(r.nbytes for r in regions) for regions in self.comes), default=0)


def arrays_of(action: Any) -> Sequence[NDArray[Any]]:
    """The arrays that an action reads beside activations."""
    if isinstance(action, Launch):
        return action.constants
    return action.sources if isinstance(action, Fill) else ()


class WeightStream:
    """See `program.Stream`. `keep` and `ahead` in bytes, set by the plan before a run."""

    def __init__(self, keep: int = 0, ahead: int = AHEAD) -> None:
        self.keep, self.ahead = keep, ahead
        self._schedules: dict[tuple[int, int], tuple[Program, Schedule]] = {}
        self._reader: _Reader | None = None
        self._schedule: Schedule | None = None

    def begin(self, program: Program) -> None:
        key = id(program), self.keep
        if key not in self._schedules:
            while len(self._schedules) >= SCHEDULES:
                del self._schedules[next(iter(self._schedules))]
            self._schedules[key] = program, Schedule(program, self.keep)
        self._schedule = self._schedules[key][1]
        self._reader = _Reader(self._schedule.comes, self.ahead)

    def before(self, index: int) -> None:
        if self._reader is not None:
            self._reader.wait_for(index)

    def after(self, index: int) -> None:
        if self._schedule is not None:
            for region in self._schedule.goes[index]:
                residency.let_go(region)

    def end(self) -> None:
        if self._reader is not None:
            self._reader.stop()
        self._reader = self._schedule = None

    def forget(self) -> None:
        """The programs it knew are gone."""
        self._schedules.clear()


class _Reader:
    """The helper thread: brings regions in, in order, at most `ahead` bytes beyond what is in use.

    Two queues and no lock: a handler of Ctrl-C may raise in the thread that runs the network just after it took one.
    """

    def __init__(self, comes: list[list[Region]], ahead: int) -> None:
        self._comes, self._ahead = comes, ahead
        self._begun: SimpleQueue[int] = SimpleQueue()  # actions that run, or wait to; _STOP at the end
        self._arrived: SimpleQueue[int] = SimpleQueue()  # actions whose regions are all here; _STOP where none will be
        self._ready = -1  # the last of those
        self._needed = 0  # of the helper thread: the last action that began
        self._early = [0] * len(comes)  # of the helper thread: bytes here of actions that have not begun
        self._thread = threading.Thread(target=self._run, name="tinydiff-weights", daemon=True)
        self._thread.start()

    def wait_for(self, index: int) -> None:
        """Say that an action is to begin, and return when its regions are here."""
        self._begun.put(index)
        while self._ready < index:
            with contextlib.suppress(Empty):  # a signal that comes just before this falls asleep does not wake it
                self._ready = self._arrived.get(timeout=PATIENCE)

    def stop(self) -> None:
        self._begun.put(_STOP)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # advice that failed: pages then come when they are touched
            for index, regions in enumerate(self._comes):
                for piece in _pieces(regions):
                    if not self._may_read(index, piece.nbytes):
                        return
                    residency.bring_in(piece)
                self._arrived.put(index)
        self._arrived.put(_STOP)  # nobody waits for a thread that is gone

    def _may_read(self, index: int, nbytes: int) -> bool:
        """Wait until so many bytes for action `index` may come; False where the run is over."""
        while not self._begun.empty() or (index > self._needed and sum(self._early) + nbytes > self._ahead):
            begun = self._begun.get()
            if begun == _STOP:
                return False
            self._early[self._needed : begun + 1] = [0] * (begun + 1 - self._needed)
            self._needed = begun
        if index > self._needed:
            self._early[index] += nbytes
        return True


def _pieces(regions: list[Region]) -> Iterator[Region]:
    for region in regions:
        for start in range(region.start, region.stop, residency.STEP):
            yield Region(region.mapping, start, min(start + residency.STEP, region.stop))
