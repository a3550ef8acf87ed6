"""Errors of files and models, and the base of every error this project raises.

The base lives here because `weights` may import nothing of `tinydiff`; `tinydiff.errors` re-exports it.
A message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path


class TinyDiffError(Exception):
    """Base of every error that tinydiff raises on purpose."""


class ModelFileError(TinyDiffError):
    """A file cannot be used as it is: damaged, truncated, hostile, missing, or missing a tensor."""

    def __init__(self, path: str | Path, reason: str, *, tensor: str | None = None, hint: str | None = None):
        self.path, self.reason, self.tensor, self.hint = str(path), reason, tensor, hint
        where = f"{self.path!r}" if tensor is None else f"{self.path!r}, tensor {tensor!r}"
        super().__init__(f"{where}: {reason}" + (f". {hint}" if hint else ""))


class UnsupportedModelError(TinyDiffError):
    """A healthy file of something that tinydiff does not run (a LoRA, SD3, an unknown config key ...)."""


@contextlib.contextmanager
def worded(path: str | Path, what: str = "written") -> Iterator[None]:
    """What the system refuses while a file is `what` (read, written), as ModelFileError."""
    try:
        yield
    except FileExistsError:
        raise ModelFileError(path, "exists", hint="Choose another name, or --force to replace it") from None
    except OSError as error:
        hint = "Free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else None
        raise ModelFileError(path, f"cannot be {what}: {error.strerror or error}", hint=hint) from error
    except MemoryError as error:
        raise ModelFileError(path, f"cannot be {what}: out of memory", hint="Close other programs") from error
