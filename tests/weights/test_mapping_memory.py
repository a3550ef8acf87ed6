"""Opening a file of 3.4 GB adds no anonymous memory; touching its weights adds none either.

The file is sparse (a hole on the disk), so it takes no space. A fresh process measures itself: RssAnon of /proc.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import tinydiff_weights

PROBE = """
import gc, json, sys
from pathlib import Path
from tinydiff_weights.safetensors import open_safetensors

def rss(kind):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) * 1024

small, big = sys.argv[1:]
open_safetensors(small).tensors["x"].float32().sum()  # whatever the first use brings into memory
gc.collect()
start = rss("RssAnon")
one, two = open_safetensors(big), open_safetensors(big)
gc.collect()
opened = rss("RssAnon")
files = rss("RssFile")
total = float(one.tensors["net.0.weight"].float32()[:, ::1024].sum())  # touches every page
gc.collect()
print(json.dumps({
    "opened": opened - start, "touched": rss("RssAnon") - start, "file": rss("RssFile") - files, "sum": total,
    "tensors": len(one.tensors), "maps": sum(big in l for l in Path("/proc/self/maps").read_text().splitlines()),
}))
"""


def write_sparse(path: Path, rows: int, count: int) -> int:
    """`count` tensors of [rows, 1024] F32, all zeros that are not on the disk. Returns the file's size."""
    header, position = {}, 0
    for i in range(count):
        size = rows * 1024 * 4
        header[f"net.{i}.weight"] = {"dtype": "F32", "shape": [rows, 1024], "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + position)
    return path.stat().st_size


def test_3_4_gigabytes_cost_no_anonymous_memory(tmp_path: Path) -> None:
    small, big = tmp_path / "small.safetensors", tmp_path / "big.safetensors"
    text = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    small.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    size = write_sparse(big, 8192, 104)
    assert size > 3.4e9
    env = {**os.environ, "PYTHONPATH": str(Path(tinydiff_weights.__file__).parents[1])}
    command = [sys.executable, "-c", PROBE, str(small), str(big)]
    seen = json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    print(f"{size / 1e9:.2f} GB, {seen}")
    assert seen["tensors"] == 104
    assert seen["maps"] == 1  # two opens, one mapping
    assert seen["opened"] < 2**20
    assert seen["touched"] < 2**20
    assert math.isclose(seen["sum"], 0)
    assert seen["file"] >= 30 * 2**20  # the 32 MiB of the tensor came in as pages of the file


def test_the_probe_sees_a_copy(tmp_path: Path) -> None:
    """The same probe with a reader that copies: the measurement can fail."""
    small, big = tmp_path / "small.safetensors", tmp_path / "big.safetensors"
    text = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    small.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    write_sparse(big, 8192, 2)
    env = {**os.environ, "PYTHONPATH": str(Path(tinydiff_weights.__file__).parents[1])}
    copying = PROBE.replace("total = float(", "kept = one.tensors['net.0.weight'].float32().copy(); total = float(")
    command = [sys.executable, "-c", copying, str(small), str(big)]
    seen = json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert seen["touched"] > 30 * 2**20
