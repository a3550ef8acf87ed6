"""The peer table: all programs at several sizes, in pieces that fit into memory, within a given time.

    python bench/peer_table.py MODEL --convert ...                      once: models for the programs that convert
    python bench/peer_table.py MODEL --minutes 20 --results DIR ...     times; again, with the same DIR: what is missing

    --peers DIR --file FILE --packed FILE       see compare.py
    --cache DIR                                 where conversions are kept
    --sizes 256 --rounds 2                      only pieces of this size, fewer rounds: does everything run?

Every piece is one run of compare.py with `ours:int8` first, so that a ratio is always of times taken in turn. Pieces
come in order of what they tell; one that does not fit into the time that is left is not begun. DIR receives their JSON
files and, from all that are there, `peers.json`, `peers.md` and `peers.png`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "peers")]

import commands  # noqa: E402
from compare import FAR, NOT_RUN  # noqa: E402
from protocol import CACHE_VARIABLE  # noqa: E402

from tinydiff.bench.statistics import ratio_interval  # noqa: E402
from tinydiff.commands.progress import byte_count  # noqa: E402

GRACE = 2.0  # a piece that takes so many times what was expected is stopped


@dataclass(frozen=True)
class Piece:
    part: str
    size: int
    avx2: bool
    programs: str
    rounds: int
    seconds: int  # what it took, or would take, two cores of a Xeon with VNNI: loading and all rounds

    @property
    def name(self) -> str:
        programs = self.programs.replace(":", "-").replace(" ", "+")
        return f"{self.part}-{self.size}-{'avx2' if self.avx2 else 'best'}-{programs}"


def pieces() -> list[Piece]:
    """At most three big programs in memory at a time. stable-diffusion.cpp alone: a step of it takes 40 seconds at
    512x512, so it has two rounds, which give a ratio and no interval."""
    found = []
    for size, scale in ((512, 1.0), (256, 0.45)):
        for programs, seconds in (
            ("torch ours:float32", 170),
            ("openvino:f32 openvino:int8w openvino:int8", 110),
            ("onnxruntime:f32 onnxruntime:int8", 120),
            ("torch:compiled", 150),
        ):
            found.append(Piece("unet", size, False, programs, 5, int(scale * seconds)))
        found.append(Piece("unet", size, False, "sdcpp:q8_0", 2, 215 if size == 512 else 70))
    found.append(Piece("vae", 512, False, "torch ours:float32", 5, 180))
    found.append(Piece("vae", 512, False, "openvino:f32 onnxruntime:f32", 5, 150))
    for program, seconds in (("openvino:int8w", 90), ("openvino:int8", 55), ("onnxruntime:int8", 95)):
        found.append(Piece("vae", 512, False, program, 5, seconds))
    found.append(Piece("vae", 512, False, "torch:compiled", 5, 240))
    found += [Piece("unet", 256, False, f"sdcpp:{kind}", 2, 70) for kind in ("f32", "q4_0")]
    for size, scale in ((512, 1.0), (256, 0.45)):
        found.append(Piece("unet", size, True, "torch ours:float32", 5, int(scale * 220)))
        found.append(Piece("unet", size, True, "openvino:f32 openvino:int8 onnxruntime:f32", 5, int(scale * 200)))
    found += [Piece("unet", size, True, "sdcpp:q8_0", 2, seconds) for size, seconds in ((512, 250), (256, 80))]
    return [*found, *(Piece("unet", 512, False, f"sdcpp:{kind}", 2, 215) for kind in ("f32", "q4_0"))]


def chosen(options: argparse.Namespace) -> list[Piece]:
    """Of the sizes asked for."""
    sizes = [int(size) for size in options.sizes.split(",")]
    return [replace(p, rounds=options.rounds or p.rounds) for p in pieces() if p.size in sizes]


def convert(options: argparse.Namespace, environment: dict[str, str]) -> bool:
    """Every conversion that the pieces need, one after the other; small sizes first, which calibrate fastest."""
    wanted = {
        (piece.part, program, piece.size): None
        for piece in sorted(chosen(options), key=lambda piece: piece.size)
        for program in piece.programs.split()
    }
    environment = {**environment, "OMP_NUM_THREADS": str(options.threads)}
    done = []
    for part, program, size in wanted:
        piece_options = argparse.Namespace(**vars(options), part=part, size=size, avx2=False)
        done.append(commands.convert(program, piece_options, environment))
    return all(done)


def measure(piece: Piece, options: argparse.Namespace, environment: dict[str, str]) -> None:
    first = "ours:int8_limited" if piece.avx2 else "ours:int8"
    reference = options.results / f"{piece.part}-{piece.size}.npy"
    command = [
        sys.executable, str(HERE / "compare.py"), options.model, first, *piece.programs.split(), "--part", piece.part,
        "--size", str(piece.size), "--threads", str(options.threads), "--rounds", str(piece.rounds),
        "--peers", str(options.peers), "--reference", str(reference),
        "--json", str(options.results / f"{piece.name}.json"),
        *(["--avx2"] if piece.avx2 else []),
        *(["--file", options.file] if options.file else []), *(["--packed", options.packed] if options.packed else []),
    ]  # fmt: skip
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        process.wait(GRACE * options.slack * piece.seconds + 60)
    except subprocess.TimeoutExpired:
        print(f"{piece.name}: stopped, took too long", flush=True)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# ------------------------------------------------------------------------------------------------ what is said


def measured(results: Path) -> dict[tuple[bool, str, str, int], dict[str, Any]]:
    """(held to AVX2, program, part, size) -> figures; of a program in several pieces, the first."""
    found: dict[tuple[bool, str, str, int], dict[str, Any]] = {}
    for piece in pieces():
        file = results / f"{piece.name}.json"
        if not file.exists():
            continue
        record = json.loads(file.read_text(encoding="utf-8"))
        (run,) = record["runs"]
        first = run["programs"][0]["seconds"]
        for program in run["programs"]:
            ratios = [b / a for a, b in zip(first, program["seconds"], strict=False)]
            program["interval"] = ratio_interval([1.0] * len(ratios), ratios)
            program["ratio"] = statistics.median(ratios) if ratios else None
            program |= {
                "cpu": record["cpu"],
                "date": record["date"],
                "rounds": run["rounds"],
                "threads": run["threads"],
            }
            found.setdefault((piece.avx2, program["name"], piece.part, piece.size), program)
    return found


def seconds_of(figure: dict[str, Any] | None) -> str:
    """Median, and the ratio to ours in the same rounds."""
    if figure is None:
        return "not measured"
    if figure["failed"] or not figure["seconds"]:
        return figure["failed"] or "no time"
    text, interval = f"{statistics.median(figure['seconds']):.3f}", figure["interval"]
    if figure["name"].startswith("ours:int8"):
        return text
    if interval is None:
        return f"{text} ({figure['ratio']:.2f}x, {len(figure['seconds'])} rounds)"
    return f"{text} ({interval.ratio:.2f}x, {interval.low:.2f} to {interval.high:.2f})"


def quality_of(figure: dict[str, Any]) -> str:
    if figure["judge"]:
        return "the others' measure"
    decibels = figure["decibels"]
    if decibels is None:
        return "not comparable"
    return f"{decibels:.1f} dB" + (": computes something else" if decibels < FAR else "")


COLUMNS = (("unet", 512, "UNet step 512x512"), ("unet", 256, "UNet step 256x256"), ("vae", 512, "VAE decode 512x512"))


def table(found: dict[tuple[bool, str, str, int], dict[str, Any]], *, avx2: bool) -> list[str]:
    names = list(dict.fromkeys(name for held, name, _, _ in found if held == avx2))
    if not names:
        return []
    some = next(iter(found.values()))
    held = "all held to AVX2" if avx2 else "each at its best instruction set"
    head = ["program", *(title for _, _, title in COLUMNS), "load s", "peak RSS", "on disk", "output against torch"]
    lines = [f"{some['date']}, {some['cpu']}, {some['threads']} threads, {held}. Seconds (ratio to the first row).", ""]
    lines += [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head))]
    for name in names:
        figures = [found.get((avx2, name, part, size)) for part, size, _ in COLUMNS]
        known = next((f for f in figures if f is not None and not f["failed"] and f["about"]), None)
        row = [name, *map(seconds_of, figures)]
        if known is None:
            row += ["-"] * 4
        else:
            about = known["about"]
            row[0] = f"{about['program']} {about.get('version', '').split('-')[0]}".strip()
            row += [f"{about['load_seconds']:.1f}", byte_count(known["peak_bytes"]), byte_count(about["disk"])]
            row.append(quality_of(known))
        lines.append(f"| {' | '.join(row)} |")
    if not avx2:
        lines += [f"| {name} | {why} |{' - |' * (len(head) - 2)}" for name, why in NOT_RUN.items()]
    return [*lines, ""]


def plot(found: dict[tuple[bool, str, str, int], dict[str, Any]], file: Path) -> None:
    """Seconds of a UNet step, both sizes; whiskers from the fastest to the slowest round. Points on a logarithmic axis,
    which has no zero for bars to start from."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    names = list(dict.fromkeys(f["name"] for (avx2, _, part, _), f in found.items() if not avx2 and part == "unet"))
    figure = Figure(figsize=(9, 1.5 + 0.3 * len(names)), layout="constrained")
    for axes, size in zip(figure.subplots(1, 2, sharey=True), (512, 256), strict=True):
        for place, name in enumerate(names):
            one = found.get((False, name, "unet", size))
            if one is None or one["failed"] or not one["seconds"]:
                continue
            middle = statistics.median(one["seconds"])
            spread = [[middle - min(one["seconds"])], [max(one["seconds"]) - middle]]
            axes.errorbar(middle, place, xerr=spread, fmt="o", color="C1" if name.startswith("ours") else "C0")
            axes.annotate(f"{middle:.2f}", (middle, place), (0, 5), textcoords="offset points", ha="center", fontsize=8)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel=f"seconds a UNet step, {size}x{size}", xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.15)
        axes.grid(axis="x", linewidth=0.3)
    axes.set_ylim(len(names) - 0.5, -0.7)
    figure.savefig(file, format="png", dpi=110)


