"""Seeds: the random numbers of torch's CPU generator, so that a seed means the same picture everywhere.

    seed ─ MT19937 ─ words ──┬── 24 bits ─ uniform float32 ─ Box-Muller in blocks of 16 ── normals (n >= 16)
                             └── 53 bits ─ uniform float64 ─ Box-Muller in pairs ────────── normals (n < 16)

The Mersenne twister: M. Matsumoto, T. Nishimura, "Mersenne Twister", ACM TOMACS 8 (1998). Box-Muller: two
uniforms u, v give two independent normals sqrt(-2 ln u) cos(2 pi v) and sqrt(-2 ln u) sin(2 pi v).

Words, uniforms and the normals of fewer than 16 values equal torch's to the bit. Of 16 and more, torch's
own builds disagree (in 38 % of the values, by up to 2e-6): ours are, on every CPU, the bits of torch's AVX2
build, which is the one that runs on x86 CPUs with AVX2 or AVX-512.
"""

from __future__ import annotations

import math
import operator
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinydiff.errors import InvalidArgumentError
from tinydiff.portable_math import log, log_float32, sin_cos, sin_cos_float32

U32: TypeAlias = NDArray[np.uint32]
F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]

N, M = 624, 397  # words of state; distance of the recurrence
BLOCK = 16  # torch fills normals in blocks of 16 (two AVX vectors), and only from 16 values on
TWO_PI = 2.0 * math.pi
TWO_PI_F32 = np.float32(TWO_PI)


def check_seed(seed: object) -> int:
    """`seed` as an int in [0, 2^64), else InvalidArgumentError. NumPy's integers are taken, bools are not."""
    try:
        value = None if isinstance(seed, (bool, np.bool_)) else operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        value = None
    if value is None:
        shown = repr(seed[:40]) if isinstance(seed, str) else type(seed).__name__
        raise InvalidArgumentError(f"seed must be an integer from 0 to 2^64 - 1, not {shown}")
    if not 0 <= value < 2**64:
        shown = str(value) if abs(value) < 10**30 else "a number of more than 30 digits"
        raise InvalidArgumentError(f"seed must be from 0 to 2^64 - 1, not {shown}")
    return value


def fresh_seed() -> int:
    """A seed from the system's entropy, in [0, 2^32): the twister sees no more than 32 bits of a seed."""
    return secrets.randbits(32)


def image_seed(seed: int, index: int) -> int:
    """The seed of image `index` of a batch: seed + index, starting again at 0 after 2^64 - 1."""
    return (check_seed(seed) + index) % 2**64


def batch_generators(seed: int, count: int) -> list[Generator]:
    """One generator per image of a batch, for its first and its ancestral noise: seed, seed + 1, ..."""
    return [Generator(image_seed(seed, index)) for index in range(count)]


def _seeded_words(seed: int) -> U32:
    """The 624 words that a seed stands for (`init_genrand` of the authors' code). It counts modulo 2^32."""
    words = [seed & 0xFFFFFFFF]
    for j in range(1, N):
        previous = words[-1]
        words.append((1812433253 * (previous ^ (previous >> 30)) + j) & 0xFFFFFFFF)
    return np.array(words, np.uint32)


def _twist(upper: U32, lower: U32) -> U32:
    """The recurrence's matrix: the top bit of one word and the other 31 of the next, times A."""
    mixed = (upper & np.uint32(0x80000000)) | (lower & np.uint32(0x7FFFFFFF))
    return (mixed >> np.uint32(1)) ^ ((lower & np.uint32(1)) * np.uint32(0x9908B0DF))


def _next_words(words: U32) -> U32:
    """The following 624 words: new[i] = old[i + 397] ^ twist(old[i], old[i + 1]), indices modulo 624.

    Past i = 227 "old[i + 397]" is a new word already, so the vectorised form goes in pieces of at most 227.
    """
    new = np.empty_like(words)
    first = N - M
    twisted = _twist(words[:-1], words[1:])
    new[:first] = words[M:] ^ twisted[:first]
    new[first : 2 * first] = new[:first] ^ twisted[first : 2 * first]
    new[2 * first : N - 1] = new[first : N - 1 - first] ^ twisted[2 * first :]
    new[N - 1] = new[M - 1] ^ _twist(words[N - 1 :], new[:1])[0]
    return new


def _temper(words: U32) -> U32:
    """Tempering: the invertible mixing of the bits of each word that is given out."""
    y = words ^ (words >> np.uint32(11))
    y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
    y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
    y ^= y >> np.uint32(18)
    return y


def _count(shape: int | Sequence[int]) -> tuple[tuple[int, ...], int]:
    dimensions = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(d < 0 for d in dimensions):
        raise InvalidArgumentError(f"a shape has no negative sides, but this one is {dimensions}")
    return dimensions, math.prod(dimensions)


