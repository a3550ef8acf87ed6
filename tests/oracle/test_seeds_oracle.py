"""Our generator against torch's, live: words, uniforms and normals, over shapes, tails and sequences of calls."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tinydiff.rng import Generator, batch_generators

PAIRS = 1000
FIXED_SHAPES = [(0,), (1,), (2,), (3,), (15,), (16,), (17,), (31,), (32,), (33,), (623,), (624,), (625,), (2, 0, 3)]
AVX2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")  # which normals torch makes here


def _cases() -> list[tuple[int, tuple[int, ...]]]:
    """(seed, shape): small seeds, large ones, both ends; shapes below and above 16 with every tail."""
    choose = random.Random(20240607)
    seeds = [0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1]
    cases = [(seed, shape) for seed in seeds for shape in FIXED_SHAPES]
    while len(cases) < PAIRS:
        seed = choose.choice([choose.getrandbits(16), choose.getrandbits(32), choose.getrandbits(64)])
        kind = choose.randrange(4)
        if kind == 0:
            shape: tuple[int, ...] = (choose.randrange(0, 16),)
        elif kind == 1:
            shape = (choose.randrange(16, 700),)
        elif kind == 2:
            shape = tuple(choose.randrange(1, 7) for _ in range(choose.randrange(0, 5)))
        else:
            shape = (1, 4, choose.randrange(1, 65), choose.randrange(1, 65))
        cases.append((seed, shape))
    return cases


def _torch(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def _words(generator: torch.Generator, n: int) -> np.ndarray:
    """torch's raw 32-bit words, n even: int64 over its full range is two words, the upper one drawn first."""
    both = torch.empty(n // 2, dtype=torch.int64).random_(-(2**63), None, generator=generator).numpy().view(np.uint64)
    return np.stack([both >> np.uint64(32), both & np.uint64(2**32 - 1)], axis=1).ravel().astype(np.uint32)


def _assert_normals(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    if ours.size < 16 or AVX2:
        np.testing.assert_array_equal(ours, theirs)
    else:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2.5e-6)


def test_a_thousand_seeds_and_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    cases = _cases()
    values = 0
    for seed, shape in cases:
        np.testing.assert_array_equal(Generator(seed).uniform(shape), torch.rand(shape, generator=_torch(seed)).numpy())
        normals = Generator(seed).normal(shape)
        _assert_normals(normals, torch.randn(shape, generator=_torch(seed)).numpy())
        values += normals.size
    with capsys.disabled():
        path = "AVX2" if AVX2 else "plain"
        print(f"\nseed parity: {len(cases)} pairs, {values} uniforms and normals, torch path {path}")
    assert len(cases) == PAIRS


@pytest.mark.parametrize("seed", [0, 1, 7, 2**32 - 1, 2**32 + 7, 2**64 - 1])
def test_words(seed: int) -> None:
    theirs = _words(_torch(seed), 3000)
    np.testing.assert_array_equal(Generator(seed).random_words(3000), theirs)


def test_sequences_of_calls_share_the_spare_value() -> None:
    """Random mixtures of calls on one generator: pairs are cached across calls exactly as torch does."""
    choose = random.Random(5)
    for seed in range(200):
        ours, theirs = Generator(seed), _torch(seed)
        for _ in range(12):
            shape = (choose.choice([0, 1, 2, 3, 5, 8, 15, 16, 17, 40, 641]),)
            if choose.random() < 0.3:
                np.testing.assert_array_equal(ours.uniform(shape), torch.rand(shape, generator=theirs).numpy())
            else:
                _assert_normals(ours.normal(shape), torch.randn(shape, generator=theirs).numpy())


def test_small_normals_are_exact_over_many_values() -> None:
    wrong = total = 0
    for seed in range(8000):
        ours = Generator(seed).normal(15)
        wrong += int((ours != torch.randn(15, generator=_torch(seed)).numpy()).sum())
        total += ours.size
    assert (wrong, total) == (0, 120_000)


def test_batch_of_diffusers() -> None:
    """diffusers' `randn_tensor` with a list of generators, seeds 7, 8, 9."""
    from diffusers.utils.torch_utils import randn_tensor

    theirs = randn_tensor((3, 4, 9, 7), generator=[_torch(7 + i) for i in range(3)]).numpy()
    ours = np.concatenate([g.normal((1, 4, 9, 7)) for g in batch_generators(7, 3)])
    _assert_normals(ours, theirs)


@pytest.mark.parametrize(("capability", "tolerance"), [("default", 2.5e-6), ("avx2", 0.0)])
def test_both_builds_of_torch(
    capability: str, tolerance: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch chooses its normals by CPU: make them by both of its builds and state how far ours are from each."""
    if capability == "avx2" and not AVX2:
        capability, tolerance = "default", 2.5e-6  # a CPU without AVX2 has one build only
    script = (
        "import numpy, sys, torch\n"
        "g = [torch.Generator().manual_seed(s) for s in range(50)]\n"
        "numpy.save(sys.argv[1], numpy.stack([torch.randn(4096, generator=x).numpy() for x in g]))\n"
    )
    target = tmp_path / "normals.npy"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script, str(target)], check=True, env=environment, timeout=120)
    theirs = np.load(target)
    ours = np.stack([Generator(seed).normal(4096) for seed in range(50)])
    difference = float(np.abs(ours - theirs).max())
    with capsys.disabled():
        print(f"\ntorch {capability}: largest difference {difference:.3g}, unequal {np.mean(ours != theirs):.1%}")
    assert difference <= tolerance
