"""The pure wheel, and one with a library: what is in them, what they ask for, and a picture without Numba.

Collected only when named: pip installs what wheels need.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import kernel_calls
import pytest
from kernel_calls import Picture

from tinydiff_kernels import native

ROOT = Path(__file__).parents[2]
PARTS = ("tinydiff", "kernels", "weights", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE")
LOCAL = shutil.ignore_patterns("__pycache__", "native", "train")
MASTER = "weights/train/master"  # whose pages on licences and limits go along
PICTURE = Picture("int8", 64)
MB = 2**20


def environment(**variables: str) -> dict[str, str]:
    """Of this process, without what would make its own sources visible to others."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("TINYDIFF_", "PYTHON"))}
    return {**own, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}


def run(*command: Any, **variables: str) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment(**variables), check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def tree(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, with the library where `build_aot` puts it."""
    folder = tmp_path_factory.mktemp("tree")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=LOCAL)
        else:
            shutil.copy(ROOT / part, folder / part)
    (folder / MASTER).mkdir(parents=True)
    for page in (ROOT / MASTER).glob("*.md"):
        shutil.copy(page, folder / MASTER)
    place = folder / "kernels/tinydiff_kernels/native"
    place.mkdir()
    shutil.copy(library, place)
    return folder


def wheel(tree: Path, output: Path, **variables: str) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", output, tree, **variables)
    (made,) = output.glob("*.whl")
    return made


def inside(file: Path) -> tuple[list[str], Message]:
    """Names of libraries, and METADATA."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        return [n for n in names if n.endswith(".so")], Parser().parsestr(archive.read(metadata).decode())


def test_the_pure_wheel_has_no_library_and_asks_for_numba(tree: Path, tmp_path: Path) -> None:
    made = wheel(tree, tmp_path)
    assert made.name.endswith("-py3-none-any.whl")
    libraries, metadata = inside(made)
    assert libraries == []
    assert any(need.startswith("numba") for need in metadata.get_all("Requires-Dist", []))


def test_the_wheel_has_the_packed_model_with_its_licences_and_nothing_else_of_it(tree: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel(tree, tmp_path)) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        for page in ("LICENSES.md", "MODEL_CARD.md"):
            assert archive.read(f"tinydiff_weights/{page}") == (ROOT / MASTER / page).read_bytes()
    model = "tinydiff_weights/default.safetensors"
    assert sizes[model] == (ROOT / "weights" / model).stat().st_size <= 32 * MB
    assert [name for name in sizes if name.endswith(".safetensors")] == [model]
    assert sum(sizes.values()) - sizes[model] < 8 * MB
    (licences,) = (name for name in sizes if "train" in name)
    assert licences.endswith(f".dist-info/licenses/{MASTER}/LICENSES.md")


def test_a_wheel_with_the_library_makes_a_picture_without_numba(tree: Path, library: Path, tmp_path: Path) -> None:
    made = wheel(tree, tmp_path, TINYDIFF_WHEEL=native.target())
    assert made.name.endswith(f"-py3-none-manylinux2014_{native.target().split('-')[0]}.whl")
    libraries, metadata = inside(made)
    assert libraries == [f"tinydiff_kernels/native/{library.name}"]
    needs = metadata.get_all("Requires-Dist", [])
    assert not any(need.startswith("numba") for need in needs)
    assert any(need.startswith("numpy") for need in needs)

    python = tmp_path / "venv/bin/python"
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    run(python, "-m", "pip", "install", "-q", made)
    code = (
        f"import sys; sys.path.append({str(ROOT / 'tests')!r}); import json, importlib.util, kernel_calls\n"
        "from tinydiff_kernels import native\n"
        f"digest = kernel_calls.picture_digest(kernel_calls.Picture(*{tuple(PICTURE)!r}))\n"
        "print(json.dumps([digest, native.library()[1], importlib.util.find_spec('numba') is None]))"
    )
    digest, place, without = json.loads(run(python, "-c", code, HOME=str(tmp_path)).splitlines()[-1])
    assert without
    assert place == str(next((tmp_path / "venv").rglob(library.name)))
    assert digest == kernel_calls.picture_digest(PICTURE)  # by Numba, in this process


@pytest.mark.parametrize(("target", "words"), [("riscv64-linux", "unknown target"), ("aarch64-android", "is missing")])
def test_a_wheel_that_cannot_be_made(target: str, words: str, tree: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(TINYDIFF_WHEEL=target), check=False)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr
    assert list(tmp_path.glob("*.whl")) == []
