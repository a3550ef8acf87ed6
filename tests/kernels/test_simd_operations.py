"""Every SIMD operation on every path that this CPU runs, against NumPy to the bit; what the other paths compile to."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import re
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import simd_data
import simd_kernels

from tinydiff_kernels import aot, checked, cpu, dispatch
from tinydiff_kernels.errors import KernelError
from tinydiff_kernels.simd import define
from tinydiff_kernels.simd.table import TABLE

ARCH = cpu.this_cpu().arch
PATHS = [path.name for path in dispatch.available()]
NAMES = [name for name in simd_kernels.KERNELS if not name.startswith("function_")]
ELSEWHERE = {  # path -> instructions that its code for `dots` must contain
    "avx512vnni": (r"vpdpbusd\s.*%zmm", r"vpdpbusd\s.*%ymm", r"vpmaddwd\s.*%zmm"),
    "avxvnni": (r"{vex}\s+vpdpbusd\s.*%ymm",),
    "avx2": (r"vpmaddubsw\s.*%ymm", r"vpmaddwd\s.*%ymm"),
    "neon": (r"smull2?\s", r"sadalp\s", r"addp\s"),
    "dotprod": (r"sdot\s", r"udot\s"),
    "i8mm": (r"usdot\s", r"sdot\s", r"udot\s"),
}
used: set[str] = set()


@lru_cache(maxsize=8)
def compiled(path: str) -> aot.Loaded:
    """All kernels of a path but the polynomials, in this process. Records which rows of the table they used."""
    original = define.choose

    def recording(operation: str, target: Any) -> Any:
        used.add(operation)
        return original(operation, target)

    machine = aot.Machine.of(dispatch.BY_NAME[path], ARCH)
    define.choose = recording
    try:
        made = aot.compile_object({name: simd_kernels.EXPORTS[name] for name in NAMES}, machine)
    finally:
        define.choose = original
    assert made.undefined == []
    return aot.Loaded(made.object, NAMES)


@lru_cache(maxsize=64)
def case_of(name: str) -> simd_data.Case:
    return simd_data.case(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", PATHS)
def test_operation_gives_numpys_bits(path: str, name: str) -> None:
    made = case_of(name)
    got = simd_data.run(compiled(path).function(name, 5), made)
    assert simd_data.flat_differences(got, made.expected) == []


def test_every_row_of_the_table_was_used() -> None:
    compiled("generic")
    assert sorted(set(TABLE) - used) == []


def test_every_row_has_a_portable_lowering() -> None:
    assert [name for name, row in TABLE.items() if list(row)[-1] != ""] == []


def test_expectation_of_fma_tells_rounding_once_from_twice() -> None:
    x, y, z = simd_data.hard_products(np.random.default_rng(1), 64)
    twice = (x.astype(np.float64) * y + z).astype(np.float32)
    assert (simd_data.fma_exact(x, y, z) != twice).sum() > 8


@pytest.mark.parametrize("path", ELSEWHERE)
def test_dot_products_use_the_instructions_of_the_path(path: str) -> None:
    """Compiled for CPUs that need not be here; cross compilation takes no emulator."""
    arch = dispatch.BY_NAME[path].arch
    assert arch is not None
    exports = {name: simd_kernels.EXPORTS[name] for name in ("dots32", "dots64", "outer_dots")}
    made = aot.compile_object(exports, aot.Machine.of(dispatch.BY_NAME[path], arch))
    missing = [pattern for pattern in ELSEWHERE[path] if not re.search(pattern, made.assembly)]
    assert missing == []
    assert made.undefined == []
    if path == "i8mm":
        assert re.search(r"usmmla\s", made.assembly)
        assert re.search(r"\ssmmla\s", made.assembly)
        assert re.search(r"ummla\s", made.assembly)


def guarded(content: Any) -> tuple[int, mmap.mmap]:
    """Address of a copy that ends exactly where a page begins that nobody may touch."""
    page = mmap.PAGESIZE
    size = (content.nbytes + page - 1) // page * page
    area = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert libc.mprotect(start + size, page, 0) == 0
    address = start + size - content.nbytes
    ctypes.memmove(address, content.ctypes.data, content.nbytes)
    return address, area


def dies(action: Any) -> int:
    """The signal that kills a forked child in `action`, or 0."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()  # a signal is what the last call expects
        try:
            action()
        except BaseException:
            os._exit(99)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_kernels_touch_no_byte_beyond_their_buffers() -> None:
    """Guard pages behind every input and the output. The last call shows that such a page does kill."""
    loaded = compiled(PATHS[0])

    def call(name: str, blocks: int) -> None:
        made = case_of(name)
        out = np.zeros(made.expected.nbytes, np.uint8)
        placed = [guarded(np.ascontiguousarray(v)) for v in (made.a, made.b, made.c, out)]
        loaded.function(name, 5)(*(address for address, _ in placed), blocks)

    for name in NAMES:
        case_of(name)
    assert dies(lambda: [call(name, case_of(name).n) for name in NAMES]) == 0
    assert dies(lambda: call("floats8", case_of("floats8").n + 1)) == 11


