"""Programs without weights are those that run: the same launches, the same words, the same arena."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from miniatures import UNETS, VAES, class_name, network, random_tensors

from tinydiff_kernels.compiled.backend import Compiled
from tinydiff_kernels.compiled.dry import Dry
from tinydiff_kernels.compiled.program import Launch, Program
from tinydiff_kernels.handles import MatmulWeight
from tinydiff_kernels.matmul.packing import Kind

KINDS: tuple[Kind, ...] = ("f32", "f16", "i8", "i8_limited", "i4")


def kind_of(weight: MatmulWeight) -> Kind:
    """All kinds in one network."""
    return KINDS[sum(weight.name.encode()) % len(KINDS)]


def described(program: Program) -> list[Any]:
    """Everything but addresses."""
    found: list[Any] = [program.arena_bytes, [(v.grid, v.channels) for v in program.outputs]]
    for action in program.actions:
        if not isinstance(action, Launch):
            found.append(("host", action.step))
            continue
        addresses = {c.ctypes.data for c in action.constants}
        linked = {link.word for link in action.links}  # filled in by a run
        words = [0 if w in addresses or i in linked else w for i, w in enumerate(action.words.tolist())]
        links = [(k.word, k.add, k.buffer.place, k.buffer.life.offset, k.buffer.life.nbytes) for k in action.links]
        shapes = [(c.shape, c.dtype.str) for c in action.constants]
        found.append((action.kernel, words, links, shapes, action.step, action.work))
    return found


def run(name: str, backend: Any, *, declared: bool) -> list[Program]:
    config = UNETS[name] if name in UNETS else VAES[name]
    tensors = None if declared else random_tensors(class_name(config), config, 0)
    built = network(config, tensors, backend)
    rng = np.random.default_rng(0)
    sample = rng.normal(size=(2, 4, 8, 12)).astype(np.float32)
    if name in VAES:
        built.decode(sample)
    else:
        built(sample, 500.0, rng.normal(size=(2, 77, config["cross_attention_dim"])).astype(np.float32))
    return list(backend.programs.values())


@pytest.mark.parametrize("name", ["sd1", "kl"])
def test_dry_programs_are_those_that_run(name: str) -> None:
    real = run(name, Compiled(kind_of, threads=2), declared=False)
    dry = run(name, Dry(kind_of, threads=2), declared=True)
    assert len(real) == len(dry) > 0
    kernels = {a.kernel for program in dry for a in program.actions if isinstance(a, Launch)}
    assert {f"matmul_{kind}" for kind in KINDS} <= kernels
    for one, other in zip(real, dry, strict=True):
        assert described(one) == described(other)
