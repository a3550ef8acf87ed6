"""The thread pool: every tile once, exceptions, cancelling, fork, two callers, compiled kernels on 1 to 5 threads."""

from __future__ import annotations

import _thread
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import simd_data

from tinydiff_kernels import _jit, checked, pool, simd

lock = threading.Lock()


def take(counter: int) -> int:
    """Next tile, as `fetch_add` does it in compiled kernels."""
    with lock:
        word = ctypes.c_int64.from_address(counter)
        word.value += 1
        return word.value - 1


def cancelled(cancel: int) -> bool:
    return ctypes.c_int32.from_address(cancel).value != 0


DESC = np.zeros(8, np.int64)


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("threads", [1, 2, 3, 5, None])
def test_every_tile_is_done_once(threads: int | None) -> None:
    done: list[int] = []

    def kernel(desc: int, counter: int, cancel: int) -> None:
        assert desc == DESC.ctypes.data
        while (tile := take(counter)) < 100:
            done.append(tile)

    for _ in range(20):
        done.clear()
        pool.run(kernel, DESC, threads=threads)
        assert sorted(done) == list(range(100))


def test_kernels_called_in_turn_each_find_all_counters_at_zero() -> None:
    """The second word too: matmuls number their threads there."""
    alone = pool.Alone(np.zeros(1, np.int32))

    def kernel(desc: int, counter: int, cancel: int) -> None:
        assert desc == DESC.ctypes.data
        words = (ctypes.c_int64 * pool.COUNTER_WORDS).from_address(counter)
        assert not any(words)
        words[:] = range(1, pool.COUNTER_WORDS + 1)

    for _ in range(2):
        alone.run(kernel, DESC.ctypes.data)


def test_threads_are_kept_and_share_the_work() -> None:
    seen: set[int] = set()
    meet = threading.Barrier(3, timeout=10)

    def kernel(desc: int, counter: int, cancel: int) -> None:
        meet.wait()
        seen.add(threading.get_ident())

    for _ in range(5):
        pool.run(kernel, DESC, threads=3)
    assert len(seen) == 3


def test_the_caller_does_not_wait_for_threads_that_were_not_needed() -> None:
    """Workers that wake up after everything is done do not enter a kernel whose buffers may be gone."""
    calls: list[int] = []

    def kernel(desc: int, counter: int, cancel: int) -> None:
        calls.append(threading.get_ident())

    job = pool.Job(kernel, DESC, np.zeros(1, np.int32))
    job.close()
    job.work()
    assert calls == []


@pytest.mark.parametrize("where", ["caller", "worker"])
def test_an_exception_stops_the_others_and_is_raised(where: str) -> None:
    cancel = np.zeros(1, np.int32)
    meet = threading.Barrier(2, timeout=10)
    stopped: list[bool] = []

    def kernel(desc: int, counter: int, cancel_address: int) -> None:
        meet.wait()
        is_caller = threading.current_thread() is threading.main_thread()
        if is_caller == (where == "caller"):
            raise ZeroDivisionError(where)
        until = time.monotonic() + 10
        while not cancelled(cancel_address) and time.monotonic() < until:
            time.sleep(0.001)
        stopped.append(cancelled(cancel_address))

    with pytest.raises(ZeroDivisionError, match=where):
        pool.run(kernel, DESC, threads=2, cancel=cancel)
    assert stopped == [True]
    assert cancel[0] == 0
    test_every_tile_is_done_once(3)


def test_cancelling_from_another_thread() -> None:
    cancel = np.zeros(1, np.int32)
    tiles: list[int] = []

    def kernel(desc: int, counter: int, cancel_address: int) -> None:
        while not cancelled(cancel_address) and (tile := take(counter)) < 10**9:
            tiles.append(tile)
            time.sleep(0.001)

    threading.Timer(0.05, cancel.__setitem__, (0, 1)).start()
    pool.run(kernel, DESC, threads=2, cancel=cancel)
    assert cancel[0] == 1
    assert 0 < len(tiles) < 10**9


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own handler of Ctrl-C, also where the tests were started in the background, which ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_waiting_stops_the_workers_and_waits_for_them(interruptible: None) -> None:
    inside = threading.Event()
    left: list[bool] = []

    def kernel(desc: int, counter: int, cancel_address: int) -> None:
        if threading.current_thread() is threading.main_thread():
            inside.wait(10)
            _thread.interrupt_main()
            return
        inside.set()
        until = time.monotonic() + 10
        while not cancelled(cancel_address) and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.05)
        left.append(cancelled(cancel_address))

    with pytest.raises(KeyboardInterrupt):
        pool.run(kernel, DESC, threads=2)
    assert left == [True]


