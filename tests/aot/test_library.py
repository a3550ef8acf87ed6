"""A library of kernels for this machine: what it holds, who may use it, and pictures without Numba.

Collected only when named: a linker is needed (LLVM's, or GNU's for this architecture).
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kernel_calls
import pytest
from kernel_calls import Picture

from tinydiff_kernels import aot, cpu, dispatch, elf, native, source_hash
from tinydiff_kernels.errors import KernelError

ROOT = Path(__file__).parents[2]
ROOTS = [str(ROOT / part) for part in (".", "kernels", "weights", "tests")]
BEST = dispatch.available()[0]
PICTURES = [Picture("float32", 64), Picture("int8", 64, threads=2)]


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """Each test looks for the library anew."""
    native.library.cache_clear()
    native.function.cache_clear()
    yield
    native.library.cache_clear()
    native.function.cache_clear()


def loaded(monkeypatch: pytest.MonkeyPatch, named: str) -> str:
    """What is said of a library that TINYDIFF_NATIVE names."""
    monkeypatch.setenv(native.NATIVE_VARIABLE, named)
    native.library.cache_clear()
    return native.library()[1]


def test_the_library_needs_nothing_and_suits_large_pages(library: Path) -> None:
    found = elf.read(library.read_bytes())
    symbols = {native.symbol(operation, BEST.name) for operation in dispatch.COMPILED}
    assert found.defined == symbols | {native.SOURCES}
    assert (found.undefined, found.needed) == (frozenset(), ())
    assert len(found.alignments) >= 2
    assert set(found.alignments) == {16384}


def test_pictures_have_the_bits_of_numba_and_numba_is_not_loaded(library: Path, tmp_path: Path) -> None:
    code = (
        f"import sys, json; sys.path[:0] = {ROOTS!r}; import kernel_calls; from tinydiff_kernels import dispatch\n"
        "from tinydiff.cli import main\n"
        f"made = [kernel_calls.picture_digest(kernel_calls.Picture(*p)) for p in {[tuple(p) for p in PICTURES]!r}]\n"
        "assert main(['generate', 'a red apple', '--size', '64x64', '--steps', '2', '-o', sys.argv[1]]) == 0\n"
        "assert main(['doctor']) == 0 and main(['warmup']) == 0\n"
        "by = sorted({r.made_by for r in dispatch.running(dispatch.choose())})\n"
        "print(json.dumps([made, by, sorted({'numba', 'llvmlite'} & set(sys.modules))]))"
    )
    environment = {native.NATIVE_VARIABLE: str(library), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "apple.png")],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    made, by, compilers = json.loads(done.stdout.splitlines()[-1])
    assert (by, compilers) == (["library"], [])
    assert "matmul_i8" in done.stdout
    assert (tmp_path / "apple.png").stat().st_size > 1000
    assert made == [kernel_calls.picture_digest(picture) for picture in PICTURES]  # by Numba, in this process


def test_only_a_library_of_these_sources_is_used(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.delenv(native.NATIVE_VARIABLE, raising=False)
    assert native.library() == (None, "no library for this machine in this installation")
    native.library.cache_clear()
    right = tmp_path / native.file_name(native.target())
    shutil.copy(library, right)
    assert native.library()[1] == str(right)
    assert native.function("matmul_f32", BEST.name) is not None
    assert native.function("matmul_f32", "no such path") is None

    other = tmp_path / "other"
    shutil.copytree(Path(native.__file__).parent, other, ignore=shutil.ignore_patterns("native", "__pycache__"))
    assert source_hash.source_hash(other) == source_hash.source_hash()
    (other / "cpu.py").write_text((other / "cpu.py").read_text() + "\n")
    changed = source_hash.source_hash(other)
    assert changed != source_hash.source_hash()
    monkeypatch.setattr(native, "source_hash", lambda: changed)
    native.library.cache_clear()
    assert native.library()[0] is None
    assert f"{right.name} was made from other sources; python -m tinydiff_kernels.build_aot" in native.library()[1]
    shutil.copy(library, tmp_path / native.file_name(native.target()))  # its name says what it is not
    native.library.cache_clear()
    assert native.library()[0] is None
    assert "it was made from other sources" in native.library()[1]
    with pytest.raises(KernelError, match=r"^TINYDIFF_NATIVE=.*: it was made from other sources; python -m"):
        loaded(monkeypatch, str(library))


def test_a_library_that_is_named_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError, match=r"^TINYDIFF_NATIVE=.*gone\.so: there is no such file$"):
        loaded(monkeypatch, str(tmp_path / "gone.so"))
    (tmp_path / "text.so").write_text("text")
    with pytest.raises(KernelError, match=r"text\.so: it does not load: "):
        loaded(monkeypatch, str(tmp_path / "text.so"))
    machine = aot.Machine.of(BEST, cpu.this_cpu().arch)
    linker = aot.find_linker(machine.triple)
    aot.link_shared([aot.constant_object("something", b"else", machine)], tmp_path / "foreign.so", linker)
    assert (ctypes.c_char * 4).in_dll(ctypes.CDLL(str(tmp_path / "foreign.so")), "something").raw == b"else"
    with pytest.raises(KernelError, match=r"foreign\.so: it is no library of tinydiff's kernels$"):
        loaded(monkeypatch, str(tmp_path / "foreign.so"))
    assert loaded(monkeypatch, "0") == "no library: TINYDIFF_NATIVE=0"
