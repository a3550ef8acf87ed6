"""Programs side by side: all loaded, run in turn, medians and ratios.

    python bench/compare.py MODEL ours:int8 torch openvino sdcpp:q8_0 --part unet --size 512 --threads 2 [--avx2]
    --peers PYTHON    interpreter of the peers (their packages live in an environment of their own)
    --file FILE       the same weights as a single file, for stable-diffusion.cpp

`--avx2` holds everybody to AVX2. Every line names the CPU; raw seconds go to standard output as JSON at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent / "peers"
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "DNNL_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # torch's linear layers and attention
    "OPENBLAS_CORETYPE": "Haswell",
    "TINYDIFF_PATH": "avx2",
}


SETTLE = 0.5  # seconds: thread pools of the one before spin for a while after their work


class Program:
    """One program of the comparison, loaded and waiting."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.seconds: list[float] = []

    def ready(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ready "):
                print(f"{self.name}: {line[6:].strip()}", flush=True)
                return
        raise SystemExit(f"{self.name} ended before it was ready (exit {self.process.wait()})")

    def run(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.seconds.append(float(self.process.stdout.readline()))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def command_of(name: str, options: argparse.Namespace) -> list[str]:
    kind, _, setting = name.partition(":")
    common = [str(options.size), str(options.threads)]
    if kind == "ours":
        return [sys.executable, str(HERE / "ours.py"), options.part, options.model, setting or "float32", *common]
    if kind == "sdcpp":
        return [options.peers, str(HERE / "sdcpp.py"), options.file, setting or "q8_0", *common]
    script = {"torch": "torch_diffusers.py", "openvino": "openvino_step.py"}[kind]
    return [options.peers, str(HERE / script), options.part, options.model, *common]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a diffusers folder")
    parser.add_argument(
        "programs", nargs="+", help="ours:WEIGHTS, torch, openvino, sdcpp:TYPE; ratios are against the first"
    )
    parser.add_argument("--part", choices=("unet", "vae"), default="unet")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--hold", action="store_true", help="when all are loaded, wait for a line on standard input")
    parser.add_argument("--peers", default=sys.executable, help="Python of the peers")
    parser.add_argument("--file", help="single file for stable-diffusion.cpp")
    options = parser.parse_args()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    environment |= {"OMP_NUM_THREADS": str(options.threads), **(AVX2 if options.avx2 else {})}
    programs = [Program(name, command_of(name, options), environment) for name in options.programs]
    try:
        for program in programs:
            program.ready()
        if options.hold:
            print("all loaded", flush=True)
            sys.stdin.readline()
        for _ in range(options.rounds):
            for program in programs:
                time.sleep(SETTLE)
                program.run()
            print("round", *(f"{program.seconds[-1]:.3f}" for program in programs), flush=True)
    finally:
        for program in programs:
            program.end()
    first = statistics.median(programs[0].seconds)
    for program in programs:
        middle = statistics.median(program.seconds)
        low, high = min(program.seconds), max(program.seconds)
        print(f"{program.name:24} {middle:8.3f} s ({low:.3f} to {high:.3f}) {middle / first:6.2f}x the first")
    print(json.dumps({"options": vars(options), "seconds": {p.name: p.seconds for p in programs}}))


if __name__ == "__main__":
    main()
