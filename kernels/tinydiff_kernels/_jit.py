"""The one place that decides how kernels are compiled in this process, and where compiled ones are kept.

Policy: `nogil` (threads of one pool run kernels at the same time), `error_model="numpy"` (no branch for division
by zero), never `fastmath` (bits must not depend on the compiler's mood), no bounds check (kernels use raw
addresses; TINYDIFF_CHECK=1 checks those). Kernels are plain functions; `jitted` compiles one for the path in
use, `aot.py` the same one for any machine.

The CPU's features are handed to LLVM before the first compilation, because LLVM's own detection misses dotprod
and i8mm on ARM, and because code for a path must be the same on every machine that runs it.

Numba's cache notices a change in a kernel's own file only, and its files are pickles. So the folder's name is a
hash of everything that matters, and a folder that others can write to is refused.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tinydiff_kernels import _numba, checked, dispatch
from tinydiff_kernels.cpu import this_cpu
from tinydiff_kernels.errors import CacheFolderError, TargetError
from tinydiff_kernels.source_hash import source_hash

Kernel = Callable[[int, int, int], None]
CACHE_VARIABLE = "XDG_CACHE_HOME"


@dataclass(frozen=True, slots=True)
class Settings:
    """How this process compiles. `cache` is None where nothing can be kept; `note` says why."""

    path: dispatch.Path
    why: str
    features: str
    cache: Path | None
    note: str


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/tinydiff`, or `~/.cache/tinydiff`."""
    base = os.environ.get(CACHE_VARIABLE, "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "tinydiff"


def cache_key(path: dispatch.Path, features: str) -> str:
    """Name of the folder for compiled kernels: path, then a hash of all that the machine code depends on."""
    cpu = this_cpu()
    parts = (
        source_hash(),
        str(Path(__file__).parent),  # Numba keeps what it compiled by the place of its source
        _numba.version,
        _numba.llvmlite_version,
        platform.python_implementation() + platform.python_version(),
        cpu.arch,
        cpu.model,
        ",".join(sorted(cpu.features)),
        path.llvm_cpu(cpu.arch),
        features,
        path.name,
    )
    return f"{path.name}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:20]}"


def _refuse_foreign(folder: Path, *, ours: bool) -> None:
    """Files in this folder will be executed: nobody else may be able to put them there."""
    status = folder.lstat()
    fix = f"remove it, or: chmod 700 {folder}; or set {CACHE_VARIABLE} to a folder of your own"
    if not stat.S_ISDIR(status.st_mode):
        raise CacheFolderError(f"{folder} is not a folder; kernels cannot be kept there: {fix}")
    if ours and hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise CacheFolderError(f"{folder} belongs to another user; compiled kernels there cannot be trusted: {fix}")
    writable = 0o022 if ours else 0o002
    if status.st_mode & writable and not (not ours and status.st_mode & stat.S_ISVTX):
        raise CacheFolderError(f"others can write to {folder}; compiled kernels there cannot be trusted: {fix}")


def prepare_folder(root: Path, key: str) -> Path:
    """Create root/kernels/key with mode 0700. CacheFolderError where others could write, OSError where we cannot."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_foreign(root.resolve(), ours=False)
    folder = root / "kernels"
    for step in (folder, folder / key):
        step.mkdir(mode=0o700, exist_ok=True)
        _refuse_foreign(step, ours=True)
    return folder / key


def _claim_target(choice: dispatch.Choice) -> str:
    """Hand the path's features to LLVM; the features that Numba really compiles for.

    Numba makes one code generator for the process. Where other code has compiled something first, its
    features stand: right for us if they include the path's, but a forced path must be what runs.
    """
    path = choice.path
    _numba.config.CPU_NAME = path.llvm_cpu(this_cpu().arch)
    _numba.config.CPU_FEATURES = path.llvm_features
    _, _, actual = _numba.cpu_target.target_context.codegen().magic_tuple()
    if actual != path.llvm_features:
        has = {word.lstrip("+") for word in str(actual).split(",") if not word.startswith("-")}
        forced = bool(os.environ.get(dispatch.PATH_VARIABLE))
        if forced or not has.issuperset(path.features):
            raise TargetError(
                f"Numba already compiles for other CPU features than the path {path.name} needs;"
                " use tinydiff before other code that uses Numba in this process"
            )
    return str(actual)


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Decide once: path, features, cache folder. Raises PathError, TargetError or CacheFolderError."""
    choice = dispatch.choose()
    features = _claim_target(choice)
    if checked.asked():
        return Settings(choice.path, choice.why, features, None, "checked kernels are not kept")
    try:
        folder = prepare_folder(cache_root(), cache_key(choice.path, features))
    except CacheFolderError:
        raise
    except OSError as error:
        return Settings(choice.path, choice.why, features, None, f"no cache folder: {error}")
    return Settings(choice.path, choice.why, features, folder, f"kept in {folder}")


@lru_cache(maxsize=256)
def jitted(function: Callable[..., None]) -> Any:
    """A kernel compiled by policy, at its first call. Called with int64 addresses; releases the interpreter's lock."""
    chosen = settings()
    before = _numba.config.CACHE_DIR
    try:
        if chosen.cache is not None:
            _numba.config.CACHE_DIR = str(chosen.cache)  # read when the function is decorated
        return _numba.njit(
            nogil=True, error_model="numpy", fastmath=False, boundscheck=False, cache=chosen.cache is not None
        )(function)
    finally:
        _numba.config.CACHE_DIR = before
