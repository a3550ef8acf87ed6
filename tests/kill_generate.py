"""By hand: `generate --journal` and `resume` killed at many random moments, until each picture is done.

    python tests/kill_generate.py --moments 50

Every picture must have the pixels of an undisturbed one, and nothing but pictures may be left. A kill may come while
Python starts, while the model loads, in a step, in the decoder or while the picture is written.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=50, help="kills in all")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp())
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    make = [
        *["generate", "--size", "128x128", "--seed", "3", "--cfg", "4", "--sampler"],
        "Euler a",
        "--steps",
        str(args.steps),
        "a cat",
    ]
    run(folder, [*make, "-o", "whole.png"])
    started = time.monotonic()
    run(folder, [*make, "-o", "whole.png", "--force"])
    length = time.monotonic() - started
    kills = pictures = resumed = 0
    said: dict[str, int] = {}
    while kills < args.moments:
        name = f"{pictures}.png"
        command = [*make, "-o", name, "--journal", f"{pictures}.journal"]
        while True:
            code, err = run(folder, command, moments.uniform(0, 1.1 * length))
            for line in err.splitlines():
                if "was killed in" in line:
                    stage = line.split("was killed in ")[1].split(":")[0]
                    said[stage] = said.get(stage, 0) + 1
            if code == 0:
                break
            assert code == -9, (code, err)
            kills += 1
            if (folder / f"{pictures}.journal").exists():
                command = ["resume", f"{pictures}.journal"]
                resumed += 1
            elif (folder / name).exists():
                break  # killed after all was done
        same = np.array_equal(np.asarray(Image.open(folder / name)), np.asarray(Image.open(folder / "whole.png")))
        assert same, f"{name} differs"
        left = sorted(file.name for file in folder.iterdir() if file.suffix not in (".png", ".tmp"))
        assert left == ["state"], left
        pictures += 1
    print(f"{kills} kills, {pictures} pictures all equal to the undisturbed one, {resumed} times resumed; told: {said}")
    return 0


def run(folder: Path, arguments: list[str], kill_after: float | None = None) -> tuple[int, str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tinydiff", *arguments],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        _, err = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
    return process.returncode, err


if __name__ == "__main__":
    sys.exit(main())
