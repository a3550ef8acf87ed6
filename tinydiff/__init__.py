"""tinydiff: Stable Diffusion on a phone's CPU, in Python that people can read.

    import tinydiff
    pipe = tinydiff.Pipeline.from_pretrained()  # the embedded model, or a path
    pipe("a red apple", seed=1).images[0].save("apple.png")

Names are imported when they are first used, so that `import tinydiff` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tinydiff._version import __version__

if TYPE_CHECKING:
    from tinydiff import errors as errors
    from tinydiff import schedulers as schedulers
    from tinydiff.api import Pipeline as Pipeline
    from tinydiff.conditioning import Conditioning as Conditioning
    from tinydiff.errors import TinyDiffError as TinyDiffError
    from tinydiff.pipeline import Output as Output

_HOMES = {
    "Conditioning": "tinydiff.conditioning",
    "Output": "tinydiff.pipeline",
    "Pipeline": "tinydiff.api",
    "TinyDiffError": "tinydiff.errors",
    "errors": "tinydiff.errors",
    "schedulers": "tinydiff.schedulers",
}
__all__ = ["Conditioning", "Output", "Pipeline", "TinyDiffError", "__version__", "errors", "schedulers"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tinydiff' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    return module if _HOMES[name] == f"tinydiff.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
