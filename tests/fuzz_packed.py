"""Packed files with random damage, as many as one likes; by hand, where tinydiff is installed:

    python tests/fuzz_packed.py [--first 0] [--count 1000000] [--log fuzz.log] [--kept FOLDER]
    python tests/fuzz_packed.py --one NUMBER FILE          writes one damaged file again

Every file must end in an error of ours or in a model, within ten seconds of the processor and a gigabyte. Of the
models some are verified, and some draw a picture with the compiled kernels. Anything else (another exception, a
signal, a hang) is reported with its number, its bytes are kept, and the run ends with 1. Batches run in processes of
their own, so that a crash costs no more than a batch. The log has a line of JSON per batch; the same command goes on
after its last. Files have numbers, so that processes with logs of their own can share the work. What was found lies in
`packed_corpus`, where CI looks at it again.
"""

from __future__ import annotations

import argparse
import gc
import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from fuzz_mutations import Seed, damaged
from fuzz_seeds import FACTOR, packed

import tinydiff
from tinydiff.errors import TinyDiffError
from tinydiff.loading import build
from tinydiff_kernels import warm
from tinydiff_weights.open import open_model
from tinydiff_weights.packed_verify import verify

BATCH = 2000
SECONDS, BYTES = 10, 2**30
VERIFIED, DRAWN = 8, 24  # one of so many models
CONTAINER = ("header.py", "safetensors.py", "mapping.py", "sniff.py", "open.py")
PACKED = ("packed.py", "jsonfile.py")
# How far a file came: refused as a container, as a packed file, as another kind of model, as networks; or not refused.
STAGES = ("container", "metadata", "other kind", "networks", "verify", "picture", "a model")


def judged(path: Path, number: int) -> str:
    """How far the file came. Everything but an error of ours goes up."""
    stage = ""
    try:
        source = open_model(path)
        stage = "networks"
        pipe = tinydiff.Pipeline(build(source, weights="auto", backend="auto", prediction_type=None))
        if number % VERIFIED == 0 and source.kind == "packed":
            stage = "verify"
            verify(source)
        if number % DRAWN == 0:
            stage = "picture"
            pipe("a cat", width=16 * FACTOR, height=8 * FACTOR, num_inference_steps=1, seed=1)
    except TinyDiffError as error:
        return stage or _refused_by(error)
    return "a model"


def _refused_by(error: TinyDiffError) -> str:
    """Which part of opening found the fault."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        name = os.path.basename(frame.f_code.co_filename)
        if name in PACKED:
            return "metadata"
        if name in CONTAINER:
            return "container"
    return "other kind"


def content_of(seeds: list[Seed], number: int) -> tuple[bytes, str]:
    rng = random.Random(number)
    return damaged(rng.choice(seeds), rng)


def run_batch(seeds: list[Seed], path: Path, numbers: range, at: mmap.mmap, kept: Path) -> dict[str, Any]:
    """In a process of its own; `at` tells the parent which number this is, should it never return."""
    gc.freeze()
    warnings.simplefilter("ignore")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, resource.RLIM_INFINITY))
    outcomes: Counter[str] = Counter()
    bad: list[str] = []
    slowest = 0.0
    for number in numbers:
        struct.pack_into("<Q", at, 0, number)
        content, damage = content_of(seeds, number)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # ends the process; of its own time, not of others' beside it
        start = time.process_time()
        try:
            outcomes[f"{damage}: {judged(path, number)}"] += 1
        except Exception as error:
            bad.append(report(number, content, f"{type(error).__name__}: {error!s:.200}", kept))
        signal.setitimer(signal.ITIMER_PROF, 0)
        slowest = max(slowest, time.process_time() - start)
    return {"outcomes": outcomes, "bad": bad, "slowest": round(slowest, 2)}


def report(number: int, content: bytes, what: str, kept: Path) -> str:
    file = kept / f"fuzz-{number}.safetensors"
    file.write_bytes(content)
    print(f"{number}: {what} ({file})", flush=True)
    return f"{number}: {what}"


def in_child(seeds: list[Seed], path: Path, numbers: range, kept: Path) -> list[dict[str, Any]]:
    """The batch's results; a number that kills the process is reported, and the rest goes on without it."""
    at, result = mmap.mmap(-1, 8), path.with_suffix(".json")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            result.write_text(json.dumps(run_batch(seeds, path, numbers, at, kept)))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status == 0:
        return [{"first": numbers.start, "count": len(numbers), **json.loads(result.read_text())}]
    died = struct.unpack_from("<Q", at)[0]
    what = f"killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "the process ended"
    bad = report(died, content_of(seeds, died)[0], what, kept)
    lost = {"first": died, "count": 1, "outcomes": {}, "bad": [bad], "slowest": SECONDS}
    before, after = range(numbers.start, died), range(died + 1, numbers.stop)
    return [r for part in (before, after) if part for r in in_child(seeds, path, part, kept)] + [lost]


def summary(rows: list[dict[str, Any]]) -> str:
    """A table: the first damage of a file, and how far it came."""
    table: dict[str, Counter[str]] = {}
    for row in rows:
        for key, count in row["outcomes"].items():
            damage, stage = key.rsplit(": ", 1)
            table.setdefault(damage, Counter())[stage] += count
    table["all"] = sum(table.values(), Counter())
    lines = [f"{'':<16}" + "".join(f"{stage:>12}" for stage in STAGES)]
    for damage, found in sorted(table.items(), key=lambda item: item[0] == "all"):
        lines.append(f"{damage:<16}" + "".join(f"{found[stage]:>12}" for stage in STAGES))
    files, total = sum(row["count"] for row in rows), table["all"].total() or 1
    beyond = 1 - table["all"]["container"] / total
    deep = 1 - sum(table["all"][stage] for stage in STAGES[:3]) / total
    bad = [text for row in rows for text in row["bad"]]
    slowest = max((row["slowest"] for row in rows), default=0)
    lines.append(f"{files} files, {beyond:.0%} came beyond the container's checks, {deep:.0%} to the networks")
    lines.append(f"{len(bad)} bad, slowest {slowest:.2f} s")
    return "\n".join([*lines, *bad])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--log", type=Path, default=Path("fuzz.log"))
    parser.add_argument("--kept", type=Path, default=Path("."), help="folder for files that were not refused properly")
    parser.add_argument("--one", nargs=2, metavar=("NUMBER", "FILE"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        seeds = [Seed(content) for content in packed(Path(name)).values()]
        if args.one:
            Path(args.one[1]).write_bytes(content_of(seeds, int(args.one[0]))[0])
            return 0
        warm.load()  # once: a child has them
        args.kept.mkdir(parents=True, exist_ok=True)
        rows = [json.loads(line) for line in args.log.read_text().splitlines()] if args.log.exists() else []
        done, began = sum(row["count"] for row in rows), time.monotonic()
        while done < args.count:
            numbers = range(args.first + done, args.first + min(done + BATCH, args.count))
            made = in_child(seeds, Path(name) / "x.safetensors", numbers, args.kept)
            with args.log.open("a") as log:
                log.write("".join(json.dumps(row) + "\n" for row in made))
            rows += made
            done += sum(row["count"] for row in made)
        print(f"{time.monotonic() - began:.0f} s")
    print(summary(rows))
    return int(any(row["bad"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
