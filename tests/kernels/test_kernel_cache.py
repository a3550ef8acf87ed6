"""Compilation policy, and the folder of compiled kernels: who may write there, what its name depends on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_tools import compiled_kernels

from tinydiff_kernels import _jit, cpu, dispatch
from tinydiff_kernels.errors import CacheFolderError

TESTS = Path(__file__).parents[1]
PROGRAM = """
import json, sys
sys.path[:0] = {folders}
import numba
numba.config.CACHE_DIR = "somewhere else"
from tinydiff_kernels import _jit, checked, pool
import test_kernel_pool as kernels
import numpy as np
kernel = _jit.jitted(kernels.exp_tiles)
room = np.zeros(4096, np.float32)  # far enough apart that a tile beyond one buffer is not in the other
x, out = room[:128], room[2048:2176]
x[:] = np.linspace(-5, 5, 128)
desc = np.array([x.ctypes.data, out.ctypes.data, {tiles}], np.int64)
error = ""
with checked.buffers(x, writable=(out,)):
    try:
        pool.run(kernel, desc, threads=2)
    except Exception as raised:
        error = f"{{type(raised).__name__}}: {{raised}}"
assembly = "".join(kernel.inspect_asm().values())
chosen = _jit.settings()
print(json.dumps({{
    "hits": sum(kernel.stats.cache_hits.values()), "path": chosen.path.name, "features": chosen.features,
    "note": chosen.note, "wide": "%ymm" in assembly, "fused": "vfmadd" in assembly, "error": error,
    "bits": out.tobytes().hex(), "config": numba.config.CACHE_DIR,
}}))
"""


def plain_environment() -> dict[str, str]:
    """Without what the person who runs the tests may have set for kernels."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("TINYDIFF_", "NUMBA_"))}


