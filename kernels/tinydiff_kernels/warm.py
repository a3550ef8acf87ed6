"""Compile all kernels before they are needed, in child processes: several at a time, and their memory is not ours.

A kernel compiles in about a second, and there are a dozen; Numba compiles one at a time in a process. Each child
takes a share of the operations and leaves them in the folder for compiled kernels; `complete` there says that all are
done.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinydiff_kernels import dispatch, native
from tinydiff_kernels.cpu import this_cpu
from tinydiff_kernels.errors import KernelError

MARKER = "complete"
Progress = Callable[[int, int], None]  # kernels done, kernels in all


def missing() -> bool:
    """Would the first picture have to wait for the compiler? Imports Numba where there is no library of kernels."""
    if native.library()[0] is not None:
        return False
    from tinydiff_kernels import _jit

    folder = _jit.settings().cache
    return folder is not None and not (folder / MARKER).exists()


def compile_all(progress: Progress | None = None, jobs: int | None = None) -> None:
    """Compile every kernel of the path in use and keep them. KernelError where a child fails."""
    from tinydiff_kernels import _jit

    folder, total, done = _jit.settings().cache, len(dispatch.COMPILED), 0
    if folder is None:
        raise KernelError(f"compiled kernels cannot be kept: {_jit.settings().note}")
    count = jobs or max(1, min(this_cpu().big_cores, 4))
    places = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-m", "tinydiff_kernels.warm"]
    children = [
        subprocess.Popen(
            [*command, str(share), str(count)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is ours to answer
        )
        for share in range(count)
    ]
    try:
        for child in children:
            for _ in child.stdout or ():
                done += 1
                if progress is not None:
                    progress(done, total)
            _, problem = child.communicate()
            if child.returncode:
                raise KernelError(f"compiling kernels failed: {problem.strip()[-2000:]}")
    finally:
        for child in children:
            child.kill()
            child.wait()
            for stream in (child.stdout, child.stderr):
                if stream is not None:
                    stream.close()
    (folder / MARKER).touch()


def load() -> None:
    """Load every kernel of the path in use, compiling what is missing: after this no call brings code into memory."""
    if native.library()[0] is not None:
        return
    from tinydiff_kernels import _numba

    if missing():
        compile_all()
    arguments = (_numba.types.int64,) * 3
    for operation in dispatch.COMPILED:
        kernel: Any = dispatch.kernel(operation)
        kernel.compile(arguments)


def _compile_share(share: int, of: int) -> None:
    from tinydiff_kernels import _jit, _numba

    path = _jit.settings().path
    # Numba files what it keeps under the signature as it was given; a call gives a tuple of types, and so do we.
    arguments = (_numba.types.int64,) * 3
    for operation in list(dispatch.COMPILED)[share::of]:
        _jit.jitted(dispatch.source(operation, path)).compile(arguments)
        print(operation, flush=True)


if __name__ == "__main__":
    _compile_share(int(sys.argv[1]), int(sys.argv[2]))
