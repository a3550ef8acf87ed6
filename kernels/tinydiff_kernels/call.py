"""Run a kernel whose operands are arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff_kernels import checked, pool, words

Kernel = Callable[[int, int, int], None]
Array = NDArray[Any]


def run(
    kernel: Kernel,
    count: int,
    fields: Mapping[int, Any],
    written: Sequence[Array],
    *,
    threads: int | None = None,
    cancel: NDArray[np.int32] | None = None,
) -> None:
    """A descriptor of `count` words filled with `fields`; `written` are the arrays that the kernel writes to.

    Checked kernels may touch the arrays among the fields and in `written` and nothing else; for a view, all of the
    array that it is a view of.
    """
    desc = words.filled(count, fields)
    if not checked.active():
        pool.run(kernel, desc, threads=threads, cancel=cancel)
        return
    targets = [_whole(x) for x in written if x.size]
    read = [_whole(x) for x in fields.values() if isinstance(x, np.ndarray) and x.size]
    with checked.buffers(*read, writable=targets):
        pool.run(kernel, desc, threads=threads, cancel=cancel)


def _whole(x: Array) -> Array:
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x
