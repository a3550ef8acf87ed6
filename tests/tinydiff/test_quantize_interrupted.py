"""Packing that is interrupted goes on; packing that fails leaves nothing (`test_faults.py` has more of that)."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from cli_tools import Cli, finish, start
from faults import failing
from miniatures import write_folder
from quantize_faults import CALLS, RECIPE, counted, killed

from tinydiff import pack_layer
from tinydiff import quantize as module
from tinydiff.errors import ModelFileError
from tinydiff.quantize import quantize
from tinydiff_weights import mapping, partial_file
from tinydiff_weights.open import open_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("interrupted") / "model", "bk_tiny")


@pytest.fixture(scope="module")
def wanted(model: Path) -> bytes:
    path = model.parent / "wanted.safetensors"
    quantize(open_model(model), path, RECIPE)
    return path.read_bytes()


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_it_goes_on(model: Path, wanted: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills from the first call of the system to the last; what was written is not computed again."""
    path = tmp_path / "x.safetensors"
    total = counted(model, path, CALLS)
    path.unlink()
    packed = list[str]()
    real = module._write_layer

    def write_layer(*args: Any) -> None:
        packed.append(args[-1])
        real(*args)

    monkeypatch.setattr(module, "_write_layer", write_layer)
    done = list[int]()
    for at in (2, total // 3, total * 4 // 5, total):
        killed(model, path, at)
        assert not path.exists() or path.read_bytes() == wanted
        packed.clear()
        quantize(open_model(model), path, RECIPE, force=True)
        done.append(len(packed))
        assert path.read_bytes() == wanted
        assert names(tmp_path) == ["x.safetensors"]
        path.unlink()
    assert done[0] > done[1] > done[2]  # fewer layers were left to pack the later it was killed


def test_another_recipe_or_source_does_not_go_on(model: Path, wanted: bytes, tmp_path: Path) -> None:
    """Pieces of another file are thrown away; a torn last line of the journal is."""
    path = tmp_path / "x.safetensors"

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(open_model(model), path, module.Recipe("int4"), stop)
    assert names(tmp_path) == [".x.safetensors.journal", ".x.safetensors.partial"]
    with pytest.raises(KeyboardInterrupt):
        quantize(open_model(model), path, RECIPE, stop)
    with open(tmp_path / ".x.safetensors.journal", "ab") as journal:
        journal.write(b'{"name": "unet/conv_in", "sn')
    quantize(open_model(model), path, RECIPE)
    assert path.read_bytes() == wanted
    assert names(tmp_path) == ["x.safetensors"]


def test_two_at_once(model: Path, tmp_path: Path) -> None:
    """The second is told; the first is not disturbed."""
    path, told = tmp_path / "x.safetensors", list[str]()

    def second(done: int, total: int) -> None:
        if not told:
            with pytest.raises(ModelFileError) as error:
                quantize(open_model(model), path, RECIPE)
            told.append(str(error.value))

    quantize(open_model(model), path, RECIPE, second)
    assert "is being written by another process" in told[0]
    assert names(tmp_path) == ["x.safetensors"]


def test_the_other_finishes_first(model: Path, wanted: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening of the partial file and its lock it becomes the whole one: that is not touched."""
    path, real = tmp_path / "x.safetensors", partial_file.PartialFile.lock

    def lock(self: partial_file.PartialFile) -> None:
        os.replace(self.partial, path)
        path.write_bytes(wanted)
        real(self)

    monkeypatch.setattr(partial_file.PartialFile, "lock", lock)
    with pytest.raises(ModelFileError, match="is being written by another process"):
        quantize(open_model(model), path, RECIPE)
    assert path.read_bytes() == wanted
    assert names(tmp_path) == ["x.safetensors"]


def test_no_memory(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(pack_layer, "pack_i8", none)
    with pytest.raises(ModelFileError, match="out of memory"):
        quantize(open_model(model), tmp_path / "x.safetensors", RECIPE)
    assert names(tmp_path) == []
    source = model.parent / "nowhere"
    monkeypatch.setattr(mapping, "FileMapping", lambda *_, **__: failing(errno.ENOMEM)())
    with pytest.raises(ModelFileError, match=r"cannot be read: .*Cannot allocate memory"):
        open_model(write_folder(source, "bk_tiny", seed=9))


def test_a_full_disk(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before anything is written; and a system that takes no more in the middle."""
    path = tmp_path / "x.safetensors"
    monkeypatch.setattr(partial_file, "RESERVE", 2**60)
    with pytest.raises(ModelFileError, match=r"needs \d+ MB of disk, \d+ MB are free\. Free some space"):
        quantize(open_model(model), path, RECIPE)
    assert names(tmp_path) == []
    monkeypatch.undo()
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(ModelFileError, match=r"cannot be written: File too large\. Free some space"):
            quantize(open_model(model), path, RECIPE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path) == []


def test_ctrl_c_of_the_command(model: Path, wanted: bytes, tmp_path: Path, cli: Cli) -> None:
    """It ends at once and says that it will go on; it does."""
    code = (
        "import sys, time; from tinydiff import quantize; from tinydiff.cli import main\n"
        "real = quantize._write_layer\n"
        "def slow(*a): real(*a); print('.', flush=True); time.sleep(0.05)\n"
        "quantize._write_layer = slow; sys.exit(main(sys.argv[1:]))"
    )
    process = start(cli.cwd, "quantize", str(model), "x.safetensors", "--weights", "int8", code=code, kernels=False)
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == ".\n"
    process.send_signal(signal.SIGINT)
    result = finish(process)
    assert (result.code, result.err) == (130, "tinydiff: interrupted; the same command goes on where it was\n")
    assert ".x.safetensors.partial" in cli.files()
    assert not Path("x.safetensors").exists()
    again = cli("quantize", model, "x.safetensors", "--weights", "int8")
    assert (again.code, again.out) == (0, "x.safetensors\n")
    assert Path("x.safetensors").read_bytes() == wanted
