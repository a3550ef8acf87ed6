"""Programs side by side on the same weights and the same numbers: all loaded, run in turn, outputs compared, medians
and ratios.

    python bench/compare.py MODEL ours:int8 torch openvino:int8 sdcpp:q8_0 --part unet --size 512 --threads 2 [--avx2]
    --peers DIR         environments of the peers, one each (bench/peers/make_env.sh DIR makes them)
    --convert           convert MODEL for the programs that read other formats, once, and end
    --file FILE         the same weights as a single file, for stable-diffusion.cpp
    --packed FILE       what `tinydiff quantize` made of them, for ours:int8 (else packed in memory while loading)
    --reference FILE    where torch's output is kept, or found in a comparison without torch
    --markdown FILE, --plot FILE, --json FILE       the table for a README, a PNG of it, all numbers

MODEL is a diffusers folder. Programs: ours:WEIGHTS, torch[:compiled], openvino:f32|int8w|int8, onnxruntime:f32|int8,
sdcpp:f32|q8_0|q4_0. Ratios are against the first, with a bootstrap interval of the ratios of each round. Outputs are
compared with the first `torch` (float32) among the programs, else with the one kept, else with the first program; one
whose output is farther than FAR is marked. `--avx2` holds everybody to AVX2 (stable-diffusion.cpp: the one that was
built for it). A program that fails, or whose environment is missing, is a row with its reason.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), *(str(HERE.parent / part) for part in ("kernels", "weights"))]
sys.path.insert(0, str(HERE / "peers"))

import commands  # noqa: E402
import numpy as np  # noqa: E402

from tinydiff.bench.statistics import Interval, ratio_interval  # noqa: E402
from tinydiff.commands.progress import byte_count  # noqa: E402
from tinydiff_kernels.cpu import this_cpu  # noqa: E402

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "DNNL_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # torch's linear layers and attention
    "OPENBLAS_CORETYPE": "Haswell",
    "TINYDIFF_PATH": "avx2",
}
SETTLE = 0.5  # seconds: thread pools of the one before spin for a while after their work
FAR = 10.0  # decibels of signal to error below which a program computes something else
NOT_RUN = {  # programs that people ask for, and why they have no row with numbers
    "OnnxStream": "not tried: built from source, its models converted by hand",
    "ncnn": "not tried: the UNet would have to be converted with pnnx first",
}


class Program:
    """One program of the comparison, loaded and waiting. `failed` says why it cannot take part."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name, self._command, self._environment = name, command, environment
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (as long as the process)
        self.process: subprocess.Popen[str] | None = None
        self.seconds: list[float] = []
        self.about: dict[str, Any] = {}
        self.failed = ""
        self.peak = 0
        self.decibels: float | None = None
        self.judge = False  # its output is what the others' are compared with

    def ready(self) -> None:
        """Start it and wait until it is loaded: one at a time, so that each has the machine to itself."""
        pipe = subprocess.PIPE
        self.failed = commands.missing(self._command[0])
        if self.failed:
            print(f"{self.name}: {self.failed}", file=sys.stderr, flush=True)
            return
        self.process = subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, stderr=self.log, text=True, env=self._environment
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ready "):
                self.about = json.loads(line[6:])
                print(f"{self.name}: {line[6:].strip()}", file=sys.stderr, flush=True)
                return
        self.process.wait()
        self.log.seek(0)
        last = self.log.read().strip().splitlines()[-1:] or ["no message"]
        self.failed = f"ended with code {self.process.returncode}: {last[0][:200]}"
        print(f"{self.name}: {self.failed}", file=sys.stderr, flush=True)

    def ask(self, line: str) -> str:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline().strip()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.failed = f"ended while it was asked to {line.split()[0]}"
        return answer

    def run(self) -> None:
        if answer := self.ask("go"):
            self.seconds.append(float(answer))

    def end(self) -> None:
        if self.process is not None:
            with self.process:  # closes its pipes, then waits for it
                self.process.kill()
        self.log.close()


def collect(programs: list[Program], rounds: int, *, hold: bool, reference: Path | None = None) -> None:
    """Load one after the other, outputs first, then times in turn, then memory."""
    for program in programs:
        program.ready()
    compare_outputs([p for p in programs if not p.failed], reference)
    if hold:
        print("all loaded", flush=True)
        sys.stdin.readline()
    for _ in range(rounds):
        for program in (p for p in programs if not p.failed):
            time.sleep(SETTLE)
            program.run()
        print("round", *(f"{p.seconds[-1]:.3f}" for p in programs if p.seconds), file=sys.stderr, flush=True)
    for program in (p for p in programs if not p.failed):
        program.peak = int(program.ask("memory") or 0)


