"""team_lead, team_follow: threads hand jobs to each other in memory, without the interpreter.

A job is a kernel with a descriptor. The leader publishes it and raises GENERATION; a helper that looks sees that, says
that it is INSIDE, makes sure that the job is still open (CLOSED < GENERATION), and takes tiles like the leader. The
leader closes the job when it finds no tile left, and waits for the helpers inside.

A helper raises INSIDE before it looks whether the job is open; the leader raises CLOSED before it looks whether anyone
is inside. Both in the one order that all threads see, so one of them sees the other: no helper ever works on a job
whose buffers the leader has given back. Words in `team_words.py`.
"""

from __future__ import annotations

from tinydiff_kernels.simd import call_kernel, fetch_add_in_order, i64, load, load_acquire, relax, store
from tinydiff_kernels.team_words import (
    ASLEEP,
    AWAKE,
    BEGIN,
    BLOCKS,
    BUSY,
    CANCEL,
    CLOSE,
    CLOSED,
    COUNTER,
    DESC,
    DONE,
    GENERATION,
    HELPERS,
    INDEX,
    INSIDE,
    KERNEL,
    LINE,
    RESULT,
    ROUNDS,
    SEEN,
    TEAM,
    WORK,
)


def team_follow(desc: int, counter: int, cancel: int) -> None:
    """A helper (its block is `desc`): work on jobs until none has come for a while."""
    team = load(i64, desc, TEAM)
    seen, patience = load(i64, desc, SEEN), load(i64, team, ROUNDS)
    store(desc, AWAKE, 1)
    rounds = 0
    while rounds <= patience:
        generation = load_acquire(team + GENERATION)  # the lower half
        if generation == seen:
            rounds += 1
            relax()
        else:
            seen, rounds = generation, 0
            fetch_add_in_order(team + INSIDE, 1)
            is_open = fetch_add_in_order(team + CLOSED, 0) < fetch_add_in_order(team + GENERATION, 0)
            if is_open and load(i64, desc, INDEX) < load(i64, team, HELPERS):
                call_kernel(load(i64, team, KERNEL), load(i64, team, DESC), team + COUNTER, load(i64, team, CANCEL))
            fetch_add_in_order(team + INSIDE, -1)
    store(desc, SEEN, seen)
    store(desc, AWAKE, 0)


def team_lead(desc: int, counter: int, cancel: int) -> None:
    """The leader (`desc` is the team): from the step that `counter` names to the end of the job, as RESULT says."""
    step, result = counter, DONE
    if step == BEGIN:
        fetch_add_in_order(desc + GENERATION, 1)
        for index in range(load(i64, desc, HELPERS)):
            if load(i64, desc + BLOCKS + LINE * index, AWAKE) == 0:
                result = ASLEEP
        step = WORK
    if result == DONE:
        if step == WORK:
            call_kernel(load(i64, desc, KERNEL), load(i64, desc, DESC), desc + COUNTER, load(i64, desc, CANCEL))
            step = CLOSE
        if step == CLOSE:
            fetch_add_in_order(desc + CLOSED, 1)
        rounds, patience = 0, load(i64, desc, ROUNDS)
        while fetch_add_in_order(desc + INSIDE, 0) > 0 and result == DONE:
            rounds += 1
            if rounds > patience:
                result = BUSY
            relax()
    store(desc, RESULT, result)