def test_two_python_threads_at_once() -> None:
    wrong: list[Any] = []

    def caller(tiles: int) -> None:
        for _ in range(50):
            done: list[int] = []

            def kernel(desc: int, counter: int, cancel: int, done: list[int] = done) -> None:
                while (tile := take(counter)) < tiles:
                    done.append(tile)

            pool.run(kernel, DESC, threads=3)
            if sorted(done) != list(range(tiles)):
                wrong.append(done)

    callers = [threading.Thread(target=caller, args=(n,)) for n in (7, 31)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert wrong == []
    assert not any(thread.is_alive() for thread in callers)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_fork_after_use() -> None:
    """The child makes its own threads, also when the parent is inside a kernel at that moment."""
    test_every_tile_is_done_once(3)
    release = threading.Event()

    def busy(desc: int, counter: int, cancel: int) -> None:
        release.wait(20)

    parent = threading.Thread(target=lambda: pool.run(busy, DESC, threads=2))
    parent.start()
    time.sleep(0.02)
    child = os.fork()
    if child == 0:
        try:
            done: list[int] = []
            meet = threading.Barrier(2, timeout=10)

            def kernel(desc: int, counter: int, cancel: int) -> None:
                meet.wait()
                done.append(threading.get_ident())

            pool.run(kernel, DESC, threads=2)
            os._exit(0 if len(set(done)) == 2 else 1)
        except BaseException:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    release.set()
    parent.join(20)
    assert os.waitstatus_to_exitcode(status) == 0


def test_threads_must_be_positive() -> None:
    with pytest.raises(ValueError, match="threads must be at least 1, not 0"):
        pool.run(lambda *_: None, DESC, threads=0)


SOURCE, TARGET, TILES, TILE_FLOATS = 0, 8, 16, 64


def exp_tiles(desc: int, counter: int, cancel: int) -> None:
    """target = exp(source), 64 floats a tile."""
    source = simd.load(simd.i64, desc, SOURCE)
    target = simd.load(simd.i64, desc, TARGET)
    tiles = simd.load(simd.i64, desc, TILES)
    while simd.load_acquire(cancel) == 0:
        tile = simd.fetch_add(counter, 1)
        if tile >= tiles:
            break
        for i in range(TILE_FLOATS // 8):
            offset = 4 * TILE_FLOATS * tile + 32 * i
            simd.store(target, offset, simd.exp(simd.load(simd.f32x8, source, offset)))


def test_a_compiled_kernel_gives_the_same_bits_on_any_number_of_threads() -> None:
    kernel = _jit.jitted(exp_tiles)
    x = simd_data.generator("pool").normal(0, 20, 64 * 500).astype(np.float32)
    results = []
    for threads in (1, 2, 3, 5):
        out = np.full_like(x, np.nan)
        desc = np.array([x.ctypes.data, out.ctypes.data, 500], np.int64)
        with checked.buffers(x, writable=(out,)):
            pool.run(kernel, desc, threads=threads)
        results.append(out.tobytes())
    assert len(set(results)) == 1
    np.testing.assert_allclose(np.frombuffer(results[0], np.float32), np.exp(x.astype(np.float64)), rtol=2e-7)


def test_a_cancelled_compiled_kernel_does_nothing() -> None:
    x, out = np.ones(64, np.float32), np.zeros(64, np.float32)
    desc = np.array([x.ctypes.data, out.ctypes.data, 1], np.int64)
    pool.run(_jit.jitted(exp_tiles), desc, threads=2, cancel=np.ones(1, np.int32))
    assert not out.any()


def test_compiled_kernels_release_the_interpreter() -> None:
    """While one runs for long, this thread goes on (and stops it)."""
    x, out = np.ones(64, np.float32), np.zeros(64, np.float32)
    desc = np.array([x.ctypes.data, out.ctypes.data, 2**60], np.int64)
    cancel = np.zeros(1, np.int32)
    kernel = _jit.jitted(wait_for_cancel)
    pool.run(kernel, desc, threads=1, cancel=np.ones(1, np.int32))  # compile
    thread = threading.Thread(target=lambda: pool.run(kernel, desc, threads=2, cancel=cancel))
    thread.start()
    time.sleep(0.02)
    cancel[0] = 1
    thread.join(10)
    assert not thread.is_alive()


def wait_for_cancel(desc: int, counter: int, cancel: int) -> None:
    while simd.load_acquire(cancel) == 0:
        simd.fetch_add(counter, 1)


@pytest.mark.parametrize("receiver", ["process", "worker"])
def test_a_long_kernel_leaves_the_main_thread_to_signals(receiver: str) -> None:
    """It waits while others work; an exception of a signal's handler stops them and is raised.

    A signal that another thread receives does not wake the main thread, just as one that comes before it sleeps.
    """
    inside: SimpleQueue[int] = SimpleQueue()
    threads: list[threading.Thread] = []
    stopped: list[bool] = []

    def kernel(desc: int, counter: int, cancel: int) -> None:
        threads.append(threading.current_thread())
        inside.put(threading.get_ident())
        until = time.monotonic() + 20
        while not cancelled(cancel) and time.monotonic() < until:
            time.sleep(0.001)
        stopped.append(cancelled(cancel))

    def interrupt(number: int, frame: object) -> None:
        raise InterruptedError

    def send() -> None:
        worker = inside.get(timeout=20)
        time.sleep(0.02)  # the main thread sleeps, most likely
        if receiver == "process":
            os.kill(os.getpid(), signal.SIGUSR1)
        else:
            signal.pthread_kill(worker, signal.SIGUSR1)

    word = np.zeros(1, np.int32)
    before = signal.signal(signal.SIGUSR1, interrupt)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(InterruptedError):
            pool.run(kernel, np.zeros(1, np.int64), threads=2, cancel=word, long=True)
    finally:
        sender.join(20)
        signal.signal(signal.SIGUSR1, before)
    assert word[0] == 0
    assert stopped
    assert all(stopped)
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_long_kernel_runs_once_on_each_thread(count: int) -> None:
    threads = []
    barrier = threading.Barrier(count)

    def kernel(desc: int, counter: int, cancel: int) -> None:
        threads.append(threading.current_thread())
        barrier.wait(60)

    pool.run(kernel, np.zeros(1, np.int64), threads=count, long=True)
    assert len(set(threads)) == count
    assert threading.main_thread() not in threads
    threads.clear()
    pool.run(kernel, np.zeros(1, np.int64), threads=count)
    assert threading.main_thread() in threads