def compare_outputs(programs: list[Program], reference: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        saved = {}
        for number, program in enumerate(programs):
            file = f"{folder}/{number}.npy"
            if program.ask(f"output {file}") == "saved":
                saved[program.name] = np.load(file).astype(np.float64)
    judge = next((name for name in saved if name.startswith("torch")), None)
    if judge is not None and reference is not None:
        np.save(reference, saved[judge])
    kept = judge is None and reference is not None and reference.exists()
    judge = judge or (None if kept else next(iter(saved), None))
    wanted = np.load(reference) if kept and reference is not None else saved.get(judge or "")
    for program in programs:
        program.judge = program.name == judge
        if wanted is not None and program.name in saved and not program.judge:
            program.decibels = decibels(wanted, saved[program.name])


def decibels(wanted: Any, got: Any) -> float:
    if wanted.shape != got.shape:
        return -np.inf
    error = float(np.square(got - wanted).mean())
    return float(10 * np.log10(float(np.square(wanted).mean()) / error)) if error else 300.0


# ------------------------------------------------------------------------------------------------ what is said


def against_first(programs: list[Program]) -> dict[str, Interval | None]:
    """Ratio of times to the first program's: runs of one round met the same minute, so ratios are taken within
    rounds."""
    first = programs[0].seconds
    found = {}
    for program in programs:
        ratios = [b / a for a, b in zip(first, program.seconds, strict=False)]
        found[program.name] = ratio_interval([1.0] * len(ratios), ratios)
    return found


def rows(programs: list[Program]) -> Iterator[list[str]]:
    intervals = against_first(programs)
    for program in programs:
        if program.failed or not program.seconds:
            yield [program.name, "-", "-", "-", "-", "-", program.failed or "no time"]
            continue
        interval, middle = intervals[program.name], statistics.median(program.seconds)
        ratio = "1" if program is programs[0] else f"{middle / statistics.median(programs[0].seconds):.2f}"
        if interval is not None and program is not programs[0]:
            ratio = f"{interval.ratio:.2f} ({interval.low:.2f} to {interval.high:.2f})"
        quality = "the others' measure" if program.judge else "not comparable"
        if program.decibels is not None:
            quality = f"{program.decibels:.1f} dB"
        if program.decibels is not None and program.decibels < FAR:
            quality += ": computes something else"
        yield [
            f"{program.about['program']} {program.about.get('version', '')}".strip(),
            f"{middle:.3f}",
            ratio,
            f"{program.about['load_seconds']:.1f}",
            byte_count(program.peak),
            byte_count(program.about["disk"]),
            quality,
        ]
    for name, why in NOT_RUN.items():
        yield [name, "-", "-", "-", "-", "-", why]


HEAD = ["program", "seconds", "ratio to the first", "load s", "peak RSS", "on disk", "output against torch"]


def markdown(programs: list[Program], options: argparse.Namespace) -> str:
    cpu = this_cpu()
    held = "; all held to AVX2" if options.avx2 else ""
    what = f"{options.part}, {options.size}x{options.size}, {options.threads} threads, {options.rounds} rounds{held}"
    table = [HEAD, ["---"] * len(HEAD), *rows(programs)]
    lines = [f"{datetime.date.today()}, {cpu.model} ({' '.join(sorted(cpu.features))}), {what}.", ""]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in table)]) + "\n"


def plot(programs: list[Program], options: argparse.Namespace) -> None:
    from matplotlib.figure import Figure

    shown = [p for p in programs if p.seconds and not p.failed]
    figure = Figure(figsize=(7, 1 + 0.4 * len(shown)), layout="constrained")
    axes = figure.subplots()
    middles = [statistics.median(p.seconds) for p in shown]
    spread = [[m - min(p.seconds) for m, p in zip(middles, shown, strict=True)],
              [max(p.seconds) - m for m, p in zip(middles, shown, strict=True)]]  # fmt: skip
    axes.barh([p.about["program"] for p in shown], middles, xerr=spread, color=["C1", *["C0"] * (len(shown) - 1)])
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds: {options.part}, {options.size}x{options.size}, {options.threads} threads")
    figure.savefig(options.plot, format="png", dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a diffusers folder")
    parser.add_argument("programs", nargs="+", help="ratios are against the first")
    parser.add_argument("--part", choices=("unet", "vae"), default="unet")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--hold", action="store_true", help="when all are loaded, wait for a line on standard input")
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="folder of the peers' environments")
    parser.add_argument("--convert", action="store_true", help="convert models and end")
    parser.add_argument("--file", help="single file for stable-diffusion.cpp")
    parser.add_argument("--packed", help="packed file for ours:int8")
    parser.add_argument("--reference", type=Path, help="torch's output, as .npy")
    for flag in ("--markdown", "--plot", "--json"):
        parser.add_argument(flag)
    options = parser.parse_args()
    if unknown := [name for name in options.programs if name.partition(":")[0] not in commands.DEFAULTS]:
        parser.error(f"unknown program {unknown[0]}; known: {', '.join(commands.DEFAULTS)}")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    environment |= {"OMP_NUM_THREADS": str(options.threads), **(AVX2 if options.avx2 else {})}
    places = [str(HERE.parent / part) for part in (".", "kernels", "weights")]
    environment["PYTHONPATH"] = os.pathsep.join(places)
    if options.convert:
        made = [commands.convert(name, options, environment) for name in options.programs]
        return 0 if all(made) else 1
    programs = [Program(name, commands.command_of(name, options), environment) for name in options.programs]
    try:
        collect(programs, options.rounds, hold=options.hold, reference=options.reference)
    finally:
        for program in programs:
            program.end()
    text = markdown(programs, options)
    print(text)
    if options.markdown:
        Path(options.markdown).write_text(text, encoding="utf-8")
    if options.plot:
        plot(programs, options)
    if options.json:
        Path(options.json).write_text(json.dumps(record(programs, options), indent=1) + "\n", encoding="utf-8")
    return 0


def record(programs: list[Program], options: argparse.Namespace) -> dict[str, Any]:
    """Every number, for bench/results/."""
    cpu = this_cpu()
    settings = {key: getattr(options, key) for key in ("part", "size", "threads", "rounds", "avx2")}
    made = [
        {
            "name": p.name,
            "failed": p.failed,
            "judge": p.judge,
            "about": p.about,
            "seconds": p.seconds,
            "peak_bytes": p.peak,
            "decibels": p.decibels,
        }
        for p in programs
    ]
    return {
        "date": str(datetime.date.today()),
        "cpu": f"{cpu.model}, {' '.join(sorted(cpu.features))}",
        "versions": {p.name: p.about.get("version", "") for p in programs},
        "runs": [{**settings, "programs": made}],
        "not_run": NOT_RUN,
    }


if __name__ == "__main__":
    sys.exit(main())
