"""By hand, where tinydiff is installed: `quantize`, and `generate --journal` with `resume`, killed at random moments.

    python tests/kill_at_random.py [--quantize 50] [--generate 50] [--seed 0]

Moments are of the wall clock: while Python starts, while the model loads, within a layer or a step, inside the decoder,
whole or in strips, while a file is written. What was killed is started again, and now and then killed again, until it
is done. Then the result must be that of an undisturbed run, byte for byte or pixel for pixel, nothing may be left over,
and the model untouched. At no moment may half a file lie under a final name.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from miniature_configs import UNETS, VAES
from miniatures import class_name, random_tensors, stored, write_component, write_folder
from PIL import Image

from tinydiff.journal import read_journal
from tinydiff.schedulers import names

AGAIN = 0.3  # share of second runs that are killed too
# Pieces are noted after 256 KiB instead of 32 MiB: this model has 14 MB.
QUANTIZE = """
import sys
from tinydiff_weights import partial_file
partial_file.SYNC_BYTES = 2**18
from tinydiff.cli import main
sys.exit(main(["quantize", *sys.argv[1:]]))
"""
# An undisturbed run under a plan that another run had.
UNDISTURBED = """
import sys
from tinydiff.cli import main
from tinydiff.memory.keeper import Keeper
real = Keeper.__init__
def planned(self, budget):
    real(self, budget)
    self.follow(sys.argv[1])
Keeper.__init__ = planned
sys.exit(main(sys.argv[2:]))
"""
STAGES = ("anywhere", "denoising", "VAE decode")


def write_model(folder: Path) -> Path:
    """Miniature blocks, wide enough that packing and decoding take longer than starting."""
    model = write_folder(folder, "sd1")
    for name, config in (
        ("unet", {**UNETS["sd1"], "block_out_channels": [32, 48, 64, 64]}),
        ("vae", {**VAES["kl"], "block_out_channels": [32, 32, 48, 64]}),
    ):
        shutil.rmtree(model / name)
        write_component(model / name, config, stored(random_tensors(class_name(config), config, 5), "F32"))
    return model


def digests(model: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(model.rglob("*")) if p.is_file()}


class Runs:
    """Starts commands in a folder, waits for a moment, kills."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}

    def whole(self, arguments: list[str], code: str | None = None) -> tuple[float, str]:
        """Seconds of an undisturbed run, and its words on stderr."""
        began = time.monotonic()
        status, err = self._end(self._start(arguments, code), None)
        assert status == 0, err
        return time.monotonic() - began, err

    def killed(self, arguments: list[str], code: str | None, begun: Any, length: float) -> tuple[bool, str]:
        """Kill a random part of `length` after `begun()`; whether the kill came before the end, and stderr."""
        process = self._start(arguments, code)
        while process.poll() is None and not begun():
            time.sleep(0.001)
        status, err = self._end(process, self.random.uniform(0, length))
        assert status in (0, -9), (status, err)
        return status == -9, err

    def _start(self, arguments: list[str], code: str | None) -> subprocess.Popen[str]:
        command = [sys.executable, *(("-m", "tinydiff") if code is None else ("-c", code)), *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    @staticmethod
    def _end(process: subprocess.Popen[str], after: float | None) -> tuple[int, str]:
        try:
            _, err = process.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            process.kill()
            _, err = process.communicate()
        return process.returncode, err

    def stage(self) -> str:
        """What the breadcrumb of the only run says; "" where there is none."""
        for file in (self.folder / "state" / "tinydiff" / "runs").glob("*.json"):
            with contextlib.suppress(OSError):  # just removed
                return str(json.loads(file.read_bytes())["stage"])
        return ""

    def left(self) -> list[str]:
        return sorted(p.name for p in self.folder.iterdir() if p.name != "state")


# ---------------------------------------------------------------------------------------------------- quantize


def kill_quantize(model: Path, folder: Path, moments: int, seed: int) -> str:
    runs, kills, done, early, counts = Runs(folder, seed), 0, 0, 0, Counter[str]()
    target, partial = folder / "x.safetensors", folder / ".x.safetensors.partial"
    wanted, lengths = dict[str, bytes](), dict[str, float]()
    for weights in ("int8", "int4", "mixed"):
        lengths[weights], _ = runs.whole([str(model), "x.safetensors", "--weights", weights, "--force"], QUANTIZE)
        wanted[weights] = target.read_bytes()
    while kills < moments:
        weights = runs.random.choice(list(wanted))
        old = runs.random.choice((None, b"an older file"))
        target.unlink(missing_ok=True)
        if old is not None:
            target.write_bytes(old)
        command = [str(model), "x.safetensors", "--weights", weights, "--force"]
        again = True
        while again:
            begun = runs.random.choice((lambda: True, partial.exists))  # any time, or once the work has begun
            died, _ = runs.killed(command, QUANTIZE, begun, 1.1 * lengths[weights])
            kills += died
            counts["with pieces done"] += died and partial.exists() and partial.with_suffix(".journal").exists()
            found = target.read_bytes() if target.exists() else None
            assert found in (old, wanted[weights]), "half a file under its final name"
            assert set(runs.left()) <= {target.name, partial.name, ".x.safetensors.journal"}, runs.left()
            early += not died
            again = died and kills < moments and runs.random.random() < AGAIN
        runs.whole(command, QUANTIZE)
        assert target.read_bytes() == wanted[weights]
        assert runs.left() == [target.name], runs.left()
        done += 1
    return (
        f"quantize: {kills} kills ({counts['with pieces done']} of them with a partial file and its journal there, "
        f"{early} runs ended before theirs), {done} files completed, all with the bytes of an undisturbed run"
    )


# ---------------------------------------------------------------------------------------------------- generate


class Pictures:
    """Undisturbed pictures, by sampler and memory plan, and how long their stages take."""

    def __init__(self, model: Path, runs: Runs) -> None:
        self.runs, self._found = runs, dict[tuple[str, str], Any]()
        self._base = ["generate", "a cat", "--model", str(model), "--seed", "3", "--cfg", "4", "--steps", "6"]
        command = [*self._base, "--size", "256x256", "--memory", "1MB", "-o", "no.png"]
        _, err = runs._end(runs._start(command, None), None)
        self.memory = int(err.split("memory=")[2].split("MB is the least")[0]) + 8
        began = time.monotonic()
        runs.whole([*self.command("euler", True), "-o", "length.png"])
        self.length = time.monotonic() - began
        (runs.folder / "length.png").unlink()

    def command(self, sampler: str, strips: bool) -> list[str]:
        size = ["--size", "256x256", "--memory", f"{self.memory}MB"] if strips else ["--size", "128x128"]
        return [*self._base, "--sampler", sampler, *size]

    def undisturbed(self, sampler: str, plan: str | None) -> Any:
        if (sampler, plan or "") not in self._found:
            command = [*self.command(sampler, plan is not None), "-o", "whole.png", "--force", "--quiet"]
            self.runs.whole(*((command,) if plan is None else ([plan, *command], UNDISTURBED)))
            self._found[sampler, plan or ""] = np.asarray(Image.open(self.runs.folder / "whole.png"))
            (self.runs.folder / "whole.png").unlink()
        return self._found[sampler, plan or ""]


def plan_of(picture: Path) -> str | None:
    with Image.open(picture) as image:
        texts: dict[str, str] = image.text  # type: ignore[attr-defined]
    (record,) = (json.loads(text) for text in texts.values() if "memory_plan" in text)
    plan: str | None = record["extra"]["memory_plan"]
    return plan


def kill_generate(model: Path, folder: Path, moments: int, seed: int) -> str:
    runs = Runs(folder, seed)
    pictures = Pictures(model, runs)
    samplers = [s.short for s in names()]
    runs.random.shuffle(samplers)
    kills, done, counts = 0, 0, Counter[str]()
    while kills < moments or done < len(samplers):
        where = STAGES[done % len(STAGES)]
        kills += kill_picture(runs, pictures, samplers[done % len(samplers)], done % 2 == 0, where, counts)
        assert_same(folder / "x.png", pictures, samplers[done % len(samplers)])
        left = [name for name in runs.left() if name != "x.png"]
        assert all(name.startswith(".x.png.") for name in left), left  # a picture's temporary file, never its name
        counts["temporary files of pictures"] += len(left)
        for name in ("x.png", *left):
            (folder / name).unlink()
        done += 1
        print(f"  {done} pictures, {kills} kills", flush=True)
    found = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count)
    return f"generate: {kills} kills, {done} pictures ({len(samplers)} samplers), all as undisturbed; {found}"


