"""A table for people from pytest-benchmark's JSON: `python bench/operations/table.py out.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any


def lines(data: dict[str, Any]) -> Iterator[str]:
    about = data["machine_info"]["tinydiff"]
    limits = about["roofline"]
    yield f"{about['cpu']}, path {about['path']}, {about['threads']} threads; {' '.join(about['features'])}"
    yield (
        f"roofline: {limits['float32'] / 1e9:.0f} GFLOP/s float32, {limits['int8'] / 1e9:.0f} GOP/s int8, "
        f"{limits['bandwidth'] / 1e9:.1f} GB/s copied"
    )
    yield f"{'ms':>10} {'GOP/s':>7} {'GB/s':>6} {'share':>6}  weights     shape"
    for one in data["benchmarks"]:
        info, median = one["extra_info"], one["stats"]["median"]
        rate = f"{info['operations_per_second'] / 1e9:7.0f}" if info["operations"] else "       "
        yield (
            f"{1e3 * median:10.3f} {rate} {info['bytes'] / median / 1e9:6.1f} {info['share_of_roofline']:6.0%}  "
            f"{info['weights']:11} {info['shape']}"
        )


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as stream:
        print("\n".join(lines(json.load(stream))))
