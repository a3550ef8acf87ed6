"""Mixed precision: the choice fits, spends its bytes where they help, and is close to the best there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydiff.bits import choose_bits
from tinydiff.errors import InvalidArgumentError

LAYERS = st.lists(
    st.tuples(st.integers(1, 50), st.integers(1, 50), st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=7
)


@settings(deadline=None, max_examples=100)
@given(LAYERS, st.floats(0, 1))
def test_close_to_the_best_choice(layers: list[tuple[int, int, float, float]], share: float) -> None:
    """The best of all choices is better by less than the largest single step."""
    sizes = {str(i): {"i4": a, "i8": b} for i, (a, b, _, _) in enumerate(layers)}
    losses = {str(i): {"i4": max(x, y), "i8": min(x, y)} for i, (_, _, x, y) in enumerate(layers)}
    least, most = (sum(pick(s.values()) for s in sizes.values()) for pick in (min, max))
    target = least + int(share * (most - least))
    found = choose_bits(losses, sizes, target)

    def size(kinds: dict[str, str]) -> int:
        return sum(sizes[n][k] for n, k in kinds.items())

    def loss(kinds: dict[str, str]) -> float:
        return sum(losses[n][k] for n, k in kinds.items())

    every = [dict(zip(sizes, kinds, strict=True)) for kinds in product(("i4", "i8"), repeat=len(sizes))]
    best = min(loss(kinds) for kinds in every if size(kinds) <= target)
    assert size(found) <= target
    assert loss(found) <= best + max(row["i4"] - row["i8"] for row in losses.values()) + 1e-9


def test_too_small_a_target() -> None:
    with pytest.raises(InvalidArgumentError, match=r"target 1\.0 MB: the layers alone take 2\.0 MB"):
        choose_bits({"a": {"i4": 1.0}}, {"a": {"i4": 2**21}}, 2**20)


def test_the_most_sensitive_layer_comes_first() -> None:
    rng = np.random.default_rng(0)
    losses = {str(i): {"i4": float(x), "i8": float(x) / 100} for i, x in enumerate(rng.permutation(20) + 1)}
    sizes = {name: {"i4": 10, "i8": 20} for name in losses}
    kinds = choose_bits(losses, sizes, 250)
    chosen = {name for name, kind in kinds.items() if kind == "i8"}
    assert chosen == set(sorted(losses, key=lambda n: -losses[n]["i4"])[:5])
