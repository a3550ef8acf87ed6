"""Planning of the arena: buffers that live at the same time do not overlap, and no byte is wasted beyond alignment."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tinydiff_kernels.compiled.arena import ALIGNMENT, SLACK, Arena, Lifetime, place

BUFFERS = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 12), st.integers(0, 12)).map(
        lambda t: Lifetime(t[0], min(t[1:]), max(t[1:]))
    ),
    max_size=40,
)


def room(buffer: Lifetime) -> int:
    return -(-(buffer.nbytes + SLACK) // ALIGNMENT) * ALIGNMENT


@given(BUFFERS)
def test_buffers_of_one_time_do_not_overlap(buffers: list[Lifetime]) -> None:
    total = place(buffers)
    for buffer in buffers:
        assert buffer.offset >= 0
        assert buffer.offset % ALIGNMENT == 0
        assert buffer.offset + buffer.nbytes + SLACK <= total
    for a, b in itertools.combinations(buffers, 2):
        if a.first <= b.last and b.first <= a.last:
            assert a.offset + a.nbytes + SLACK <= b.offset or b.offset + b.nbytes + SLACK <= a.offset
    at_once = [sum(room(b) for b in buffers if b.first <= now <= b.last) for now in range(13)]
    assert max(at_once) <= total <= sum(map(room, buffers))


def test_buffers_of_different_times_share_their_place() -> None:
    buffers = [Lifetime(1000, n, n) for n in range(9)]
    assert place(buffers) == room(buffers[0])
    assert {buffer.offset for buffer in buffers} == {0}
    assert place([]) == 0


def test_an_arena_grows_when_it_must_and_never_shrinks() -> None:
    arena = Arena()
    arena.reserve(1000)
    first = arena.address
    assert first % ALIGNMENT == 0
    arena.reserve(500)
    assert (arena.address, arena.nbytes) == (first, 1000)
    arena.reserve(100_000)
    assert arena.address % ALIGNMENT == 0
    matrix = arena.floats(64, 3, 5)
    matrix[:] = 7
    assert matrix.ctypes.data == arena.address + 64
    assert np.count_nonzero(arena.memory[arena.start + 64 :].view(np.uint8)[:60].view(np.float32) == 7) == 15
