"""Two checkouts timed in turn, for what the gate cannot see: caches, latency, threads, Python.

    python bench/ab.py OLD NEW [--part unet|vae] [--weights int8] [--size 256] [--threads N] [--model MODEL]

OLD and NEW are folders of checkouts (`git worktree add ../old COMMIT`). Each runs one network of MODEL (a diffusers
folder; default: the checkout's own embedded model) in a process of its own; they stay loaded and run alternately, so
that both meet the same minutes of the machine. The interval is a bootstrap of the ratio of medians over rounds;
where it reaches 1, give or take 2 %, no difference was seen. Run it twice with OLD and NEW the same to learn what
this machine can resolve today.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [
    str(HERE.parent),
    str(HERE),
    str(HERE / "peers"),
    *(str(HERE.parent / part) for part in ("kernels", "weights")),
]

from compare import SETTLE, Program  # noqa: E402

from tinydiff.bench.statistics import ratio_interval, verdict  # noqa: E402


def program(name: str, checkout: Path, options: argparse.Namespace) -> Program:
    """The checkout's own sources and its own `ours.py`."""
    folders = [checkout / "weights" / name for name in ("train/master", "tinydiff_weights/default")]  # now, and once
    model = options.model or str(next(folder for folder in folders if folder.is_dir()))
    places = [str(checkout / part) for part in (".", "kernels", "weights")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, str(checkout / "bench/peers/ours.py"), options.part, model, options.weights]
    return Program(name, [*command, str(options.size), str(options.threads)], environment)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs=2, type=Path, metavar=("OLD", "NEW"))
    parser.add_argument("--part", choices=("unet", "vae"), default="unet")
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model")
    options = parser.parse_args()
    both = [
        program(name, where.resolve(), options) for name, where in zip(("old", "new"), options.checkouts, strict=True)
    ]
    try:
        for one in both:
            one.ready()
            if one.failed:
                raise SystemExit(f"{one.name}: {one.failed}")
        for number in range(options.rounds):
            for one in both if number % 2 else both[::-1]:
                time.sleep(SETTLE)
                one.run()
    finally:
        for one in both:
            one.end()
    for one in both:
        print(f"{one.name}: " + " ".join(f"{s:.4f}" for s in one.seconds))
    print("new against old:", verdict(ratio_interval(both[0].seconds, both[1].seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
