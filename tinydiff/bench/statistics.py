"""Honest statements about two sets of times: medians, spread, bootstrap intervals.

The ratio of two medians is given with an interval from the percentile bootstrap (Efron and Tibshirani 1993, chapter
13): samples are drawn again with replacement many times, and the middle `CONFIDENCE` of the ratios is the interval.
Where it reaches 1, give or take RESOLUTION, no difference was seen. Draws come from a fixed seed, so that the same
files always give the same words.

A step's time has a floor and a tail: whoever else uses the machine makes some steps slower and none faster. Medians
pass over the tail. What they cannot help against is a machine whose speed drifts between the two runs: interleave them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000
CONFIDENCE = 0.95
FEWEST = 5  # samples on each side: the median of fewer has no interval worth the name
RESOLUTION = 0.02  # two processes of one program differ by this much: where memory landed, what else ran
BLOCK = 4  # samples that are drawn together: neighbours in time share the machine's mood


@dataclass(frozen=True)
class Summary:
    """Of one set of times, in seconds."""

    count: int
    median: float
    low: float  # first quartile
    high: float  # third quartile
    least: float
    most: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary:
        low, median, high = np.quantile(samples, [0.25, 0.5, 0.75]).tolist()
        return cls(len(samples), median, low, high, min(samples), max(samples))


@dataclass(frozen=True)
class Interval:
    """A ratio of medians, second over first, and the interval that holds it at CONFIDENCE."""

    ratio: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether the whole interval lies farther from 1 than RESOLUTION."""
        return self.low > 1 + RESOLUTION or self.high < 1 - RESOLUTION


def ratio_interval(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Interval | None:
    """Median of `second` over median of `first`; None where there are too few samples to say anything.

    Samples in the order in which they were taken: blocks of neighbours are drawn (Kuensch 1989), because a machine
    that is slow for one step is often slow for the next, and single draws would make the interval too narrow.
    """
    if min(len(first), len(second)) < FEWEST:
        return None
    rng = np.random.default_rng(seed)
    ratios = _drawn_medians(second, rng) / _drawn_medians(first, rng)
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [outside, 1 - outside]).tolist()
    return Interval(float(np.median(second) / np.median(first)), low, high)


def _drawn_medians(samples: Sequence[float], rng: np.random.Generator) -> NDArray[np.float64]:
    values = np.asarray(samples, np.float64)
    length = max(1, min(BLOCK, len(values) // FEWEST))
    blocks = -(-len(values) // length)
    starts = rng.integers(
        0, len(values), (DRAWS, blocks, 1)
    )  # in a circle, so that the ends count as much as the middle
    chosen = ((starts + np.arange(length)) % len(values)).reshape(DRAWS, -1)[:, : len(values)]
    medians: NDArray[np.float64] = np.median(values[chosen], axis=1)
    return medians


def verdict(interval: Interval | None) -> str:
    """In words."""
    if interval is None:
        return f"too few samples to say anything (at least {FEWEST} on each side)"
    text = f"{interval.ratio:.3f} ({interval.low:.3f} to {interval.high:.3f})"
    if not interval.differs:
        return f"no difference seen: {text}"
    return f"{'slower' if interval.ratio > 1 else 'faster'}: {text}"
