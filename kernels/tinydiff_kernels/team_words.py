"""Where a team's threads find what they agree on: int64 words at these bytes, those that change in lines of their own.

`team.py` tells how they are used. A block of words for each helper follows behind the others.
"""

from __future__ import annotations

LINE = 64  # bytes of a cache line
GENERATION = 0  # jobs begun
CLOSED = LINE  # jobs that no helper may enter any more
INSIDE = 2 * LINE  # helpers that may touch the job's buffers
KERNEL, DESC, CANCEL, HELPERS = (3 * LINE + 8 * i for i in range(4))  # the job; how many helpers may take part
ROUNDS = 3 * LINE + 32  # how often a helper looks for the next job before it goes to sleep
RESULT = 3 * LINE + 40  # what team_lead came back with: DONE, ASLEEP, or BUSY
COUNTER = 4 * LINE  # what the job's kernel counts in: its tiles, its threads
BLOCKS = 5 * LINE  # of the helpers, a line each:
TEAM, INDEX, SEEN, AWAKE = (
    8 * i for i in range(4)
)  # address of the team; which helper; last job that it looked at; now?

BEGIN, WORK, CLOSE, WAIT = range(4)  # where team_lead starts; it goes on with what follows
DONE, ASLEEP, BUSY = range(3)  # all helpers are out; a helper must be woken before the work; helpers are still inside
