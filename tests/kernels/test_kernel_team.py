"""The team: every tile once, whether helpers are awake, falling asleep or asleep; none works on a closed job."""

from __future__ import annotations

import time

import numpy as np
import pytest
import simd_data

from tinydiff_kernels import _jit, pool, simd, team
from tinydiff_kernels import team_words as at

OUT, TILES = 0, 8


pytestmark = pytest.mark.usefixtures("own_cache")


def count_tiles(desc: int, counter: int, cancel: int) -> None:
    """out[tile] += 1 for every tile."""
    out, tiles = simd.load(simd.i64, desc, OUT), simd.load(simd.i64, desc, TILES)
    while simd.load_acquire(cancel) == 0:
        tile = simd.fetch_add(counter, 1)
        if tile >= tiles:
            break
        simd.fetch_add(out + 8 * tile, 1)


def job(tiles: int) -> tuple[np.ndarray, np.ndarray]:
    """(result of zeros, descriptor)."""
    out = np.zeros(tiles, np.int64)
    return out, np.array([out.ctypes.data, tiles], np.int64)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_every_tile_once_and_never_again(threads: int) -> None:
    """Pauses between jobs are shorter and longer than a helper's patience; nobody touches a job after its end."""
    kernel, rng = _jit.jitted(count_tiles), simd_data.generator("team")
    assert team.address_of(kernel) is not None
    results, descriptors = [], []
    for _ in range(300):
        out, desc = job(int(rng.integers(0, 2000)))
        pool.run(kernel, desc, threads=threads)
        results.append(out.copy())
        out += 1  # seen below if anyone still writes
        descriptors.append((out, desc))
        time.sleep(float(rng.choice([0, 0, 1e-5, 2e-4, 1e-3])))
    assert all((result == 1).all() for result in results)
    assert all((out == 2).all() for out, _ in descriptors)


def test_helpers_take_part_and_fall_asleep() -> None:
    mine = team.Team()
    kernel = _jit.jitted(wait_for_another)
    out, desc = job(2)
    code = team.address_of(kernel)
    assert code is not None
    mine.run(code, desc, np.zeros(1, np.int32), 2)  # ends only when two threads are inside
    assert out[0] == 2
    deadline = time.monotonic() + 10
    while mine._words[(at.BLOCKS + at.AWAKE) // 8] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mine._words[(at.BLOCKS + at.AWAKE) // 8] == 0


def wait_for_another(desc: int, counter: int, cancel: int) -> None:
    """Say that this thread is here, and wait for the other one."""
    out = simd.load(simd.i64, desc, OUT)
    simd.fetch_add(out, 1)
    while simd.load_acquire(out) < simd.load(simd.i64, desc, TILES):
        simd.relax()


@pytest.mark.parametrize("after", [at.BEGIN, at.WORK])
def test_an_exception_between_the_steps_closes_the_job(after: int) -> None:
    """As Ctrl-C does it: the handler's exception comes when team_lead returns to Python."""
    mine, kernel, cancel = team.Team(), _jit.jitted(count_tiles), np.zeros(1, np.int32)
    code = team.address_of(kernel)
    assert code is not None
    out, desc = job(100)
    mine.run(code, desc, cancel, 2)
    time.sleep(0.05)  # the helper sleeps: a job begins with BEGIN and goes on with WORK
    lead, steps = mine._lead, []

    def interrupted(address: int, step: int, unused: int) -> None:
        lead(address, step, unused)
        steps.append(step)
        if step == after:
            raise KeyboardInterrupt

    mine._lead = interrupted
    with pytest.raises(KeyboardInterrupt):
        mine.run(code, desc, cancel, 2)
    assert after in steps
    assert cancel[0] == 0
    assert mine._words[at.GENERATION // 8] == mine._words[at.CLOSED // 8] == 2
    mine._lead = lead
    out[:] = 0
    mine.run(code, desc, cancel, 2)
    assert (out == 1).all()


def test_the_team_calls_compiled_kernels_only() -> None:
    assert team.address_of(lambda desc, counter, cancel: None) is None


def test_more_threads_than_a_team_has_helpers_are_as_many_as_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "MOST", 2)
    out, desc = job(1000)
    code = team.address_of(_jit.jitted(count_tiles))
    assert code is not None
    mine = team.Team()
    mine.run(code, desc, np.zeros(1, np.int32), 9)
    assert (out == 1).all()
    assert len(mine._bells) == 2
