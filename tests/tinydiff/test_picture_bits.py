"""Whole pictures of the embedded model have the same bits on every path of this CPU and for every number of threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from typing import Any

import pytest
from cli_tools import ROOTS, compiled_kernels

from tinydiff_kernels import cpu, dispatch

PROGRAM = """
import hashlib, json, sys
import numpy as np
import tinydiff
from tinydiff_kernels import dispatch
from tinydiff_kernels.compiled import program
program.LITTLE_WORK = 0  # all threads work on every kernel
found, kernels = {}, set()
for name, weights, call in json.loads(sys.argv[1]):
    for threads in json.loads(sys.argv[2]):
        pipe = tinydiff.Pipeline.from_pretrained(weights=weights, threads=threads)
        out = pipe("a red apple", seed=1, **call)
        assert np.isfinite(out.images).all() and out.images.std() > 0.05
        found[f"{name}, {threads} threads"] = hashlib.sha256(out.images.tobytes()).hexdigest()
    made = (action for one in pipe.unet.backend.programs.values() for action in one.actions)
    kernels |= {action.kernel for action in made if isinstance(action, program.Launch)}
print(json.dumps({"path": dispatch.choose().path.name, "bits": found, "kernels": sorted(kernels)}))
"""
HERE = [path.name for path in dispatch.available(cpu.detect())]  # without what TINYDIFF_PATH may say
THREADS = (1, 2, 3, 5)
SMALL = {"num_inference_steps": 2, "width": 64, "height": 64, "output_type": "np"}
LONG = {"num_inference_steps": 1, "width": 256, "height": 256, "output_type": "latent"}  # attention in integers
PICTURES = (("float32", "float32", SMALL), ("int8", "int8", SMALL), ("long", "int8", LONG))


def child(*arguments: str, **variables: str) -> str:
    """What a Python of its own prints; its kernels are kept where the tests' own are."""
    base = {n: v for n, v in os.environ.items() if not n.startswith(("TINYDIFF_", "NUMBA_"))}
    environment = base | {"PYTHONPATH": os.pathsep.join(ROOTS)} | variables
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def pictures(*threads: int, what: Any = PICTURES, **variables: str) -> dict[str, Any]:
    """Path, hashes of pictures, and the UNet's kernels."""
    found: dict[str, Any] = json.loads(child("-c", PROGRAM, json.dumps(what), json.dumps(threads), **variables))
    return found


@lru_cache(maxsize=1)
def of_this_machine() -> dict[str, str]:
    """With the path that is chosen here, for all numbers of threads."""
    compiled_kernels()
    found = pictures(*THREADS)
    assert found["path"] == HERE[0]
    assert {"attention_f32", "attention_i8"} <= set(found["kernels"])
    bits: dict[str, str] = found["bits"]
    return bits


@pytest.mark.parametrize("picture", [name for name, *_ in PICTURES])
def test_threads(picture: str) -> None:
    found = [bits for name, bits in of_this_machine().items() if name.startswith(picture)]
    assert len(found) == len(THREADS)
    assert len(set(found)) == 1


def test_the_pictures_differ() -> None:
    assert len(set(of_this_machine().values())) == len(PICTURES)


@pytest.mark.parametrize("path", HERE[1:])
def test_paths(path: str) -> None:
    found = pictures(2, TINYDIFF_PATH=path)
    assert found["path"] == path
    assert found["bits"].items() <= of_this_machine().items()


def test_a_machine_without_extensions() -> None:
    """As a CPU of the architecture's first level: no FMA, whose bits are then computed in float64."""
    found = pictures(2, NUMBA_CPU_NAME="x86-64")
    assert found["path"] == "generic"
    assert found["bits"].items() <= of_this_machine().items()


OVERREACHING = """
import numpy as np
from tinydiff_kernels.compiled import build
from tinydiff_kernels.compiled.backend import Compiled
from tinydiff_kernels.errors import CheckedAccessError
from tinydiff_kernels.rows import Grid, Rows
room = build.Builder.room
build.Builder.room = lambda self, nbytes: room(self, nbytes - {less})
x = Rows(Grid(1, 1, 50), 16, np.ones((50, 16), np.float32))
backend = Compiled(lambda weight: "f32")
try:
    print(backend.affine(backend.affine(x, 2, 1), 2, 1).array.sum())
except CheckedAccessError as error:
    print(error)
"""


def test_checked_kernels_see_a_buffer_that_is_too_small() -> None:
    for less, words in ((0, "5600.0"), (64, "a kernel tried to store ")):
        said = child("-c", OVERREACHING.format(less=less), TINYDIFF_CHECK="1")
        assert said.startswith(words)


def test_checked_kernels_stay_in_their_buffers() -> None:
    """TINYDIFF_CHECK=1 looks every address up: of each launch only its own buffers are allowed. Checked kernels are
    compiled anew; those of attention in integers have a test of their own (test_attention_i8.py)."""
    found = pictures(2, what=PICTURES[:2], TINYDIFF_CHECK="1")
    assert found["bits"].items() <= of_this_machine().items()
