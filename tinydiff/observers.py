"""What looks at every operation as it runs: the cancel token and the watchdog. No model and no kernel knows."""

from __future__ import annotations

import numpy as np

from tinydiff.errors import Cancelled, NonFiniteError
from tinydiff_kernels.operations import Operation
from tinydiff_kernels.rows import Rows


class CancelToken:
    """Read between operations. The word is an int32 in memory, so that kernels can read it too."""

    def __init__(self) -> None:
        self.word = np.zeros(1, np.int32)

    def cancel(self) -> None:
        """Stop the work after the current operation. Safe from signal handlers and other threads."""
        self.word[0] = 1

    def clear(self) -> None:
        self.word[0] = 0

    def before(self, operation: Operation) -> None:
        if self.word[0]:
            raise Cancelled("stopped on request")

    def after(self, operation: Operation, result: Rows) -> None:
        pass


class Watchdog:
    """Names the first layer whose output holds NaN or infinity, instead of a black picture at the end."""

    def __init__(self, component: str) -> None:
        self.component = component

    def before(self, operation: Operation) -> None:
        pass

    def after(self, operation: Operation, result: Rows) -> None:
        if result.data is None or np.isfinite(result.data).all():
            return
        layers = ", ".join(w.name for w in operation.weights()) or operation.kind
        what = "NaN" if np.isnan(result.data).any() else "infinity"
        bad = [w.name for w in operation.weights() if not np.isfinite(w.weight.float32()).all()]
        cause = "its weights are not finite: the file is damaged" if bad else "values left the range of its precision"
        raise NonFiniteError(f"{self.component}: layer {layers!r} produced {what}; {cause}")