class Generator:
    """torch.Generator("cpu").manual_seed(seed), in NumPy.

    The sequence of calls matters as in torch: `normal` of fewer than 16 values makes them in pairs and keeps
    an unused second one for the next such call, even across calls of 16 and more.
    """

    def __init__(self, seed: int):
        self.seed = check_seed(seed)
        self._words = _seeded_words(self.seed)
        self._position = N  # words of the present 624 given out so far
        self._spare: float | None = None  # second value of a Box-Muller pair, not given out yet

    def random_words(self, n: int) -> U32:
        """The next n words of the twister, uint32 (n,)."""
        pieces: list[U32] = []
        while n > 0:
            if self._position == N:
                self._words, self._position = _next_words(self._words), 0
            piece = self._words[self._position : self._position + n]
            self._position += len(piece)
            n -= len(piece)
            pieces.append(piece)
        return _temper(np.concatenate(pieces)) if pieces else np.empty(0, np.uint32)

    def uniform(self, shape: int | Sequence[int]) -> F32:
        """float32 uniforms on [0, 1), multiples of 2^-24: torch.rand(shape)."""
        dimensions, n = _count(shape)
        low_bits = self.random_words(n) & np.uint32(0xFFFFFF)
        return (low_bits.astype(np.float32) * np.float32(2.0**-24)).reshape(dimensions)

    def _uniform_double(self, n: int) -> F64:
        """float64 uniforms on [0, 1), multiples of 2^-53; the first word of two is the upper one."""
        words = self.random_words(2 * n).astype(np.uint64)
        both = (words[0::2] << np.uint64(32)) | words[1::2]
        return (both & np.uint64(2**53 - 1)).astype(np.float64) * 2.0**-53

    def normal(self, shape: int | Sequence[int]) -> F32:
        """float32 standard normals: torch.randn(shape)."""
        dimensions, n = _count(shape)
        values = self._normal_pairs(n).astype(np.float32) if n < BLOCK else self._normal_blocks(n)
        return values.reshape(dimensions)

    def _normal_pairs(self, n: int) -> F64:
        """Fewer than 16 normals: pairs (cosine, sine) of 53-bit uniforms u, v; the radius is of 1 - v."""
        ready = [] if self._spare is None or n == 0 else [self._spare]
        missing = n - len(ready)
        if n > 0:
            self._spare = None
        if missing > 0:
            pairs = (missing + 1) // 2
            uniform = self._uniform_double(2 * pairs)
            radius = np.sqrt(-2.0 * log(1.0 - uniform[1::2]))  # 1 - v is exact, and never 0
            sine, cosine = sin_cos(TWO_PI * uniform[0::2])
            made = np.stack([radius * cosine, radius * sine], axis=1).ravel().tolist()
            ready += made[:missing]
            if missing % 2:
                self._spare = made[-1]
        return np.array(ready, np.float64) + 0.0  # torch adds the mean: -0.0 becomes 0.0

    def _normal_blocks(self, n: int) -> F32:
        """16 normals and more: each block of 16 uniforms x gives 8 pairs, from 1 - x[j] and x[j + 8].

        Where 16 does not divide n, the last 16 values are made anew, from 16 fresh uniforms.
        """
        values = self.uniform(n)
        whole = n - n % BLOCK
        values[:whole] = _box_muller(values[:whole])
        if whole < n:
            values[n - BLOCK :] = _box_muller(self.uniform(BLOCK))
        return values

    def get_state(self) -> dict[str, NDArray[Any]]:
        """All that is needed to go on from here: seed (), words (624,), position (), spare (0 or 1,)."""
        spare = [] if self._spare is None else [self._spare]
        return {
            "seed": np.array(self.seed, np.uint64),
            "words": self._words.copy(),
            "position": np.array(self._position, np.int64),
            "spare": np.array(spare, np.float64),
        }

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state of `get_state`. InvalidArgumentError, and no change, if it is not one."""
        expected = {"seed": (np.uint64, 0, 1), "words": (np.uint32, 1, N), "position": (np.int64, 0, 1)}
        for name, (dtype, rank, size) in expected.items():
            array = state.get(name)
            fits = isinstance(array, np.ndarray) and array.dtype == dtype
            if array is None or not fits or (array.ndim, array.size) != (rank, size):
                raise InvalidArgumentError(f"generator state: {name!r} is missing or of a wrong dtype or shape")
        spare = state.get("spare")
        if not isinstance(spare, np.ndarray) or spare.dtype != np.float64 or spare.shape not in ((0,), (1,)):
            raise InvalidArgumentError("generator state: 'spare' must be a float64 array of no or one value")
        position = int(state["position"])
        if not 0 <= position <= N or not np.isfinite(spare).all():
            raise InvalidArgumentError("generator state: 'position' or 'spare' is out of range")
        self.seed, self._position = int(state["seed"]), position
        self._words = state["words"].copy()
        self._spare = float(spare[0]) if spare.size else None


def _box_muller(uniform: F32) -> F32:
    """Blocks of 16 float32 uniforms -> 16 float32 normals each (the layout of torch's `normal_fill`)."""
    blocks = uniform.reshape(-1, 2, BLOCK // 2)
    radius = np.sqrt(np.float32(-2.0) * log_float32(np.float32(1.0) - blocks[:, 0]))  # of (0, 1], exact
    sine, cosine = sin_cos_float32(TWO_PI_F32 * blocks[:, 1])
    pairs = np.stack([radius * cosine, radius * sine], axis=1) + np.float32(0.0)  # the mean: -0.0 becomes 0.0
    return pairs.reshape(uniform.shape)
