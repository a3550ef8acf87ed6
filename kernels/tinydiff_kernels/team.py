"""A team of threads for compiled kernels: a helper that has just worked looks for the next job for a while, awake.

    kernel ends on all threads ... 20 us of Python ... next kernel begins

A network is hundreds of kernels of a millisecond or less, one after the other. To wake a sleeping thread and to hand it
the interpreter costs 60 to 100 us on the machine where this was measured, which is all that a second thread gains on
150 us of work. Here helpers take jobs from memory (`team_kernels.py`), at a cost of some 10 us; they need the
interpreter only to fall asleep and to wake up.

Long kernels stay with `pool.py`: there the main thread only waits, so that signals are heeded.
"""

from __future__ import annotations

import ctypes
import threading
import time
from _ctypes import CFuncPtr
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels import dispatch
from tinydiff_kernels import team_words as at
from tinydiff_kernels.cpu import this_cpu

MOST = 64  # helpers
STOPPED_BY_ERROR = 2  # in the cancel word; whoever cancels from outside writes another number
# Looks of a helper before it sleeps, some 0.2 ms: x86's `pause` takes 40 to 140 cycles, ARM's `yield` hardly any.
PATIENCE = {"x86_64": 4000}
PATIENCE_ELSEWHERE = 60_000
BUSY_WAIT = 1e-4  # s between looks at helpers that are still inside after a while: other programs have their cores


_addresses: dict[int, tuple[Any, int | None]] = {}  # by the kernels' ids, which last as long as the kernels kept here


def address_of(kernel: Any) -> int | None:
    """Where a compiled kernel's code begins; None of any other function, and of one that the team cannot call.

    The team calls kernels that were compiled as itself: all by Numba in this process, or all from the library.
    """
    if not isinstance(kernel, CFuncPtr) and not hasattr(kernel, "overloads"):
        return None
    known = _addresses.get(id(kernel))
    if known is None:
        known = _addresses[id(kernel)] = kernel, _find_address(kernel)
    return known[1]


def _find_address(kernel: Any) -> int | None:
    lead = dispatch.kernel("team_lead")
    if isinstance(kernel, CFuncPtr):
        return ctypes.cast(kernel, ctypes.c_void_p).value if isinstance(lead, CFuncPtr) else None
    if not hasattr(lead, "overloads"):
        return None
    if not kernel.overloads:
        from tinydiff_kernels._numba import types

        kernel.compile((types.int64,) * 3)
    (compiled,) = kernel.overloads.values()
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


class Team:
    """Helpers, started when first needed, and the memory that they share with the leader. For one leader at a time."""

    def __init__(self) -> None:
        memory = np.zeros(at.BLOCKS + at.LINE * (MOST + 1), np.uint8)
        start = -memory.ctypes.data % at.LINE
        self._words: NDArray[np.int64] = memory[start : start + at.BLOCKS + at.LINE * MOST].view(np.int64)
        self._address = int(self._words.ctypes.data)
        self._bells: list[SimpleQueue[None]] = []
        self._lead: Any = None

    def _grow(self, helpers: int) -> None:
        if self._lead is None:
            self._lead = dispatch.kernel("team_lead")
        cpu = this_cpu()
        while len(self._bells) < helpers:
            index, bell = len(self._bells), SimpleQueue[None]()
            block = at.BLOCKS + at.LINE * index
            self._words[(block + at.TEAM) // 8] = self._address
            self._words[(block + at.INDEX) // 8] = index
            # Where there are more threads than cores, one that waits awake would hinder one that works.
            enough = index + 2 <= sum(len(cluster.cores) for cluster in cpu.clusters)
            self._words[at.ROUNDS // 8] = PATIENCE.get(cpu.arch, PATIENCE_ELSEWHERE) if enough else 1
            arguments = (bell, dispatch.kernel("team_follow"), self._address + block, self._words)
            threading.Thread(target=_serve, args=arguments, name=f"tinydiff-team-{index + 1}", daemon=True).start()
            self._bells.append(bell)

    def run(self, kernel: int, descriptor: NDArray[np.int64], cancel: NDArray[np.int32], threads: int) -> None:
        """Run the kernel at an address on `threads` threads, this one among them, to its end.

        An exception of a signal's handler stops the others, and is raised when they are out.
        """
        helpers = min(threads - 1, MOST)
        if helpers > len(self._bells):
            self._grow(helpers)
        words = self._words
        words[at.KERNEL // 8 : at.HELPERS // 8 + 1] = (kernel, descriptor.ctypes.data, cancel.ctypes.data, helpers)
        words[at.COUNTER // 8 : at.BLOCKS // 8] = 0
        error: BaseException | None = None
        try:
            self._lead(self._address, at.BEGIN, 0)
            if words[at.RESULT // 8] == at.ASLEEP:
                for bell in self._bells[:helpers]:
                    if bell.empty():
                        bell.put(None)
                self._lead(self._address, at.WORK, 0)
        except BaseException as caught:
            error = caught
        while True:
            try:
                if error is not None and not cancel[0]:
                    cancel[0] = STOPPED_BY_ERROR
                if words[at.GENERATION // 8] != words[at.CLOSED // 8]:
                    self._lead(self._address, at.CLOSE, 0)
                while words[at.RESULT // 8] == at.BUSY:
                    time.sleep(BUSY_WAIT)
                    self._lead(self._address, at.WAIT, 0)
                break
            except BaseException as caught:
                error = caught
        if error is not None:
            if cancel[0] == STOPPED_BY_ERROR:
                cancel[0] = 0
            raise error


def _serve(bell: SimpleQueue[None], follow: Any, block: int, _memory: NDArray[np.int64]) -> None:
    """A helper's life. `_memory` is kept as long as the thread lives."""
    while True:
        bell.get()
        follow(block, 0, 0)
