"""Libraries of kernels compiled ahead of time, as far as no linker is needed; the rest is in tests/aot."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tinydiff_kernels import aot, build_aot, cpu, dispatch, elf, native
from tinydiff_kernels._numba import llvm
from tinydiff_kernels.errors import KernelError


def test_a_needy_library_would_be_noticed() -> None:
    found = elf.Elf(frozenset({"a"}), frozenset(), (), (16384,))
    build_aot._verify(found, {"a"})
    with pytest.raises(KernelError, match="lacks b"):
        build_aot._verify(found, {"a", "b"})
    with pytest.raises(KernelError, match=r"needs libc\.so\.6, memset from elsewhere"):
        build_aot._verify(found._replace(undefined=frozenset({"memset"}), needed=("libc.so.6",)), {"a"})
    with pytest.raises(KernelError, match="aligned to 4096 bytes"):
        build_aot._verify(found._replace(alignments=(16384, 4096)), {"a"})


def test_what_an_elf_file_says() -> None:
    machine = aot.Machine.of(dispatch.BY_NAME["generic"], cpu.this_cpu().arch)
    constant = elf.read(aot.constant_object("name", b"content", machine))
    assert (constant.defined, constant.undefined, constant.needed) == ({"name"}, frozenset(), ())
    text = "declare void @other()\ndefine void @f() { call void @other() ret void }"
    target = llvm.Target.from_triple(machine.triple).create_target_machine()
    caller = elf.read(target.emit_object(llvm.parse_assembly(text)))
    assert (caller.defined, caller.undefined) == ({"f"}, {"other"})
    umath: str = np._core._multiarray_umath.__file__  # type: ignore[attr-defined]
    library = elf.read(Path(umath).read_bytes())
    assert any(name.startswith("libc.") for name in library.needed)
    assert "PyInit__multiarray_umath" in library.defined
    assert "PyErr_SetString" in library.undefined
    assert set(library.alignments) <= {4096, 8192, 16384, 65536}
    with pytest.raises(KernelError, match="not a 64-bit ELF file"):
        elf.read(b"#!/bin/sh")


@pytest.mark.parametrize(
    ("machine", "platform", "android", "wanted"),
    [
        ("aarch64", "linux", False, ["aarch64-linux", "aarch64-android"]),
        ("aarch64", "linux", True, ["aarch64-android"]),
        ("aarch64", "android", True, ["aarch64-android"]),
        ("x86_64", "linux", False, ["x86_64-linux"]),
        ("arm64", "darwin", False, ["aarch64-darwin"]),
    ],
)
def test_libraries_that_run_on_a_machine(
    machine: str, platform: str, android: bool, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native.platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "platform", platform)
    if android:
        monkeypatch.setattr(sys, "getandroidapilevel", lambda: 24, raising=False)
    assert native.targets() == wanted


def test_what_to_do_without_a_linker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(aot.shutil, "which", lambda name: None)
    assert build_aot.main(["--target", "aarch64-android", "--output", str(tmp_path / "a.so")]) == 1
    told = capsys.readouterr().err
    assert told.startswith(
        "build_aot: no linker for aarch64-linux-android: install LLVM's (Debian, Ubuntu: apt install lld"
    )
    monkeypatch.setattr(aot.shutil, "which", lambda name: name if name == "aarch64-linux-gnu-ld" else None)
    assert aot.find_linker("aarch64-linux-android") == "aarch64-linux-gnu-ld"
    with pytest.raises(KernelError, match=r"the linker .*nowhere does not start"):
        aot.link_shared([b""], tmp_path / "a.so", str(tmp_path / "nowhere"))
    with pytest.raises(KernelError, match=r"^false could not link .*a\.so: "):
        aot.link_shared([b""], tmp_path / "a.so", "false")
    assert list(tmp_path.iterdir()) == []