def program(cache: Path, tiles: int = 2, **environment: str) -> dict[str, Any]:
    """Compile and run a kernel in a fresh process."""
    folders = [str(TESTS), str(TESTS / "kernels"), str(Path(_jit.__file__).parents[1])]
    code = PROGRAM.format(folders=folders, tiles=tiles)
    variables = {**plain_environment(), "XDG_CACHE_HOME": str(cache), **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_compiled_kernels_are_found_again_and_paths_have_the_same_bits(tmp_path: Path) -> None:
    """Three processes: compile, find it again, compile for the forced generic path, which has no wide vectors."""
    first = program(tmp_path)
    folders = list((tmp_path / "tinydiff/kernels").iterdir())
    assert [folder.name.rpartition("-")[0] for folder in folders] == [first["path"]]
    assert {folder.stat().st_mode & 0o777 for folder in (*folders, folders[0].parent)} == {0o700}
    second = program(tmp_path)
    assert (first["hits"], second["hits"]) == (0, 1)
    assert first["config"] == "somewhere else"  # the user's own setting is left alone
    has_avx2 = "avx2" in {path.name for path in dispatch.available(cpu.detect())}
    assert (first["wide"], first["fused"]) == (has_avx2, has_avx2)
    slow = program(tmp_path, TINYDIFF_PATH="generic")
    assert (slow["path"], slow["features"], slow["wide"], slow["fused"]) == ("generic", "", False, False)
    assert first["bits"] == second["bits"] == slow["bits"]


def test_checked_kernels_are_not_kept_and_raise(tmp_path: Path) -> None:
    good = program(tmp_path, TINYDIFF_CHECK="1")
    assert (good["error"], good["note"]) == ("", "checked kernels are not kept")
    assert not list(tmp_path.rglob("*.nbc"))
    bad = program(tmp_path, tiles=3, TINYDIFF_CHECK="1")
    assert bad["error"].startswith("CheckedAccessError: a kernel tried to load 32 bytes at ")
    assert "16 bad accesses in all" in bad["error"]
    assert bad["bits"] == good["bits"]


def test_numba_used_before_with_other_features(tmp_path: Path) -> None:
    """Where other code was first, its features stand; a forced path must not silently be another one."""
    code = """
import sys
sys.path[:0] = {folders}
import numba
numba.njit("int64(int64)")(lambda x: x + 1)
from tinydiff_kernels import _jit
print(_jit.settings().path.name)
"""
    folders = [str(Path(_jit.__file__).parents[1])]
    variables = {**plain_environment(), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code.format(folders=folders)]
    free = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert free.stdout.split() == [dispatch.available(cpu.detect())[0].name], free.stderr
    forced = subprocess.run(
        command, capture_output=True, text=True, env={**variables, "TINYDIFF_PATH": "generic"}, check=False
    )
    assert forced.returncode == 1
    assert "TargetError: Numba already compiles for other CPU features" in forced.stderr


def test_the_key_depends_on_sources_versions_and_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dispatch.BY_NAME["generic"]
    keys = [_jit.cache_key(path, "")]
    keys.append(_jit.cache_key(path, "+avx2"))
    keys.append(_jit.cache_key(dispatch.BY_NAME["avx2"], ""))
    monkeypatch.setattr(_jit._numba, "version", "0.0")
    keys.append(_jit.cache_key(path, ""))
    monkeypatch.setattr(_jit._numba, "llvmlite_version", "0.0")
    keys.append(_jit.cache_key(path, ""))
    monkeypatch.setattr(_jit, "source_hash", lambda: "other")
    keys.append(_jit.cache_key(path, ""))
    here = cpu.this_cpu()
    monkeypatch.setattr(_jit, "this_cpu", lambda: cpu.Cpu(here.arch, "another", here.features, (), None))
    keys.append(_jit.cache_key(path, ""))
    assert len(set(keys)) == len(keys)


def test_the_hash_of_sources_sees_names_content_and_subfolders(tmp_path: Path) -> None:
    (tmp_path / "simd").mkdir()
    (tmp_path / "a.py").write_text("x = 1")
    hashes = [_jit.source_hash(tmp_path)]
    (tmp_path / "simd/b.py").write_text("y = 1")
    hashes.append(_jit.source_hash(tmp_path))
    (tmp_path / "simd/b.py").write_text("y = 2")
    hashes.append(_jit.source_hash(tmp_path))
    (tmp_path / "simd/b.py").rename(tmp_path / "simd/c.py")
    hashes.append(_jit.source_hash(tmp_path))
    (tmp_path / "notes.txt").write_text("not a source")
    assert len(set(hashes)) == 4
    assert _jit.source_hash(tmp_path) == hashes[-1]


def test_folders_that_others_can_write_to_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "tinydiff"
    folder = _jit.prepare_folder(root, "key")
    assert folder == root / "kernels/key"
    for place, mode in ((folder, 0o777), (folder, 0o720), (root / "kernels", 0o702), (root, 0o707)):
        place.chmod(mode)
        with pytest.raises(CacheFolderError, match=r"others can write to .*chmod 700"):
            _jit.prepare_folder(root, "key")
        place.chmod(0o700)
    root.chmod(0o1777)  # as /tmp: others cannot remove what is ours
    _jit.prepare_folder(root, "key")


def test_folders_of_others_files_and_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "tinydiff"
    _jit.prepare_folder(root, "key")
    (root / "kernels/link").symlink_to(tmp_path)
    with pytest.raises(CacheFolderError, match="is not a folder"):
        _jit.prepare_folder(root, "link")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(CacheFolderError, match="belongs to another user"):
        _jit.prepare_folder(root, "key")


def test_without_a_place_for_them_kernels_are_compiled_and_not_kept(tmp_path: Path) -> None:
    (tmp_path / "tinydiff").write_text("a file is in the way")
    result = program(tmp_path)
    assert result["note"].startswith("no cache folder: ")
    assert result["error"] == ""


def test_another_process_compiles_no_kernel_again() -> None:
    """What is kept is found by what a kernel's code is, and not by where its parts lay in memory."""
    compiled_kernels()
    code = (
        "from tinydiff_kernels import dispatch, warm; warm.load(); "
        "print(*(name for name in dispatch.COMPILED if dispatch.kernel(name).stats.cache_misses))"
    )
    variables = {**os.environ, "PYTHONPATH": str(Path(_jit.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
