"""Noise that two runs of different length share: increments of one Brownian motion per image.

The SDE solver asks for W(b) - W(a) between two noise levels. Were each answer drawn afresh, 20 and 40 steps of the same
seed would give different pictures. Here the answers are increments of one path, which is fixed by the seed and laid
out as a binary tree: the value in the middle of an interval is normal, given those at its two ends (the Brownian
bridge, mean (W(a) + W(b)) / 2, variance (b - a) / 4), and its normal numbers come from a generator seeded by
the image's seed and the interval's place in the tree. Only the intervals asked for are ever computed.

Each image has its own tree, so that image i of a batch equals the one made alone with its seed. Values between the
2^-20 of the range that the tree resolves are linear. Other tools use torchsde's tree; its numbers are not these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tinydiff.rng import Generator, check_seed
from tinydiff.schedulers.betas import F32, F64

DEPTH = 20
REMEMBERED = 3  # a step asks for its two ends and its middle
MASK = 2**64 - 1


def node_seed(seed: int, depth: int, place: int) -> int:
    """A well-mixed 32-bit seed of a node (the finaliser of SplitMix64: Steele et al. 2014, OOPSLA)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + (((1 << depth) | place) << 1 | 1)) & MASK
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & MASK
    return (mixed ^ (mixed >> 31)) & 0xFFFFFFFF


@dataclass(frozen=True)
class Interval:
    """A node of the tree: its bounds and the values of W there."""

    place: int
    low: float
    high: float
    left: F64
    right: F64


class BrownianTree:
    """W on [start, stop], W(start) = 0, for one image of the given shape.

    Remembers the way to its last answer, whose first part the next one shares, and the last few answers; both only save
    time.
    """

    def __init__(self, seed: int, start: float, stop: float, shape: tuple[int, ...]):
        if not start < stop:
            raise ValueError(f"a Brownian path from {start} to {stop}")
        self.seed, self.shape = check_seed(seed), shape
        end = self._normal(0, 0) * math.sqrt(stop - start)
        self._way = [Interval(0, float(start), float(stop), np.zeros(shape), end)]
        self._answers: dict[float, F64] = {}

    def _normal(self, depth: int, place: int) -> F64:
        return Generator(node_seed(self.seed, depth, place)).normal(self.shape).astype(np.float64)

    def value(self, t: float) -> F64:
        """W(t), float64; t is clamped to the range."""
        if t not in self._answers:
            if len(self._answers) >= REMEMBERED:
                self._answers.pop(next(iter(self._answers)))
            self._answers[t] = self._descend(t)
        return self._answers[t]

    def _descend(self, t: float) -> F64:
        root = self._way[0]
        if not root.low < t < root.high:
            return root.left if t <= root.low else root.right
        while not self._way[-1].low <= t <= self._way[-1].high:
            self._way.pop()
        while len(self._way) <= DEPTH:
            here = self._way[-1]
            middle = (here.low + here.high) / 2
            fresh = self._normal(len(self._way), here.place) * (math.sqrt(here.high - here.low) / 2)
            value = (here.left + here.right) / 2 + fresh
            if t < middle:
                self._way.append(Interval(2 * here.place, here.low, middle, here.left, value))
            else:
                self._way.append(Interval(2 * here.place + 1, middle, here.high, value, here.right))
        leaf = self._way[-1]
        return leaf.left + (leaf.right - leaf.left) * ((t - leaf.low) / (leaf.high - leaf.low))

    def increment(self, a: float, b: float) -> F32:
        """(W(b) - W(a)) / sqrt(b - a) for a < b: unit normal, and additive over neighbouring intervals."""
        if not a < b:
            raise ValueError(f"increment from {a} to {b}")
        return ((self.value(b) - self.value(a)) / math.sqrt(b - a)).astype(np.float32)
