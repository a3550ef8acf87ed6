"""Figures against those that are kept: what grew by more than 1 %, or is new or gone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

KEPT = Path(__file__).with_name("figures.json")
TOLERANCE = 0.01
EXACT = ("functions",)  # sections of small whole numbers
Figures = Mapping[str, Mapping[str, float]]


def read() -> tuple[Figures, Mapping[str, str]]:
    """(section -> name -> figure, versions of the compilers that made them)."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    return kept["figures"], kept["made_with"]


def write(figures: Figures, made_with: Mapping[str, str]) -> None:
    KEPT.write_text(json.dumps({"made_with": made_with, "figures": figures}, indent=1) + "\n", encoding="utf-8")


def changes(kept: Figures, found: Figures) -> list[str]:
    """A line for each figure that is out of bounds, down as well as up: one that fell is to be kept from rising
    again."""
    lines = []
    for section in sorted({*kept, *found}):
        before, now = kept.get(section, {}), found.get(section, {})
        for name in sorted({*before, *now}):
            if name not in before or name not in now:
                lines.append(f"{section}: {name}: {'new' if name in now else 'gone'}")
            elif _differs(section, before[name], now[name]):
                share = f"{now[name] / before[name] - 1:+.1%}" if before[name] else "was 0"
                lines.append(f"{section}: {name}: {before[name]:,} -> {now[name]:,} ({share})")
    return lines


def _differs(section: str, before: float, now: float) -> bool:
    return abs(now - before) > (0 if section in EXACT else TOLERANCE * before)
