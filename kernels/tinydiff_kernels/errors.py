"""Errors of the kernels. A message says what, where, and what to do; callers may show it as it is."""

from __future__ import annotations

__all__ = ["CacheFolderError", "CheckedAccessError", "KernelError", "PathError", "TargetError"]


class KernelError(Exception):
    """Base of every error that this package raises on purpose."""


class PathError(KernelError, ValueError):
    """A kernel path that does not exist, or that this CPU cannot run."""


class CacheFolderError(KernelError, OSError):
    """The folder for compiled kernels could be written by others, so its content cannot be trusted."""


class TargetError(KernelError, RuntimeError):
    """Numba compiles for other CPU features than the chosen path needs."""


class CheckedAccessError(KernelError, IndexError):
    """A kernel compiled with TINYDIFF_CHECK=1 addressed memory outside the registered buffers."""
