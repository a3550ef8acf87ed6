"""Typed access to the values of a config.json, with sizes bounded; every complaint names file and key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tinydiff.errors import ModelFileError, UnsupportedModelError

LARGEST = 1 << 20  # no width, depth or count of any model comes near it; a hostile file might
DEEPEST = 100  # layers in one place of any model


class Reader:
    """Typed access to a JSON object; every complaint names file and key."""

    def __init__(self, raw: Mapping[str, Any], path: str | Path) -> None:
        self.raw, self.path = raw, path

    def fail(self, key: str, wanted: str) -> ModelFileError:
        return ModelFileError(self.path, f"config key {key!r} is {self.raw.get(key)!r:.80}, not {wanted}")

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = LARGEST) -> int:
        value = self.raw.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(key, f"a whole number from {low} to {high}")
        return value

    def optional_integer(self, key: str) -> int | None:
        return None if self.raw.get(key) is None else self.integer(key)

    def number(self, key: str, default: float, *, low: float = -1e30) -> float:
        value = self.raw.get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value < 1e30:
            raise self.fail(key, "a finite number" + ("" if low < -1 else f" from {low:g}"))
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def choice(self, key: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.raw.get(key, default)
        if value not in allowed:
            raise UnsupportedModelError(
                f"{str(self.path)!r}: config key {key!r} = {value!r:.80} is not supported, only {', '.join(allowed)}"
            )
        return cast("str", value)

    def texts(self, key: str, default: tuple[str, ...], allowed: tuple[str, ...]) -> tuple[str, ...]:
        value = self.raw.get(key, default)
        if not isinstance(value, (list, tuple)) or not 0 < len(value) <= 16:
            raise self.fail(key, "a list of names")
        for item in value:
            if item not in allowed:
                raise UnsupportedModelError(
                    f"{str(self.path)!r}: {item!r:.80} in config key {key!r} is not supported, "
                    f"only {', '.join(allowed)}"
                )
        return tuple(value)

    def integers(self, key: str, default: Any, count: int | None = None, *, high: int = LARGEST) -> tuple[int, ...]:
        """A list of `count` numbers, or one number for all."""
        value = self.raw.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and count is not None:
            value = [value] * count
        good = isinstance(value, (list, tuple)) and 0 < len(value) <= 16 and count in (None, len(value))
        if not good or not all(isinstance(v, int) and not isinstance(v, bool) and 0 < v <= high for v in value):
            raise self.fail(key, f"a list of whole numbers from 1 to {high}" + (f", {count} of them" if count else ""))
        return tuple(value)
