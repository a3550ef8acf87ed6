"""The cost model: what a machine that is not here would take for a picture. Every figure is a prediction.

The dry backend gives the launches of a network: which kernel, how many multiply-adds, which bytes. A device profile
(`devices/*.json`) gives cores, clocks, bandwidth and assumptions. `rates.json` (bench/make_rates.py) gives, from
llvm-mca's models, the cycles of each kernel's hot loop on each core, and from counted instructions what a call
executes beside it:

    arithmetic  multiply-adds / sum over cores of (clock * products an iteration / cycles an iteration)
    the rest    instructions / sum over cores of (clock * instructions a cycle): epilogues, softmax, norms, quantising
    memory      activations that do not fit into the cache / bandwidth
    weights     bytes of weights / bandwidth: few rows hide little of reading them
    seconds     max((arithmetic + rest) / EFFICIENCY, memory) + weights + what it takes to wake threads

EFFICIENCY is what kernels reach of a hot loop that always hits the first-level cache. It is the one thing that was
fitted, to UNet steps measured on x86 (`bench/calibrate.py`; the table is in bench/PREDICTIONS.md); phones have not
confirmed it.

Cores of all clusters share the tiles of a launch, so their speeds add. Nothing is known here of thermal limits, of
other programs, or of pages that must be read from storage first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tinydiff.bench.families import NETWORKS, PARTS, build, caller
from tinydiff.errors import InvalidArgumentError
from tinydiff.parameters import Parameters
from tinydiff.recipe import kind_of
from tinydiff.suggest import unknown
from tinydiff_kernels.compiled.dry import Dry
from tinydiff_kernels.compiled.program import MOVED, Launch, Program

FOLDER = Path(__file__).parent / "devices"
RATES = Path(__file__).with_name("rates.json")
WAKING = 20e-6  # seconds to hand a launch to threads and to gather them, if they sleep; those awake take less
RESOLUTIONS = 4
EFFICIENCY = {"matmul": 0.82, "attention": 0.95}
# The gate's calls that tell what a kernel executes beside its hot loop, and their numbers: multiply-adds and outputs.
BESIDE = {
    "matmul": ("3x3", 14 * 14 * 48 * 9 * 64, 14 * 14 * 48),
    "attention": ("self", 2 * 256 * 256 * 80, 2 * 256 * 256),
}
MOVERS = {  # kernel -> call of the gate, numbers that it moved in the unit of `Launch.work`
    "norm_stats": ("group norm, quantised", 400 * 160),
    "norm_fold": ("group norm, quantised", 400 * 160 / 64),
    "norm_apply": ("group norm, quantised", 400 * 160),
    "rows_norm": ("layer norm, quantised", 200 * 320),
    "elementwise": ("pixels", 100 * 320),
    "keys_i8": ("self", 2 * 256 * 80),
}
WIDER = {"avx512vnni": ("avx2", 0.6)}  # paths that no emulator counts: those of another, times what wider vectors save
WIDER_STILL = {"attention_i8": 0.31}  # where they save more: 32 queries are weighed at a time, not 8


@dataclass(frozen=True)
class Device:
    """A profile."""

    key: str
    name: str
    path: str
    clusters: tuple[Mapping[str, Any], ...]
    bandwidth: float  # bytes a second, read and written
    cache: float  # bytes of activations that stay near the cores
    memory: float  # bytes
    assumptions: tuple[str, ...]
    sources: tuple[Mapping[str, str], ...]
    published: tuple[Mapping[str, str], ...]  # times of other runtimes, each with its source

    @property
    def cores(self) -> int:
        return sum(int(c["count"]) for c in self.clusters)


@dataclass(frozen=True)
class Cost:
    """Predicted seconds of one call of a network, by kernel; launches of each; bytes it needs."""

    seconds: Mapping[str, float]
    launches: Mapping[str, int]
    weights: int
    arena: int

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def devices() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def device(key: str) -> Device:
    """A profile by name. InvalidArgumentError with the nearest one."""
    if key not in devices():
        raise unknown("device", key, devices())
    data = json.loads((FOLDER / f"{key}.json").read_text(encoding="utf-8"))
    lists = {name: tuple(data[name]) for name in ("clusters", "assumptions", "sources", "published")}
    return Device(
        key, data["name"], data["path"], bandwidth=1e9 * data["bandwidth_gb_per_second"],
        cache=2**20 * data["cache_mib"], memory=2**30 * data["memory_gib"], **lists,
    )  # fmt: skip


@lru_cache(maxsize=1)
def rates() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RATES.read_text(encoding="utf-8"))
    return found


# ------------------------------------------------------------------------------------------------ one launch


def arithmetic(kernel: str, work: float, d: Device) -> float:
    """Seconds of the hot loop for so many multiply-adds."""
    loop = rates()["hot_loops"][d.path][kernel.replace("_limited", "")]
    speed: float = sum(c["count"] * c["ghz"] * 1e9 * loop["products"] / loop["cycles"][c["model"]] for c in d.clusters)
    return work / speed


def beside(kernel: str, path: str) -> float:
    """Instructions for every output (matmul), score (attention) or number (the others) outside of the hot loop."""
    kind = kernel.split("_")[0]
    if kind in BESIDE:
        call, work, outputs = BESIDE[kind]
        count, factor = counted(kernel, call, path)
        loop = rates()["hot_loops"][WIDER.get(path, (path, 1.0))[0]][kernel.replace("_limited", "")]
        hot = work / loop["products"] * loop["instructions"]
        return float(max(count - hot, 0.0) * factor / outputs)
    call, numbers = MOVERS[kernel]
    count, factor = counted(kernel, call, path)
    return float(count * factor / numbers)


def counted(kernel: str, call: str, path: str) -> tuple[float, float]:
    """(instructions of the gate's call, factor for this path)."""
    own, factor = WIDER.get(path, (path, 1.0))
    factor = WIDER_STILL.get(kernel, factor) if path in WIDER else factor
    table = rates()["counted"]
    return table.get(f"{own} {kernel} {call}") or table[f"dotprod {kernel} {call}"], factor


def outputs_of(launch: Launch) -> float:
    """Units of `beside` in a launch."""
    from tinydiff_kernels.attention import descriptor as attention
    from tinydiff_kernels.matmul import descriptor as matmul

    words = launch.words
    if launch.kernel.startswith("matmul"):
        return float(words[matmul.ROW_COUNT // 8] * words[matmul.COLUMNS // 8])
    if launch.kernel.startswith("attention"):
        fields = (attention.IMAGES, attention.HEADS, attention.QUERIES, attention.KEYS)
        product = 1.0
        for field in fields:
            product *= float(words[field // 8])
        return product
    return launch.work / MOVED


def bytes_of(launch: Launch, d: Device) -> tuple[float, float]:
    """(weights and tables, activations that the cache cannot hold)."""
    constants = sum(c.nbytes for c in launch.constants)
    activations = sum({id(link.buffer): link.buffer.life.nbytes for link in launch.links}.values())
    return constants, activations if activations > d.cache else 0


def seconds_of(launch: Launch, d: Device) -> float:
    issue: float = sum(c["count"] * c["ghz"] * 1e9 * c["issued_per_cycle"] for c in d.clusters)
    busy = beside(launch.kernel, d.path) * outputs_of(launch) / issue
    if launch.kernel in rates()["hot_loops"][d.path] or launch.kernel == "matmul_i8_limited":
        busy += arithmetic(launch.kernel, launch.work, d)
    weights, activations = bytes_of(launch, d)
    busy /= EFFICIENCY.get(launch.kernel.split("_")[0], 1.0)
    return max(busy, activations / d.bandwidth) + weights / d.bandwidth + (WAKING if d.cores > 1 else 0)


# ------------------------------------------------------------------------------------------------ networks, pictures


def programs(network: str, part: str, weights: str, size: int, batch: int, threads: int) -> list[Program]:
    backend = Dry(kind_of(part, weights, RESOLUTIONS), threads=threads)
    caller(NETWORKS[network], build(NETWORKS[network], Parameters.declare(), backend), size, batch)()
    return list(backend.programs.values())


def cost(made: list[Program], d: Device) -> Cost:
    seconds: dict[str, float] = {}
    launches: dict[str, int] = {}
    weights: dict[int, int] = {}
    for program in made:
        for action in program.actions:
            if isinstance(action, Launch):
                seconds[action.kernel] = seconds.get(action.kernel, 0.0) + seconds_of(action, d)
                launches[action.kernel] = launches.get(action.kernel, 0) + 1
                weights |= {id(c): c.nbytes for c in action.constants if c.ndim > 1}
    arena = max(program.arena_bytes for program in made)
    return Cost(seconds, launches, sum(weights.values()), arena)


def picture(model: str, d: Device, *, weights: str, size: int, steps: int, guided: bool) -> dict[str, Cost]:
    """Stage -> cost of one call: text encoders, a UNet step (both branches of guidance in one batch), the decoder."""
    if model not in PARTS:
        raise unknown("model", model, sorted(PARTS))
    if size % 64 or not 64 <= size <= 2048:
        raise InvalidArgumentError(f"--size must be a multiple of 64 from 64 to 2048, not {size}")
    texts, unet, decoder = PARTS[model]
    batch = 2 if guided else 1
    encoded = [p for text in texts for p in programs(text, "text_encoder", weights, size, batch, d.cores)]
    return {
        "text": cost(encoded, d),
        "step": cost(programs(unet, "unet", weights, size, batch, d.cores), d),
        "decode": cost(programs(decoder, "vae", weights, size, 1, d.cores), d),
    }
