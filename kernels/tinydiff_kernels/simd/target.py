"""What the code being compiled may use: the instruction sets in LLVM's feature string, and checking."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tinydiff_kernels.checked import asked


@dataclass(frozen=True, slots=True)
class Target:
    """`features` are LLVM's names of instruction sets; `checked` compiles a check before every memory access."""

    features: frozenset[str]
    checked: bool
    ahead: bool  # compiled ahead of time: no address of this process may be in the code


@lru_cache(maxsize=64)
def _parse(features: str, checked: bool, ahead: bool) -> Target:
    """LLVM reads "+avx2,-sse4a" from left to right; the last word on a feature counts."""
    known: set[str] = set()
    for word in features.split(","):
        (known.discard if word.startswith("-") else known.add)(word.lstrip("+-"))
    return Target(frozenset(known - {""}), checked, ahead)


def target_of(context: Any) -> Target:
    """The target of a Numba compilation. The code generator is asked, so the answer cannot disagree with LLVM."""
    generator = context.codegen()
    _, _, features = generator.magic_tuple()
    ahead = getattr(generator, "tinydiff_ahead", False)
    checked = getattr(generator, "tinydiff_checked", None)
    return _parse(features, asked() if checked is None else checked, ahead)
