"""Bootstrap intervals on made times: equal runs rarely differ, a tenth slower nearly always does."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinydiff.bench.statistics import Summary, ratio_interval, verdict


def times(rng: np.random.Generator, count: int, factor: float = 1.0) -> Any:
    """As on a shared machine: a floor, 3 % of spread, a mood that lasts for some steps, and now and then a step that
    waited."""
    mood = np.repeat(rng.normal(0, 0.015, -(-count // 5)), 5)[:count]
    waited = np.where(rng.random(count) < 0.1, rng.exponential(0.3, count), 0)
    return factor * (1 + mood + np.abs(rng.normal(0, 0.03, count)) + waited)


def test_equal_runs_show_no_difference_and_a_tenth_is_seen() -> None:
    rng, tries = np.random.default_rng(7), 60
    equal = [ratio_interval(times(rng, 20), times(rng, 20)) for _ in range(tries)]
    slower = [ratio_interval(times(rng, 20), times(rng, 20, 1.1)) for _ in range(tries)]
    assert sum(not i.differs for i in equal if i is not None) >= 0.9 * tries
    assert sum(i.differs and i.ratio > 1 for i in slower if i is not None) >= 0.9 * tries


def test_the_interval_narrows_with_the_samples_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(1)
    few, many = (ratio_interval(times(rng, n), times(rng, n)) for n in (10, 160))
    assert few is not None
    assert many is not None
    assert many.high - many.low < 0.7 * (few.high - few.low)
    first, second = times(rng, 12), times(rng, 12)
    assert ratio_interval(first, second) == ratio_interval(first, second)


def test_words() -> None:
    assert verdict(ratio_interval([1.0] * 4, [2.0] * 9)).startswith("too few samples")
    assert verdict(ratio_interval([1.0] * 9, [1.0] * 9)) == "no difference seen: 1.000 (1.000 to 1.000)"
    assert verdict(ratio_interval([1.0] * 9, [1.5] * 9)) == "slower: 1.500 (1.500 to 1.500)"
    assert verdict(ratio_interval([1.0] * 9, [0.5] * 9)) == "faster: 0.500 (0.500 to 0.500)"


def test_summary() -> None:
    made = Summary.of([4.0, 1.0, 2.0, 3.0, 10.0])
    assert made == Summary(5, 3.0, 2.0, 4.0, 1.0, 10.0)
