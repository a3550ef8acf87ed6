"""Does `tinydiff bench compare` tell the truth on this machine? Equal runs, and runs slowed by a tenth, interleaved.

    python bench/check_compare.py [--tries 10] [--pictures 20] [--size 64]

Two pipelines of the embedded model make pictures in turn; once they are equal, once every step of the second is made
a tenth slower by spinning. Wanted: no difference seen in at least 9 of 10 equal pairs, slower in at least 9 of 10 of
the others.
"""

from __future__ import annotations

import argparse
import sys
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "weights")]

from tinydiff import Pipeline  # noqa: E402
from tinydiff.bench.statistics import ratio_interval, verdict  # noqa: E402
from tinydiff.bench.worker import picture  # noqa: E402


def pair(pipes: list[Pipeline], asked: dict[str, Any], pictures: int, slow: float) -> list[list[float]]:
    """Step times of both, each picture of one beside one of the other, taking turns at being first."""
    steps: list[list[float]] = [[], []]
    for number in range(pictures):
        for which in (0, 1) if number % 2 else (1, 0):
            made = picture(pipes[which], asked | {"slow": slow if which else 1.0})
            steps[which] += made["steps"]
    return steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, default in (("--tries", 10), ("--pictures", 20), ("--size", 64)):
        parser.add_argument(flag, type=int, default=default)
    options = parser.parse_args()
    asked = {"size": (options.size, options.size), "steps": 4, "cfg": 1.0}
    pipes = [Pipeline.from_pretrained(weights="int8", threads=1) for _ in range(2)]
    for pipe in pipes:
        picture(pipe, asked)
    good = {1.0: 0, 1.1: 0}
    for slow, _ in chain.from_iterable([(slow, n) for slow in good] for n in range(options.tries)):
        interval = ratio_interval(*pair(pipes, asked, options.pictures, slow))
        good[slow] += interval is not None and (interval.low > 1.02 if slow > 1 else not interval.differs)
        print(f"second {slow:g} times as slow: {verdict(interval)}", flush=True)
    print(f"equal: no difference in {good[1.0]} of {options.tries}; slower: seen in {good[1.1]} of {options.tries}")
    return 0 if min(good.values()) >= 0.9 * options.tries else 1


if __name__ == "__main__":
    sys.exit(main())
