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
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from tinydiff_kernels.compiled.program import Fill, Launch, Program
from tinydiff_weights import residency
from tinydiff_weights.residency import Region

AHEAD = 32 * 2**20  # bytes brought in before they are needed
SCHEDULES = 4


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
    """The helper thread: brings regions in, in order, at most `ahead` bytes beyond what is in use."""

    def __init__(self, comes: list[list[Region]], ahead: int) -> None:
        self._comes, self._ahead = comes, ahead
        self._needed = 0  # the action that runs, or waits to
        self._ready = -1  # the last action whose regions are all here
        self._early = [0] * len(comes)  # bytes here of actions that have not begun
        self._beyond = 0  # their sum
        self._stopped = False
        self._turn = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="tinydiff-weights", daemon=True)
        self._thread.start()

    def wait_for(self, index: int) -> None:
        with self._turn:
            for begun in range(self._needed, index + 1):
                self._beyond -= self._early[begun]
                self._early[begun] = 0
            self._needed = index
            self._turn.notify_all()
            while self._ready < index and not self._stopped:
                self._turn.wait()

    def stop(self) -> None:
        with self._turn:
            self._stopped = True
            self._turn.notify_all()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # advice that failed: pages then come when they are touched
            for index, regions in enumerate(self._comes):
                for piece in _pieces(regions):
                    if not self._may_read(index, piece.nbytes):
                        return
                    residency.bring_in(piece)
                with self._turn:
                    self._ready = index
                    self._turn.notify_all()
        with self._turn:
            self._stopped = True  # nobody waits for a thread that is gone
            self._turn.notify_all()

    def _may_read(self, index: int, nbytes: int) -> bool:
        """Wait until so many bytes for action `index` may come; False where the run is over."""
        with self._turn:
            while self._beyond + nbytes > self._ahead and index > self._needed and not self._stopped:
                self._turn.wait()
            if index > self._needed:
                self._early[index] += nbytes
                self._beyond += nbytes
            return not self._stopped


def _pieces(regions: list[Region]) -> Iterator[Region]:
    for region in regions:
        for start in range(region.start, region.stop, residency.STEP):
            yield Region(region.mapping, start, min(start + residency.STEP, region.stop))
