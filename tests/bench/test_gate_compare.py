"""What the regression gate calls a change."""

from __future__ import annotations

import pytest

from bench.gate import compare
from bench.gate.builds import BUILDS

KEPT = {"instructions": {"a": 1000, "b": 50}, "functions": {"avx2": 300}}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"instructions": {"a": 1010, "b": 50}, "functions": {"avx2": 300}}, []),
        (
            {"instructions": {"a": 1011, "b": 50}, "functions": {"avx2": 300}},
            ["instructions: a: 1,000 -> 1,011 (+1.1%)"],
        ),
        ({"instructions": {"a": 900, "b": 50}, "functions": {"avx2": 300}}, ["instructions: a: 1,000 -> 900 (-10.0%)"]),
        ({"instructions": {"a": 1000, "b": 50}, "functions": {"avx2": 301}}, ["functions: avx2: 300 -> 301 (+0.3%)"]),
        (
            {"instructions": {"a": 1000, "c": 1}, "functions": {"avx2": 300}},
            ["instructions: b: gone", "instructions: c: new"],
        ),
    ],
)
def test_changes(found: compare.Figures, expected: list[str]) -> None:
    assert compare.changes(KEPT, found) == expected


def test_the_kept_figures_cover_every_kernel() -> None:
    """Of each build all that it has: a kernel without a call is not counted."""
    figures, made_with = compare.read()
    assert {build.path for build in BUILDS} == set(figures["functions"])
    for build in BUILDS:
        counted = {name.split()[1] for name in figures["instructions"] if name.startswith(f"{build.path} ")}
        assert counted == set(build.operations)
    assert {"numba", "llvmlite"} == set(made_with)
    assert all(value > 0 for section in figures.values() for value in section.values())