def write(results: Path) -> None:
    """`peers.json`, `peers.md`, `peers.png` of all pieces that are there."""
    found = measured(results)
    if not found:
        return
    records = [
        json.loads(f.read_text(encoding="utf-8")) for p in pieces() if (f := results / f"{p.name}.json").exists()
    ]
    (results / "peers.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    text = "\n".join([*table(found, avx2=False), *table(found, avx2=True)])
    (results / "peers.md").write_text(text, encoding="utf-8")
    plot(found, results / "peers.png")
    print(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a diffusers folder")
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="folder made by bench/peers/make_env.sh")
    parser.add_argument("--file", help="single file for stable-diffusion.cpp")
    parser.add_argument("--packed", help="packed file for ours:int8")
    parser.add_argument("--cache", help="where conversions are kept (default: beside the model)")
    parser.add_argument("--results", type=Path, default=Path("peer-results"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--sizes", default="512,256")
    parser.add_argument("--rounds", type=int, help="of every piece (default: 5, and 2 of the slowest programs)")
    parser.add_argument("--slack", type=float, default=1.0, help="how much slower than expected this machine is")
    parser.add_argument("--convert", action="store_true", help="convert models and end")
    options = parser.parse_args()
    environment = dict(os.environ) | ({CACHE_VARIABLE: str(Path(options.cache).resolve())} if options.cache else {})
    if options.convert:
        return 0 if convert(options, environment) else 1
    options.results.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    for piece in chosen(options):
        if (options.results / f"{piece.name}.json").exists():
            continue
        if piece.programs.startswith("sdcpp") and not options.file:
            continue
        if (left := end - time.monotonic()) < options.slack * piece.seconds:
            print(f"{piece.name}: not begun, {left:.0f} s are left of {piece.seconds} needed", flush=True)
            continue
        started = time.monotonic()
        measure(piece, options, environment)
        print(f"{piece.name}: {time.monotonic() - started:.0f} s, expected {piece.seconds}", flush=True)
    write(options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
