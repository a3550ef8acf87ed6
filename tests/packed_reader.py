"""A reader of packed files written from weights/FORMAT.md alone, with NumPy and json: what a stranger would write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = {"F32": "<f4", "F16": "<f2", "I8": "i1", "U8": "u1", "I32": "<i4"}
Array = NDArray[Any]


def read(path: Path) -> tuple[dict[str, dict[str, Array]], dict[str, Any]]:
    """Component -> the parameters of its network as float32, the layers' 3x3 kernels after upsampling as their four
    classes ("NAME.weight.01"); and the metadata."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    meta = {k: v if k.startswith("format") else json.loads(v) for k, v in header.pop("__metadata__").items()}
    assert (meta["format"], meta["format_version"]) == ("tinydiff-packed", "1")
    assert start % 64 == 0
    file = {}
    for name, row in header.items():
        begin, end = row["data_offsets"]
        assert begin % 64 == 0 or name.startswith("padding.")
        file[name] = np.frombuffer(content[start + begin : start + end], DTYPES[row["dtype"]]).reshape(row["shape"])
        assert not name.startswith("padding.") or not file[name].any()
    networks: dict[str, dict[str, Array]] = {}
    for component, table in meta["components"].items():
        found = networks[component] = {n: file[f"{component}/{n}"].astype(np.float32) for n in table["tensors"]}
        for layer in table["layers"]:
            base, rows = f"{component}/{layer['name']}", ordered(layer)
            for suffix in (".00", ".01", ".10", ".11") if layer["use"] == "upsampled" else ("",):
                size = (2, 2) if suffix else tuple(layer["shape"][2:])
                columns = weights(layer["kind"], file, base, suffix)[rows, :, : layer["shape"][1]]
                kernel = columns.transpose(0, 2, 1).reshape(*layer["shape"][:2], *size)
                found[f"{layer['name']}.weight{suffix}"] = kernel
            if layer["bias"]:
                found[f"{layer['name']}.bias"] = file[f"{base}.bias"][rows]
    return networks, meta


def ordered(layer: dict[str, Any]) -> Array:
    """For every row of the weight the column of the panels that holds it."""
    rows = np.arange(layer["shape"][0])
    if layer["use"] != "gated":
        return rows
    half = layer["shape"][0] // 2
    value = rows % half
    return np.asarray(16 * (value // 8) + value % 8 + 8 * (rows >= half))


def weights(kind: str, file: dict[str, Array], base: str, suffix: str) -> Array:
    """`[columns, taps, inputs with their padding]`."""
    data = file[f"{base}.data{suffix}"]
    panels, taps = data.shape[:2]
    if kind in ("f32", "f16"):
        return data.transpose(0, 3, 1, 2).reshape(16 * panels, taps, -1).astype(np.float32)
    if kind == "i4":
        q = np.stack([data & 15, data >> 4], axis=4).astype(np.int16)
        q = np.where(q > 7, q - 16, q).transpose(0, 3, 1, 2, 4, 5).reshape(16 * panels, taps, -1)
        steps = file[f"{base}.group_scales{suffix}"].transpose(0, 3, 1, 2).reshape(16 * panels, taps, -1)
        q = q * np.repeat(steps.astype(np.int16), 32, axis=2)
    else:
        q = data.transpose(0, 3, 1, 2, 4).reshape(16 * panels, taps, -1).astype(np.int16)
    assert np.array_equal(q.sum((1, 2), dtype=np.int64), file[f"{base}.sums{suffix}"])
    return (q * file[f"{base}.scales{suffix}"][:, None, None]).astype(np.float32)
