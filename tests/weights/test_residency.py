"""Pages of mapped files are brought in and let go; mincore says which are in memory."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
from pathlib import Path

import numpy as np

from tinydiff_weights.residency import Region, address, bring_in, hold, let_go, regions, users
from tinydiff_weights.safetensors import SafetensorsFile, StoredTensor, open_safetensors
from tinydiff_weights.write import save_safetensors

NUMBERS = 1 << 18  # of each tensor: 1 MiB


class User:
    """Somebody who holds a model."""


def opened(folder: Path) -> SafetensorsFile:
    rng = np.random.default_rng(0)
    path = folder / "model.safetensors"
    save_safetensors(path, {n: rng.standard_normal((1024, NUMBERS // 1024), np.float32) for n in ("a", "b", "c")})
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)  # dirty pages cannot be dropped
    os.close(descriptor)
    return open_safetensors(path)


def pages_in(region: Region) -> float:
    """The share of a region that is in memory."""
    count = -(-region.nbytes // mmap.PAGESIZE)
    vector = (ctypes.c_ubyte * count)()
    start = address(region.mapping) + region.start
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(region.nbytes), vector) == 0
    return sum(byte & 1 for byte in vector) / count


def inner(tensor: StoredTensor) -> Region:
    """The pages of a tensor that it shares with no other."""
    (region,) = regions([tensor.raw])
    return Region(region.mapping, region.start + mmap.PAGESIZE, region.stop - mmap.PAGESIZE)


def test_pages_come_and_go(tmp_path: Path) -> None:
    file = opened(tmp_path)
    a, b = (inner(file.tensors[name]) for name in "ab")
    let_go(Region(file.mapping, 0, len(file.mapping)))
    assert pages_in(a) == pages_in(b) == 0
    bring_in(a)
    assert pages_in(a) == 1
    before = file.tensors["a"].raw.copy()
    let_go(a)
    assert pages_in(a) == 0
    np.testing.assert_array_equal(file.tensors["a"].raw, before)  # read again


def test_pages_of_another_user_stay(tmp_path: Path) -> None:
    file = opened(tmp_path)
    tensor = file.tensors["a"]
    region = inner(tensor)
    one, two = User(), User()
    hold([tensor.raw], one)
    hold([tensor.raw], two)
    assert users(file.mapping) == 2
    bring_in(region)
    let_go(region)
    assert pages_in(region) == 1
    del two
    gc.collect()
    assert users(file.mapping) == 1
    let_go(region)
    assert pages_in(region) == 0


def test_regions_join_neighbours_and_leave_memory_alone(tmp_path: Path) -> None:
    file = opened(tmp_path)
    a, b, c = (file.tensors[name].raw for name in "abc")
    (both,) = regions([b, a, a[:3]])
    assert both.nbytes >= 2 * 4 * NUMBERS
    assert len(regions([a, c])) == 2
    assert regions([np.zeros(9), a[:0]]) == []
    assert regions([a.T]) == regions([a])


def test_a_file_that_was_replaced_is_not_touched(tmp_path: Path) -> None:
    file = opened(tmp_path)
    region = inner(file.tensors["a"])
    other = tmp_path / "other"
    other.write_bytes(b"x" * file.size)
    os.replace(other, file.path)
    values = file.tensors["a"].raw.copy()
    let_go(region)
    np.testing.assert_array_equal(file.tensors["a"].raw, values)