def kill_picture(runs: Runs, pictures: Pictures, sampler: str, strips: bool, where: str, counts: Counter[str]) -> int:
    """Make one picture, x.png, in spite of kills; how many there were."""
    picture, journal = runs.folder / "x.png", runs.folder / "x.journal"
    command = [*pictures.command(sampler, strips), "-o", "x.png", "--journal", "x.journal"]
    length = 1.1 * pictures.length * {"anywhere": 1, "denoising": 0.6, "VAE decode": 0.2}[where]
    kills, plan, stage = 0, "", ""
    while True:
        if plan and runs.random.random() > AGAIN:
            _, err = runs.whole(command)
            assert not stage or f"the last run was killed in {stage}" in err, (stage, err)
            break
        died, _ = runs.killed(command, None, lambda: where in ("anywhere", runs.stage()), length)
        if not died:
            break
        kills, stage = kills + 1, runs.stage()
        length *= 1.0 if journal.exists() else 1.3  # for a machine that has become slower: come to a journal at last
        how = " in strips" if stage == STAGES[2] and strips else ""
        counts[f"killed in {stage}{how}" if stage else "killed before any stage"] += 1
        if picture.exists():
            assert_same(picture, pictures, sampler)
        if journal.exists():
            saved = read_journal(journal).run["plan"] or "none"
            assert plan in ("", saved), "the plan of the picture has changed"
            command, plan = ["resume", "x.journal"], saved
        elif picture.exists():
            break  # killed after all was done
    assert not plan or (plan_of(picture) or "none") == plan
    counts["resumed"] += bool(plan)
    return kills


def assert_same(picture: Path, pictures: Pictures, sampler: str) -> None:
    found, plan = np.asarray(Image.open(picture)), plan_of(picture)
    assert np.array_equal(found, pictures.undisturbed(sampler, plan)), (sampler, plan)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quantize", type=int, default=50, help="kills of `quantize`")
    parser.add_argument("--generate", type=int, default=50, help="kills of `generate` and `resume`")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        model = write_model(Path(root) / "model")
        before = digests(model)
        for name, kill, moments in (
            ("quantize", kill_quantize, args.quantize),
            ("generate", kill_generate, args.generate),
        ):
            (Path(root) / name).mkdir()
            if moments:
                print(kill(model, Path(root) / name, moments, args.seed), flush=True)
        assert digests(model) == before, "the model was changed"
    print("the model is untouched")
    return 0


if __name__ == "__main__":
    sys.exit(main())