CHECKED = ("floats8", "lanes_f32x16", "conversions", "halves_down", "dots32", "memory")


def checked_kernels() -> aot.Loaded:
    """Some kernels with a check before every access, told where the table of buffers is."""
    loaded = checked_library()
    checked.attach_address(loaded.address(checked.SYMBOL), loaded)
    return loaded


@lru_cache(maxsize=1)
def checked_library() -> aot.Loaded:
    machine = aot.Machine.of(dispatch.BY_NAME[PATHS[0]], ARCH, checked=True)
    made = aot.compile_object({name: simd_kernels.EXPORTS[name] for name in CHECKED}, machine)
    assert made.undefined == []
    return aot.Loaded(made.object, [*CHECKED, checked.SYMBOL])


@pytest.mark.parametrize("name", CHECKED)
def test_checked_kernels_give_the_same_inside_their_buffers(name: str) -> None:
    loaded, made = checked_kernels(), case_of(name)
    out = np.zeros(made.expected.nbytes, np.uint8)
    inputs = [np.array(v, copy=True) for v in (made.a, made.b, made.c)]
    with checked.buffers(inputs[0], inputs[2], writable=(out, inputs[1])):
        loaded.function(name, 5)(*(v.ctypes.data for v in inputs), out.ctypes.data, made.n)
        checked.raise_if_violated()
    assert simd_data.flat_differences(out.view(made.expected.dtype), made.expected) == []


def test_checked_kernels_refuse_the_block_after_the_last() -> None:
    made = case_of("floats8")
    whole = np.zeros(made.expected.nbytes + 4096, np.uint8)
    out = whole[:-4096]
    call = checked_kernels().function("floats8", 5)
    with checked.buffers(made.a, made.b, made.c, writable=(out,)):
        call(*(v.ctypes.data for v in (made.a, made.b, made.c)), out.ctypes.data, made.n + 1)
        with pytest.raises(checked.CheckedAccessError, match=r"tried to load 32 bytes at .* closest buffer.* 18 bad"):
            checked.raise_if_violated()
        checked.raise_if_violated()  # once told, forgotten
    assert not whole[-4096:].any()
    assert simd_data.flat_differences(out.view(made.expected.dtype), made.expected) == []


def test_checked_kernels_do_not_write_to_inputs() -> None:
    made = case_of("floats8")
    out = np.zeros(made.expected.nbytes, np.uint8)
    with checked.buffers(made.a, made.b, made.c, out):
        call = checked_kernels().function("floats8", 5)
        call(*(v.ctypes.data for v in (made.a, made.b, made.c)), out.ctypes.data, 1)
        with pytest.raises(checked.CheckedAccessError, match=r"tried to store .* a buffer that is not writable"):
            checked.raise_if_violated()
    assert not out.any()


def test_buffers_are_forgotten_after_their_block() -> None:
    made = case_of("floats8")
    with checked.buffers(made.a):
        pass
    out = np.zeros(made.expected.nbytes, np.uint8)
    checked_kernels().function("floats8", 5)(*[made.a.ctypes.data] * 3, out.ctypes.data, 1)
    with pytest.raises(checked.CheckedAccessError, match="no buffer registered"):
        checked.raise_if_violated()
    with pytest.raises(KernelError, match="not registered"):
        checked.unregister(made.a)
    with pytest.raises(KernelError, match="C-contiguous"):
        checked.register(made.expected["add"], writable=False)
