"""Noise that two runs of different length share: increments of one Brownian motion per image.

The SDE solver asks for W(b) - W(a) between two noise levels. Were each answer drawn afresh, 20 and 40 steps of the same
seed would give different pictures. Here the answers are increments of one path, which is fixed by the seed and laid
out as a binary tree: the value in the middle of an interval is normal, given those at its two ends (the Brownian
bridge, mean (W(a) + W(b)) / 2, variance (b - a) / 4), and its normal numbers come from a generator seeded by
the image's seed and the interval's place in the tree. Only the intervals asked for are ever computed, none is stored.

Each image has its own tree, so that image i of a batch equals the one made alone with its seed. Values between the
2^-20 of the range that the tree resolves are linear. Other tools use torchsde's tree; its numbers are not these.
"""

from __future__ import annotations

import math

import numpy as np

from tinydiff.rng import Generator, check_seed
from tinydiff.schedulers.betas import F32, F64

DEPTH = 20
MASK = 2**64 - 1


def node_seed(seed: int, depth: int, place: int) -> int:
    """A well-mixed 32-bit seed of a node (the finaliser of SplitMix64: Steele et al. 2014, OOPSLA)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + (((1 << depth) | place) << 1 | 1)) & MASK
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & MASK
    return (mixed ^ (mixed >> 31)) & 0xFFFFFFFF


class BrownianTree:
    """W on [start, stop], W(start) = 0, for one image of the given shape."""

    def __init__(self, seed: int, start: float, stop: float, shape: tuple[int, ...]):
        self.seed, self.start, self.stop, self.shape = check_seed(seed), float(start), float(stop), shape

    def _normal(self, depth: int, place: int) -> F64:
        return Generator(node_seed(self.seed, depth, place)).normal(self.shape).astype(np.float64)

    def value(self, t: float) -> F64:
        """W(t), float64; t is clamped to the range."""
        length = self.stop - self.start
        left, right = np.zeros(self.shape), self._normal(0, 0) * math.sqrt(length)
        if length <= 0 or t >= self.stop or t <= self.start:
            return right if t >= self.stop and length > 0 else left
        place, low, high = 0, self.start, self.stop
        for depth in range(1, DEPTH + 1):
            middle = (low + high) / 2
            value = (left + right) / 2 + self._normal(depth, place) * (math.sqrt(high - low) / 2)
            if t == middle:
                return value
            place *= 2
            if t < middle:
                high, right = middle, value
            else:
                low, left, place = middle, value, place + 1
        weight = (t - low) / (high - low)
        return left + (right - left) * weight

    def increment(self, a: float, b: float) -> F32:
        """(W(b) - W(a)) / sqrt(b - a) for a < b: unit normal, and additive over neighbouring intervals."""
        if not a < b:
            raise ValueError(f"increment from {a} to {b}")
        return ((self.value(b) - self.value(a)) / math.sqrt(b - a)).astype(np.float32)
