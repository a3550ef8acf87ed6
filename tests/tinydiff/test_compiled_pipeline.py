"""Pipelines on compiled kernels: memory, threads, fork, and Ctrl-C in the middle of a step."""

from __future__ import annotations

import gc
import os
import signal
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import compiled_kernels, finish, start
from miniatures import write_folder
from numpy.typing import NDArray

import tinydiff
from tinydiff_kernels.compiled import program

CALL = {"num_inference_steps": 3, "width": 64, "height": 64, "output_type": "latent"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiled_kernels()
    return write_folder(tmp_path_factory.mktemp("models") / "sd1", "sd1")


@pytest.fixture(autouse=True)
def _all_threads_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """On every kernel, however little there is to do."""
    monkeypatch.setattr(program, "LITTLE_WORK", 0)


def opened(folder: Path, **options: Any) -> tinydiff.Pipeline:
    pipe = tinydiff.Pipeline.from_pretrained(folder, **options)
    assert pipe.unet.backend.name == "numba"
    return pipe


def latents(pipe: tinydiff.Pipeline, **options: Any) -> NDArray[np.float32]:
    found = pipe("a cat", **{**CALL, "seed": 5, **options}).images
    assert isinstance(found, np.ndarray)
    return found


def anonymous_memory() -> int:
    """Bytes of this process that no file holds."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_memory_does_not_grow_from_step_to_step(folder: Path, weights: str) -> None:
    """After the first two steps, which pack weights and plan: no more of Python's memory, and none of the system's."""
    pipe = opened(folder, weights=weights)
    latents(pipe)
    seen: list[tuple[int, int]] = []

    def look(*_: Any) -> None:
        gc.collect()
        seen.append((tracemalloc.get_traced_memory()[0], anonymous_memory()))

    tracemalloc.start()
    try:
        latents(pipe, num_inference_steps=22, callback_on_step_end=look, scheduler="Euler")
    finally:
        tracemalloc.stop()
    traced, resident = (np.array(x[2:]) for x in zip(*seen, strict=True))
    assert len(traced) == 20
    # `seen` itself, and a number in Python's list of seconds. What stays counts: threads that earlier tests have left
    # may hold a buffer at the moment of looking.
    assert traced[-5:].min() - traced[:5].min() < 20_000
    assert resident.max() - resident[0] < 300_000


def test_the_arena_is_one_for_all_networks_and_stays(folder: Path) -> None:
    pipe = opened(folder)
    latents(pipe, output_type="np")
    arena = pipe.unet.backend.arena
    assert arena is pipe.vae.backend.arena
    assert arena is pipe.text_encoder.backend.arena
    address = arena.address
    latents(pipe, output_type="np", seed=6)
    assert arena.address == address


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_two_pipelines_in_two_threads(folder: Path, weights: str) -> None:
    """As alone, to the bit, whatever the other one does."""
    pipes = [opened(folder, weights=weights, threads=threads) for threads in (2, 3)]
    alone = [latents(pipe, seed=seed) for seed, pipe in enumerate(pipes)]
    found: list[list[NDArray[np.float32]]] = [[], []]

    def work(index: int) -> None:
        found[index] += [latents(pipes[index], seed=index) for _ in range(4)]

    workers = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for mine, wanted in zip(found, alone, strict=True):
        assert len(mine) == 4
        assert all(np.array_equal(picture, wanted) for picture in mine)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_after_use_works(folder: Path) -> None:
    """The child has none of the pool's threads; it starts its own and gets the same bits."""
    pipe = opened(folder, threads=3)
    wanted = latents(pipe)
    end, here = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if np.array_equal(latents(pipe), wanted) else 2
        finally:
            os.write(here, bytes([code]))
            os._exit(0)
    os.close(here)
    with os.fdopen(end, "rb") as answer:
        assert answer.read() == b"\0"
    os.waitpid(child, 0)
    assert np.array_equal(latents(pipe), wanted)


# One step on 512 x 512 latents takes many minutes; the signal comes when the first kernel of a kind is at work.
IN_A_LARGE_STEP = """
import sys, threading
from tinydiff.cli import main
from tinydiff_kernels.compiled.backend import Compiled
from tinydiff_kernels.compiled.program import Program
launch, make, started = Program._launch, Compiled.make, []
def told(self, action, *given):
    if action.kernel == "{kernel}":
        if not started:
            threading.Timer(0.1, print, ["ready"], {{"flush": True}}).start()
        started.append(1)
    launch(self, action, *given)
def large(self, rows):
    if rows.grid.rows < 100_000:
        return make(self, rows)
    Program._launch = told
    try:
        return make(self, rows)
    finally:
        Program._launch = launch
        print(len(started), flush=True)
Compiled.make = large
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("kernel", ["attention_i8", "matmul_i8"])
def test_ctrl_c_in_the_middle_of_a_large_step(folder: Path, tmp_path: Path, kernel: str, threads: str) -> None:
    """Inside the very kernel: attention over 262144 tokens would take minutes, and no other one begins."""
    arguments = ("generate", "a", "--model", str(folder), "--size", "4096x4096", "--steps", "1", "--weights", "int8")
    code = IN_A_LARGE_STEP.format(kernel=kernel)
    process = start(tmp_path, *arguments, "--threads", threads, "-o", "x.png", code=code)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    result = finish(process)
    assert (result.code, result.err) == (130, "tinydiff: interrupted\n")
    assert int(result.out) <= {"attention_i8": 1, "matmul_i8": 20}[kernel]  # of a step's sixteen and two hundred
    assert not (tmp_path / "x.png").exists()
