"""Every error a caller can meet, under one import. A message says what, where, and what to do."""

from __future__ import annotations

from pathlib import Path

from tinydiff_weights.errors import ModelFileError, TinyDiffError, UnsupportedModelError

__all__ = [
    "Cancelled",
    "InvalidArgumentError",
    "JournalError",
    "MemoryBudgetError",
    "ModelFileError",
    "NonFiniteError",
    "OutputError",
    "TinyDiffError",
    "UnsupportedModelError",
]


class InvalidArgumentError(TinyDiffError, ValueError):
    """An argument or flag has a value that cannot work; the message names it."""


class JournalError(TinyDiffError):
    """A journal cannot be written, or no picture can be gone on with from it: damaged, hostile, of another model."""

    def __init__(self, path: str | Path, reason: str, *, hint: str | None = None):
        self.path, self.reason, self.hint = str(path), reason, hint
        super().__init__(f"journal {self.path!r}: {reason}" + (f". {hint}" if hint else ""))


class MemoryBudgetError(TinyDiffError):
    """The picture does not fit into the memory allowed; raised before any work. `needed`: bytes that would do."""

    def __init__(self, reason: str, *, needed: int = 0, hint: str | None = None):
        self.reason, self.needed, self.hint = reason, needed, hint
        super().__init__(reason + (f". {hint}" if hint else ""))


class NonFiniteError(TinyDiffError):
    """A layer produced NaN or infinity; the message names the first one."""


class OutputError(TinyDiffError):
    """A result cannot be written (exists already, folder missing or read-only, disk full)."""


class Cancelled(TinyDiffError):
    """The work was stopped through `Pipeline.cancel()` or Ctrl-C."""
