"""Hard limits: does a picture finish within its memory, and was the peak foreseen?

    python bench/memory.py [--cases NAME ...] [--models FOLDER] [--python PYTHON] [-o FILE]
    python bench/memory.py --beside 2            # every case in turn with its limit and without, for the time beside it
    python bench/memory.py --random 12

Each case runs in a control group of its own (version 1, `memory.limit_in_bytes`, no swap) and starts cold: the model
and the libraries that no other process maps are written out and dropped from the page cache, and mincore must find none
of their pages. Page cache is charged to whoever reads it first, so this script imports none of those libraries. While
the child runs, its RssAnon and RssFile are read from /proc every 20 ms.

On a core that others use too, seconds say more about them than about us; `cpu` is the processor time of the child and
all its threads, start and planning included.

`--python` names an interpreter whose site-packages no other process uses (a copy of an environment): of libraries that
others map no page can be dropped. Compile the kernels before (`tinydiff warmup`).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MB = 2**20
GROUPS = Path("/sys/fs/cgroup/memory")
PERIOD = 0.02
TRIES = 10
LIBRARIES = ("numpy", "numpy.libs", "numba", "llvmlite", "llvmlite.libs")
RUN = Path(__file__).with_name("memory_run.py")


@dataclass(frozen=True)
class Case:
    """`limit` in MB, of the control group; the budget given to tinydiff is the same. None: neither."""

    name: str
    model: str | None  # below the folder of models; None: the embedded one
    size: str
    limit: int | None
    aim: int | None = None
    weights: str = "auto"
    vae: str | None = None
    steps: int = 1
    native: bool = False  # kernels compiled ahead of time


CASES = [
    Case("sd15-512-int8", "sd15-int8.safetensors", "512x512", 450, 320),
    Case("sd15-512-int4-taesd", "sd15-int4.safetensors", "512x512", 350, 250, vae="taesd"),
    Case("sd15-768-int8", "sd15-int8.safetensors", "768x768", 800, 520),
    Case("sd15-512-fp16-file", "sd15-fp16.safetensors", "512x512", 700, 500),
    Case("sdxl-1024-int8", "sdxl-int8.safetensors", "1024x1024", 1400, 900),
    Case("sdxl-1024-int8-wide-vae", "sdxl-int8.safetensors", "1024x1024", 1400, 900, vae="sdxl/vae"),
    Case("embedded", None, "", None),
    Case("embedded-native", None, "", None, native=True),
    Case("sd15-512-int4-taesd-resident", "sd15-int4.safetensors", "512x512", None, vae="taesd"),
    Case("sd15-512-int4-taesd-resident-native", "sd15-int4.safetensors", "512x512", None, vae="taesd", native=True),
]


# ------------------------------------------------------------------------------------------------ cold starts


def drop(paths: list[Path]) -> int:
    """Write files out and drop their pages; how many pages are left, of all."""
    left = 0
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            if size:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                left += in_core(descriptor, size)
        finally:
            os.close(descriptor)
    return left


def in_core(descriptor: int, size: int) -> int:
    """Pages of a file in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    pages = -(-size // mmap.PAGESIZE)
    vector = (ctypes.c_ubyte * pages)()
    if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), vector) != 0:
        raise OSError(ctypes.get_errno(), "mincore")
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    return sum(byte & 1 for byte in vector)


