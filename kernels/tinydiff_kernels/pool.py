"""One thread pool for the process: every worker makes one call of the same kernel and takes tiles inside it.

    kernel(desc: int64*, counter: int64*, cancel: int32*)

The kernel adds 1 to the counter, atomically, to get its next tile, until none is left or the cancel word is set.
Tiles own their outputs, so the result does not depend on how many threads there are or which of them is fast:
a big core simply takes more tiles. Numba's prange would bring a threading layer that forks badly and aborts when two
Python threads use it; here kernels run without the interpreter's lock, in ordinary Python threads.

Compiled kernels that are not long go to a team (`team.py`), whose threads wait for the next one awake.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels import checked, team
from tinydiff_kernels.cpu import this_cpu

Kernel = Callable[[int, int, int], None]
STOPPED_BY_ERROR = team.STOPPED_BY_ERROR
COUNTER_WORDS = 8  # a cache line of its own
PATIENCE = 0.05  # s between looks: a signal that comes just before a thread falls asleep does not wake it


class Job:
    """One call of `run`: what workers need, who is still inside, what went wrong.

    Only workers take the lock. The caller's thread may get an exception from a signal's handler between any two lines,
    also just after it has taken a lock and before it can promise to give it back, so it takes none.
    """

    def __init__(self, kernel: Kernel, descriptor: NDArray[np.int64], cancel: NDArray[np.int32]) -> None:
        self.kernel = kernel
        self.descriptor = descriptor
        self.counter: NDArray[np.int64] = np.zeros(COUNTER_WORDS, np.int64)
        self.cancel = cancel
        self._addresses = tuple(int(array.ctypes.data) for array in (descriptor, self.counter, cancel))
        self.errors: list[BaseException] = []
        self._lock = threading.Lock()
        self._running = 0  # workers inside
        self._finished = 0  # workers that have come back from the kernel
        self._closed = False
        self._bell: SimpleQueue[None] = SimpleQueue()  # rung by every worker that comes back

    def _enter(self) -> bool:
        """False where the caller has finished everything before this worker woke up."""
        with self._lock:
            self._running += 1  # before looking: a caller that has not yet closed will see this worker and wait
            if not self._closed:
                return True
        self._leave()
        return False

    def _leave(self, finished: int = 0) -> None:
        with self._lock:
            self._running -= 1
            self._finished += finished
        self._bell.put(None)

    def fail(self, error: BaseException) -> None:
        """Remember an exception and stop the other threads, unless they are told to stop already."""
        self.errors.append(error)
        if not self.cancel[0]:
            self.cancel[0] = STOPPED_BY_ERROR

    def call(self) -> None:
        """Take tiles until none is left, on the caller's thread."""
        self.kernel(*self._addresses)

    def work(self) -> None:
        """The same on a worker. An exception stops the other threads and is raised by `run`."""
        if not self._enter():
            return
        try:
            self.call()
        except BaseException as error:
            self.fail(error)
        finally:
            self._leave(finished=1)

    def _hear(self) -> None:
        with suppress(Empty):
            self._bell.get(timeout=PATIENCE)

    def wait(self) -> None:
        """Until a worker has found no tile left. Signals are heeded meanwhile, which a kernel would hold off."""
        while not self._finished:
            self._hear()

    def close(self) -> None:
        """Let no more workers in and wait for those inside: after this nobody touches the buffers.

        Ctrl-C while waiting stops the workers, is remembered, and waiting goes on.
        """
        while True:
            try:
                self._closed = True
                while self._running:
                    self._hear()
                return
            except BaseException as error:
                self.fail(error)


class Alone:
    """Kernels called on this thread, one after the other, with as little Python as can be: a small network has
    hundreds of them, each of ten microseconds. For kernels that are neither checked nor long."""

    def __init__(self, cancel: NDArray[np.int32]) -> None:
        self._counter: NDArray[np.int64] = np.zeros(COUNTER_WORDS, np.int64)
        self._cancel = cancel  # kept as long as its address is
        self._addresses = int(self._counter.ctypes.data), int(cancel.ctypes.data)

    def run(self, kernel: Kernel, descriptor: int) -> None:
        """`descriptor`: its address."""
        self._counter.fill(0)
        kernel(descriptor, *self._addresses)


class Pool:
    """Persistent daemon threads, started when first needed."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._queues: list[SimpleQueue[Job]] = []
        self._team = team.Team()

    def _grow(self, workers: int) -> None:
        while len(self._queues) < workers:
            queue: SimpleQueue[Job] = SimpleQueue()
            name = f"tinydiff-{len(self._queues) + 1}"
            threading.Thread(target=_serve, args=(queue,), name=name, daemon=True).start()
            self._queues.append(queue)

    def run_compiled(self, kernel: int, descriptor: NDArray[np.int64], cancel: NDArray[np.int32], threads: int) -> None:
        """Run the kernel at an address; this thread works too."""
        with self._turn:
            self._team.run(kernel, descriptor, cancel, threads)

    def run(self, job: Job, threads: int, *, apart: bool) -> None:
        """Run a job on `threads` threads, this one among them unless `apart`. One job at a time: others wait."""
        helpers = threads if apart else threads - 1
        with self._turn:
            try:
                self._grow(helpers)
                for queue in self._queues[:helpers]:
                    queue.put(job)
                if apart:
                    job.wait()
                else:
                    job.call()
            except BaseException as error:
                job.fail(error)
            finally:
                job.close()


def _serve(queue: SimpleQueue[Job]) -> None:
    while True:
        queue.get().work()


_shared = Pool()


def _after_fork() -> None:
    """A child process has none of its parent's threads, and may have copied a lock that one of them held."""
    global _shared
    _shared = Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def default_threads() -> int:
    """One thread for each big core that this process may use."""
    return this_cpu().big_cores


def run(
    kernel: Kernel,
    descriptor: NDArray[np.int64],
    *,
    threads: int | None = None,
    cancel: NDArray[np.int32] | None = None,
    long: bool = False,
) -> None:
    """Run a kernel to its end on `threads` threads (default: the big cores), this one among them.

    Python handles signals in its main thread, and not while that is inside a kernel. So where a kernel is `long` the
    main thread only waits, and Ctrl-C is heeded at once; handing over costs some ten microseconds.

    `cancel` is an int32 array whose first element, set to anything but 0 by another thread, stops the kernel
    between tiles; without one only an exception does. Raises what a worker raised first, and
    CheckedAccessError where a checked kernel left its buffers.
    """
    count = default_threads() if threads is None else threads
    if count < 1:
        raise ValueError(f"threads must be at least 1, not {count}")
    word: NDArray[np.int32] = np.zeros(1, np.int32) if cancel is None else cancel
    is_checked = checked.active()
    apart = long and threading.current_thread() is threading.main_thread()
    if count == 1 and not is_checked and not apart:
        Alone(word).run(kernel, descriptor.ctypes.data)
        return
    code = None if is_checked or apart else team.address_of(kernel)
    if code is not None:
        _shared.run_compiled(code, descriptor, word, count)
        return
    job = Job(kernel, descriptor, word)
    if is_checked:
        with checked.buffers(descriptor, word, writable=(job.counter,)):
            _shared.run(job, count, apart=apart)
            if not job.errors:
                checked.raise_if_violated()
    else:
        _shared.run(job, count, apart=apart)
    if job.errors:
        if word[0] == STOPPED_BY_ERROR:
            word[0] = 0
        raise job.errors[0]
