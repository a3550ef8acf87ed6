"""Packed files with random damage, as many as one likes; by hand, where tinydiff is installed:

    python tests/fuzz_packed.py [COUNT] [SEED]          a million by default

The seeds are packed miniatures (int8, int4 and mixed). Every file must end in an error of ours or in a model, within
ten seconds and a gigabyte; anything else is reported with its seed, its bytes are kept, and the run ends with 1.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from miniatures import write_folder

from tinydiff.errors import TinyDiffError
from tinydiff.loading import build
from tinydiff.packing import Recipe
from tinydiff.quantize import quantize
from tinydiff_weights.open import open_model
from tinydiff_weights.packed_verify import verify

STRANGE: list[Any] = [
    None, True, 0, -1, 1, 7, 2**31, 2**63, 10**30, 0.5, -0.0, "", "f32", "i4", "gated", "upsampled", "U8", [], [0], {},
    [1, 2, 3, 4], "\x00", "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"), "x" * 600,
]  # fmt: skip
SECONDS, BYTES = 10, 2**30


def damaged(content: bytes, rng: random.Random) -> bytes:
    """One to three changes: to bytes anywhere, or to a value of the header or of its metadata."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice((in_bytes, in_header, in_header, in_metadata, in_metadata, in_metadata))(content, rng)
    return content


def in_bytes(content: bytes, rng: random.Random) -> bytes:
    start = min(8 + struct.unpack("<Q", content[:8])[0], len(content) - 1)
    at = rng.randrange(start if rng.random() < 0.8 else len(content))
    length = rng.choice((1, 1, 2, 8, 64))
    middle = rng.choice((rng.randbytes(length), b"", content[at : at + length] * 2))
    return content[:at] + middle + content[at + length :]


def in_header(content: bytes, rng: random.Random) -> bytes:
    return rebuilt(content, rng, lambda header: change_value(header, rng))


def in_metadata(content: bytes, rng: random.Random) -> bytes:
    def change(header: dict[str, Any]) -> None:
        meta = header.get("__metadata__", {})
        keys = [key for key, value in meta.items() if isinstance(value, str) and value.startswith("{")]
        if keys:
            key = rng.choice(keys)
            table = json.loads(meta[key])
            change_value(table, rng)
            meta[key] = json.dumps(table)

    return rebuilt(content, rng, change)


def rebuilt(content: bytes, rng: random.Random, change: Any) -> bytes:
    try:
        start = 8 + struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8:start])
        change(header)
        text = json.dumps(header).encode("utf-8", "surrogatepass")
    except (ValueError, AttributeError, struct.error, RecursionError):
        return in_bytes(content, rng)  # damaged before
    text += b" " * (-(8 + len(text)) % 64)
    return struct.pack("<Q", len(text)) + text + content[start:]


def change_value(tree: Any, rng: random.Random) -> None:
    """Somewhere in nested lists and objects: a value replaced, taken away, doubled, moved, or a number nudged."""
    while True:
        keys: list[Any] = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = rng.choice(keys)
        value = tree[key]
        if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
            tree = value
            continue
        match rng.randrange(5):
            case 0:
                tree[key] = rng.choice(STRANGE)
            case 1:
                del tree[key]
            case 2 if isinstance(tree, dict):
                tree[rng.choice(keys)] = value
            case 3 if isinstance(tree, list):
                tree.append(value)
            case _ if type(value) in (int, float):
                tree[key] = value + rng.choice((-64, -1, 1, 64, value))
            case _:
                tree[key] = rng.choice(STRANGE)
        return


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    base = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    outcomes: Counter[str] = Counter()
    bad, slowest, began = 0, 0.0, time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        seeds = []
        for weights in ("int8", "int4", "mixed"):
            quantize(
                open_model(write_folder(folder / weights, "bk_tiny")),
                folder / "s.safetensors",
                Recipe(weights),
                force=True,
            )
            seeds.append((folder / "s.safetensors").read_bytes())
        path = folder / "x.safetensors"
        for number in range(base, base + count):
            rng = random.Random(number)
            content = damaged(rng.choice(seeds), rng)
            path.unlink(missing_ok=True)
            path.write_bytes(content)
            start = time.monotonic()
            signal.alarm(2 * SECONDS)
            try:
                source = open_model(path)
                build(source, weights="auto", backend="reference", prediction_type="epsilon")
                if number % 16 == 0:
                    verify(source)
                outcomes["a model"] += 1
            except TinyDiffError as error:
                outcomes[type(error).__name__] += 1
            except Exception as error:
                bad += 1
                kept = Path(f"fuzz-{number}.safetensors")
                kept.write_bytes(content)
                print(f"{number}: {type(error).__name__}: {error!s:.200} ({kept})", flush=True)
            signal.alarm(0)
            taken = time.monotonic() - start
            slowest = max(slowest, taken)
            if taken > SECONDS:
                bad += 1
                print(f"{number}: took {taken:.1f} s", flush=True)
            if number % 10_000 == 9_999:
                print(f"{number + 1 - base}: {dict(outcomes)}, slowest {slowest:.2f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.monotonic() - began
    print(f"{count} files in {seconds:.0f} s: {dict(outcomes)}, {bad} bad; slowest {slowest:.2f} s, peak {peak:.0f} MB")
    return int(bad > 0 or peak * 2**20 > BYTES)


if __name__ == "__main__":
    sys.exit(main())
