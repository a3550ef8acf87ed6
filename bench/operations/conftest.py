"""Options of the suite, the shapes it runs on, and the roofline of this machine, measured in the same run."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), *(str(ROOT / part) for part in ("kernels", "weights", "tests"))]

from bench import make_shapes, roofline  # noqa: E402
from bench.operations.calls import takes_integers  # noqa: E402
from tinydiff.bench.shapes import Shape  # noqa: E402
from tinydiff_kernels import dispatch  # noqa: E402
from tinydiff_kernels.cpu import this_cpu  # noqa: E402

MATMULS = ("linear", "geglu", "conv")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shapes", default="sd15-unet-256", help="names of files in bench/shapes, with commas, or all")
    parser.addoption("--weights", default="f32,i8", help="of f32, f16, i8, i8_limited, i4, with commas")
    parser.addoption("--threads", type=int, default=1)


def kinds(shape: Shape, weights: list[str]) -> list[str]:
    """Ways to compute a shape, of those that were asked for; attention knows float32 and 8-bit integers."""
    if shape.kind in MATMULS:
        return weights
    return ["f32", "i8"] if takes_integers(shape) and "i8" in weights else ["f32"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = metafunc.config.getoption("shapes")
    files = (
        sorted(make_shapes.FOLDER.glob("*.txt"))
        if names == "all"
        else [make_shapes.FOLDER / f"{name}.txt" for name in names.split(",")]
    )
    shapes: Counter[Shape] = Counter()
    for file in files:
        shapes.update(make_shapes.read(file))
    weights = metafunc.config.getoption("weights").split(",")
    cases = [(shape, kind) for shape in shapes for kind in kinds(shape, weights)]
    metafunc.parametrize(("shape", "kind"), cases, ids=[f"{shape} {kind}".replace(" ", ",") for shape, kind in cases])


@pytest.fixture(scope="session")
def threads(request: pytest.FixtureRequest) -> int:
    count: int = request.config.getoption("threads")
    return count


@pytest.fixture(scope="session")
def limits(request: pytest.FixtureRequest, threads: int) -> roofline.Roofline | None:
    """None where nothing is timed."""
    return None if request.config.getoption("benchmark_disable") else roofline.measure(threads)


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """The path and the CPU's features stand beside every figure."""
    machine_info["tinydiff"] = {
        "path": dispatch.choose().path.name,
        "cpu": this_cpu().model,
        "features": sorted(this_cpu().features),
        "threads": config.getoption("threads"),
    }


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """A file that can be published: no names of machines and branches, no single rounds beside their statistics, and
    what is the same of all rows once."""
    machine, commit = output_json["machine_info"], output_json["commit_info"]
    machine.pop("node", None)
    output_json["commit_info"] = {key: commit.get(key) for key in ("id", "time", "dirty")}
    for one in output_json["benchmarks"]:
        machine["tinydiff"]["roofline"] = one["extra_info"].pop("roofline")
        one["params"] = None  # the shape is in extra_info
        one["stats"].pop("data", None)
