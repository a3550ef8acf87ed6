"""How a measured program talks to `compare.py`: it loads, says "ready" with what it is, then runs once for every line.

All programs of a comparison stay loaded and run in turn, so that each meets the same minutes of the machine.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def serve(run: Callable[[], float | None], **about: Any) -> None:
    """Answer each line on standard input with the seconds of one run (those `run` returns, or its wall time)."""
    out = sys.stdout
    sys.stdout = sys.stderr  # libraries print
    print("ready", json.dumps(about), file=out, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        seconds = run()
        print(time.perf_counter() - started if seconds is None else seconds, file=out, flush=True)