def files_of(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def libraries_of(python: str) -> list[Path]:
    """Files of the libraries of an interpreter, found without importing them."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folder = Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    return [file for name in LIBRARIES for file in files_of(folder / name) if (folder / name).exists()]


# ------------------------------------------------------------------------------------------------ one run


def measure(case: Case, models: Path, python: str, *, cold: bool = True) -> dict[str, Any]:
    """Run a case: what it said of itself, what was seen of it from outside."""
    found: dict[str, Any] = {"case": case.name, "limit": case.limit, "size": case.size, "weights": case.weights}
    found |= {"date": time.strftime("%Y-%m-%d %H:%M"), "cpu": cpu_name(), "cold": cold, "native": case.native}
    wanted = [models / case.model] if case.model else []
    wanted += [models / case.vae] if case.vae else []
    files = [file for path in wanted for file in files_of(path)]
    environment = {**os.environ}
    if not case.native:
        environment["TINYDIFF_NATIVE"] = "0"
    if not case.limit:
        found["plan"] = plan_of(case, models, python, environment)
    if cold:
        for _ in range(TRIES):  # pages that a core has just read are on a list of its own for a moment
            found["model_pages_before"] = drop(files)
            if not found["model_pages_before"]:
                break
            time.sleep(1)
        found["library_pages_before"] = drop(libraries_of(python))
        if found["model_pages_before"]:
            raise SystemExit(f"{case.name}: pages of the model are still in memory; another process maps it")
    command = [python, str(RUN), "--steps", str(case.steps), "--weights", case.weights]
    command += arguments_of(case, models)
    command += ["--memory", f"{case.limit}MB"] if case.limit else []
    group = GROUPS / f"tinydiff-{os.getpid()}"
    if case.limit:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(case.limit * MB))
    try:
        told = _watched(command, group if case.limit else None, environment)
        found |= told if told.get("plan") else {k: v for k, v in told.items() if k != "plan"}
        if case.limit:
            found["group_peak"] = int((group / "memory.max_usage_in_bytes").read_text())
    finally:
        if case.limit:
            group.rmdir()
    return found


def arguments_of(case: Case, models: Path) -> list[str]:
    """What `tinydiff plan` and the run have in common."""
    found = [str(models / case.model)] if case.model else []
    found += ["--size", case.size] if case.size else []
    return found + (["--vae", str(models / case.vae)] if case.vae else [])


def plan_of(case: Case, models: Path, python: str, environment: dict[str, str]) -> dict[str, Any]:
    """The plan of a run that has no limit and so makes none itself."""
    command = [python, "-m", "tinydiff", "plan", *arguments_of(case, models), "--json"]
    made: dict[str, Any] = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    )
    return made


def cpu_name() -> str:
    """Of Linux; the instructions in use are the path that `tinydiff doctor` names."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _watched(command: list[str], group: Path | None, environment: dict[str, str]) -> dict[str, Any]:
    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=enter, env=environment
    )
    anonymous = file = together = 0
    while child.poll() is None:
        fields = _status(child.pid)
        now = fields.get("RssAnon", 0), fields.get("RssFile", 0)
        anonymous, file, together = max(anonymous, now[0]), max(file, now[1]), max(together, sum(now))
        time.sleep(PERIOD)
    out, err = child.communicate()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    found: dict[str, Any] = {"seconds": time.monotonic() - started, "cpu_seconds": cpu, "rc": child.returncode}
    found |= {"finished": child.returncode == 0, "rss_anon": anonymous, "rss_file": file, "rss": together}
    if child.returncode == 0:
        found |= json.loads(out)
    else:
        killed = child.returncode == -signal.SIGKILL
        found["error"] = "killed" if killed else (err.strip().splitlines() or [""])[-1]
    return found


def _status(pid: int) -> dict[str, int]:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    rows = (line.split() for line in text.splitlines() if line.startswith("Rss"))
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}


# ------------------------------------------------------------------------------------------------ report


def row(found: dict[str, Any]) -> str:
    """A line of the table: MB."""
    plan = found.get("plan")
    planned = plan["peak"]["anonymous"] if plan else None
    ratio = f"{planned / found['rss_anon']:.2f}" if planned and found["finished"] else "-"
    state = "yes" if found["finished"] else f"no ({found.get('error', '')[-60:]})"
    arena = "-"
    if plan and found["finished"]:
        planned_arena = max(stage["arena"] for stage in plan["stages"])
        arena = f"{planned_arena / MB:.1f} / {found['arena'] / MB:.1f}"
    cells = (
        found["case"], found["limit"] or "-", state, found["rss_anon"] // MB, planned // MB if planned else "-", ratio,
        arena, found["rss_file"] // MB, found["rss"] // MB, f"{found['seconds']:.0f}", f"{found['cpu_seconds']:.0f}",
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


HEAD = (
    "| case | limit | finished | peak RssAnon | planned | planned/measured | arena planned / used | peak RssFile"
    " | peak of both | seconds | cpu |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def random_cases(count: int, seed: int) -> list[Case]:
    """Combinations of model, size, steps and budget; those that are refused are reported as such."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        base = rng.choice([c for c in CASES if c.model and not c.native and "sdxl" not in c.name])
        side, other = rng.choice([256, 320, 384, 448]), rng.choice([256, 320, 384])
        limit, steps = rng.choice([300, 400, 600, 900]), rng.choice([1, 2])
        name = f"random-{number}-{base.name}"
        made.append(replace(base, name=name, size=f"{side}x{other}", limit=limit, steps=steps))
    return made


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cases", nargs="*", default=[case.name for case in CASES])
    p.add_argument("--models", type=Path, default=Path())
    p.add_argument("--python", default=sys.executable)
    p.add_argument("--random", type=int, metavar="N", help="N random combinations instead of the cases")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--limit", type=int, metavar="MB", help="another limit than the case's")
    p.add_argument("--unlimited", action="store_true", help="without limit and budget, for the time beside it")
    p.add_argument("--beside", type=int, metavar="N", help="N times in turn with the limit and without")
    p.add_argument("--warm", action="store_true", help="leave the model in the page cache")
    p.add_argument("-o", dest="output", type=Path, help="append each run as a line of JSON")
    a = p.parse_args()
    cases = random_cases(a.random, a.seed) if a.random else [case for case in CASES if case.name in a.cases]
    cases = [replace(case, limit=None if a.unlimited else a.limit or case.limit) for case in cases]
    if a.beside:
        cases = [one for case in cases for _ in range(a.beside) for one in (case, replace(case, limit=None))]
    print(HEAD, flush=True)
    for case in cases:
        found = measure(case, a.models, a.python, cold=not a.warm)
        print(row(found), flush=True)
        if a.output is not None:
            with a.output.open("a") as file:
                file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
