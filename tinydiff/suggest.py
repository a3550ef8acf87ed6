"""Unknown names are refused with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from tinydiff.errors import InvalidArgumentError


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name` (case aside), or None if none is like it."""
    by_lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def unknown(what: str, name: object, known: Iterable[str]) -> InvalidArgumentError:
    """The error for a name (or something that is none) that is not among `known`."""
    known = list(known)
    like = nearest(name, known) if isinstance(name, str) else None
    hint = f"did you mean {like!r}?" if like else f"known are {', '.join(known)}"
    return InvalidArgumentError(f"unknown {what} {name!r}: {hint}")
