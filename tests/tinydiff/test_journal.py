"""Journals: every scheduler goes on bit for bit, and a stranger's journal ends in an error that says why."""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import write_folder
from numpy.typing import NDArray

import tinydiff
from tinydiff.denoise import Loop
from tinydiff.errors import JournalError
from tinydiff.journal import Journal, read_journal, write_journal
from tinydiff.pipeline import Watcher
from tinydiff.schedulers import names
from tinydiff_weights.safetensors import open_safetensors
from tinydiff_weights.write import save_safetensors

SETTINGS: dict[str, Any] = {"width": 32, "height": 16, "guidance_scale": 4.0, "seed": 2**64 - 1, "output_type": "np"}


class Keep(Watcher):
    """Writes a journal before every step, each under its own name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, loop: Loop) -> None:
        self.step(loop)

    def step(self, loop: Loop) -> None:
        write_journal(self.folder / f"{loop.index}.journal", loop, {"note": "ü\ud800"})


class GoOn(Watcher):
    def __init__(self, journal: Journal) -> None:
        self.journal, self.begun = journal, False

    def finished(self, shape: tuple[int, ...], steps: int) -> Any:
        latents = self.journal.latents(shape, steps)
        return (latents, self.journal.seconds) if self.journal.index == steps else None

    def begin(self, loop: Loop) -> None:
        self.begun = True
        self.journal.restore(loop)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "sd1", "sd1")


def draw(folder: Path, sampler: str, images: int, watcher: Watcher) -> NDArray[np.float32]:
    pipe = tinydiff.Pipeline.from_pretrained(folder, backend="reference")
    out = pipe(
        "a cat", num_inference_steps=6, scheduler=sampler, num_images_per_prompt=images, watcher=watcher, **SETTINGS
    )
    assert isinstance(out.images, np.ndarray)
    return out.images


@pytest.mark.parametrize("sampler", [s.name for s in names()])
def test_every_scheduler_goes_on_from_its_journal_bit_for_bit(sampler: str, folder: Path, tmp_path: Path) -> None:
    images = 1 + len(sampler) % 2
    whole = draw(folder, sampler, images, Keep(tmp_path))
    last = max(int(file.stem) for file in tmp_path.iterdir())
    chosen = zlib.crc32(sampler.encode()) % last  # any step, the same in every run of the tests
    for step in (chosen, last):
        watcher = GoOn(read_journal(tmp_path / f"{step}.journal"))
        assert np.array_equal(draw(folder, sampler, images, watcher), whole), step
        assert watcher.begun == (step < last)  # after the last step nothing is left but to decode


# ------------------------------------------------------------------------------------------- hostile journals

Edit = Callable[[dict[str, Any], dict[str, Any]], None]  # of arrays and of the JSON in the metadata


def put(name: str, value: Any) -> Edit:
    return lambda arrays, state: arrays.update({name: np.asarray(value)})


def say(key: str, value: Any) -> Edit:
    return lambda arrays, state: state.update({key: value})


HOSTILE: dict[str, tuple[Edit, str]] = {
    "no latents": (lambda a, s: a.pop("latents"), "lacks 'latents'"),
    "latents of another size": (put("latents", np.zeros((1, 4, 2, 2), np.float32)), "latents is F32"),
    "latents of another type": (put("latents", np.zeros((2, 4, 2, 4), np.float16)), "latents is F16"),
    "NaN": (put("latents", np.full((2, 4, 2, 4), np.nan, np.float32)), "NaN"),
    "an extra tensor": (put("x", np.zeros(2, np.float32)), "'x'"),
    "other timesteps": (put("scheduler.timesteps", np.arange(6)), "scheduler.timesteps"),
    "other sigmas": (put("scheduler.sigmas", np.zeros(7, np.float32)), "scheduler.sigmas"),
    "less history": (lambda a, s: a.pop("scheduler.models"), "scheduler.models"),
    "more history": (put("scheduler.models", np.zeros((9, 2, 4, 2, 4), np.float32)), "scheduler.models"),
    "a longer way": (lambda a, s: s["scheduler"].update(taken=10**9), "counts"),
    "an unknown count": (lambda a, s: s["scheduler"].update(x=1), "counts"),
    "a step too far": (lambda a, s: s.update(index=99, seconds=[0.0] * 99), "99 of 6"),
    "a step that the scheduler is not at": (lambda a, s: s.update(index=2, seconds=[0.0] * 2), "counts"),
    "a step before the first": (say("index", -1), "step"),
    "a step that is no number": (say("index", True), "step"),
    "times that are missing": (say("seconds", []), "times"),
    "times that are none": (say("seconds", [float("inf")] * 4), "JSON"),
    "counts that are none": (say("scheduler", [1]), "counts"),
    "a generator less": (lambda a, s: a.pop("generator.1.words"), "generator.1.words"),
    "a short generator": (put("generator.0.words", np.zeros(3, np.int32)), "generator.0.words"),
    "another seed": (put("generator.0.seed", np.int64(5)), "generator.0.seed"),
    "a position outside": (put("generator.0.position", np.int64(2**40)), "out of range"),
    "a spare that is infinite": (put("generator.0.spare", np.array([np.inf])), "out of range"),
}


@pytest.mark.parametrize("edit", HOSTILE)
def test_a_hostile_journal_is_refused(edit: str, folder: Path, tmp_path: Path, whole: Path) -> None:
    change, words = HOSTILE[edit]
    file = open_safetensors(whole)
    arrays = {name: np.array(tensor.raw) for name, tensor in file.tensors.items()}
    state = json.loads(file.metadata["state"])
    change(arrays, state)
    path = tmp_path / "x.journal"
    save_safetensors(path, arrays, {**file.metadata, "state": json.dumps(state)})
    with pytest.raises(JournalError, match=r"x\.journal") as caught:
        draw(folder, "DPM++ 2M", 2, GoOn(read_journal(path)))
    assert words in str(caught.value)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("journals")
    draw(folder, "DPM++ 2M", 2, Keep(place))
    assert read_journal(place / "4.journal").run == {"note": "ü\ud800"}
    return place / "4.journal"


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "not a journal"),
        ({"format": "tinydiff journal 2"}, "this version reads"),
        ({"state": "[" * 9999}, "not valid JSON"),
        ({"state": "[]"}, "not a JSON object"),
        ({"run": "{"}, "not valid JSON"),
    ],
)
def test_metadata_that_no_journal_has(metadata: dict[str, str], words: str, tmp_path: Path, whole: Path) -> None:
    file = open_safetensors(whole)
    save_safetensors(tmp_path / "x", file.tensors, file.metadata | metadata if metadata else {})
    with pytest.raises(JournalError, match=words):
        read_journal(tmp_path / "x")


def test_every_cut_of_a_journal_is_refused(tmp_path: Path, whole: Path) -> None:
    data = whole.read_bytes()
    for length in (*range(40), len(data) // 2, len(data) - 1):
        (tmp_path / "x").write_bytes(data[:length])
        with pytest.raises(JournalError):
            read_journal(tmp_path / "x")
    with pytest.raises(JournalError, match="no such file"):
        read_journal(tmp_path / "y")


# ------------------------------------------------------------------------------------------- fault injection


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_whatever_call_fails_the_old_journal_stays(
    call: str, folder: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.journal"
    old = whole.read_bytes()
    path.write_bytes(old)
    real, left = getattr(os, call), [0]

    def failing(*args: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **more)

    class Write(Watcher):
        def begin(self, loop: Loop) -> None:
            for number in range(1, 100):
                left[0] = number
                monkeypatch.setattr(os, call, failing)
                try:
                    write_journal(path, loop, {})
                    break
                except JournalError as error:
                    errors.append(str(error))
                finally:
                    monkeypatch.setattr(os, call, real)
                assert path.read_bytes() == old
                assert os.listdir(tmp_path) == ["x.journal"]

    errors: list[str] = []
    draw(folder, "Euler", 1, Write())
    assert 1 <= len(errors) < 99
    assert all("No space left" in error for error in errors)
    assert read_journal(path).index == 0
    assert os.listdir(tmp_path) == ["x.journal"]
