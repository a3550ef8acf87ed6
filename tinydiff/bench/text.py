"""What was measured, as lines for a terminal; and two files side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from tinydiff.bench.statistics import Summary, ratio_interval, verdict
from tinydiff.commands.progress import byte_count

if TYPE_CHECKING:  # loads the networks
    from tinydiff.bench.predict import Cost, Device

Json = Mapping[str, Any]
THROTTLED = 1.05  # the last fifth against the first, from which on slowing down is said


def described(settings: Json) -> str:
    """`embedded, int8, 256x256, 4 steps, 2 threads`: what was set; the model's own choices are left out."""
    parts = [str(settings["model"]), str(settings["weights"])]
    parts += [f"{settings['size'][0]}x{settings['size'][1]}"] if settings["size"] else []
    parts += [f"{settings['steps']} steps"] if settings["steps"] else []
    parts += [f"guidance {settings['cfg']:g}"] if settings["cfg"] is not None else []
    parts += [f"{settings['threads']} threads"] if settings["threads"] else []
    parts += [f"memory {settings['memory']}"] if settings["memory"] else []
    return ", ".join(parts)


def stages(run: Json) -> dict[str, list[float]]:
    """Stage -> all its times, in the order in which they were taken."""
    return {
        "text": list(run["text"]),
        "step": list(chain.from_iterable(run["steps"])),
        "decode": list(run["decode"]),
        "picture": list(run["total"]),
    }


def lines(data: Json) -> Iterator[str]:
    """A report for people."""
    m = data["machine"]
    yield f"{', '.join(m['models'])}; kernels {m['path']} by {m['kernels']}; tinydiff {data['tinydiff']}"
    for run in data["runs"]:
        yield ""
        yield described(run["settings"])
        if "skipped" in run:
            yield f"  skipped: {run['skipped']}"
            continue
        yield from _run_lines(run)


def _run_lines(run: Json) -> Iterator[str]:
    for word, start in (("warm", run["start"]), ("cold", run["cold"])):
        if start is not None:
            parts = f"import {start['import']:.2f} s, load {start['load']:.2f} s"
            yield f"  {word} start: {parts}, first picture {start['first_picture']:.2f} s"
    for name, times in stages(run).items():
        if times:
            s = Summary.of(times)
            spread = f"quartiles {seconds(s.low)} to {seconds(s.high)}, all {seconds(s.least)} to {seconds(s.most)}"
            yield f"  {name:8} {seconds(s.median):>9}  ({spread}, n={s.count})"
    if run["memory"]:
        kinds = ", ".join(f"{kind} {byte_count(count)}" for kind, count in run["memory"].items())
        yield f"  memory: {kinds}"
    if run["joules"]:
        pictures = max(len(run["total"]), 1)
        spent = (f"{source} {joules / pictures:.1f} J a picture" for source, joules in run["joules"].items())
        yield f"  energy: {', '.join(spent)}"
    yield from _sensor_lines(run["sensors"])
    if run.get("sustained"):
        yield _sustained(run["sustained"])


def _sensor_lines(sensors: Sequence[Json]) -> Iterator[str]:
    before, after = sensors[0], sensors[-1]
    if before["mhz"] and after["mhz"]:
        yield f"  fastest core: {max(before['mhz']):.0f} MHz before, {max(after['mhz']):.0f} MHz after"
    if before["celsius"] and after["celsius"]:
        hottest, then = (max(look["celsius"].values()) for look in (before, after))
        yield f"  hottest sensor: {hottest:.0f} C before, {then:.0f} C after"


def _sustained(pictures: Sequence[Json]) -> str:
    """The first fifth against the last: what a phone does once it is warm."""
    fifth = max(len(pictures) // 5, 1)
    ends = [[t for p in part for t in p["steps"]] for part in (pictures[:fifth], pictures[-fifth:])]
    first, last = (Summary.of(times).median for times in ends)
    minutes = (pictures[-1]["at"] + pictures[-1]["total"]) / 60
    text = f"  sustained: {len(pictures)} pictures in {minutes:.1f} min;"
    text += f" step {seconds(first)} at first, {seconds(last)} at last"
    return text + (f": it slows down by {last / first - 1:.0%}" if last > THROTTLED * first else ": it keeps its speed")


def seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.2f} s"
    return f"{1e3 * value:.1f} ms" if value >= 1e-3 else f"{1e6 * value:.0f} us"


def compared(first: Json, second: Json) -> Iterator[str]:
    """The second file against the first: every stage of every run that both have, with an interval."""
    if first["machine"] != second["machine"]:
        keys = [k for k in first["machine"] if first["machine"][k] != second["machine"].get(k)]
        yield f"the machines differ in {', '.join(keys)}: this compares machines, too"
    theirs = {described(run["settings"]): run for run in second["runs"] if "skipped" not in run}
    matched = 0
    for run in first["runs"]:
        name = described(run["settings"])
        if "skipped" in run or name not in theirs:
            continue
        matched += 1
        yield f"{name}:"
        other = stages(theirs[name])
        for stage, times in stages(run).items():
            yield f"  {stage:8} {verdict(ratio_interval(times, other[stage]))}"
        if run["memory"] and theirs[name]["memory"]:
            change = theirs[name]["memory"]["peak"] / run["memory"]["peak"]
            yield f"  peak memory {change:.3f} (one number each, no interval)"
    if not matched:
        yield "no run of one file has the settings of a run of the other: there is nothing to compare"


def predicted(d: Device, stages_of: Mapping[str, Cost], what: str, steps: int) -> Iterator[str]:
    """A prediction, labelled as one on every line that has a figure, with what it assumes."""
    yield f"PREDICTION for {d.name}, not a measurement: {what}"
    for name, one in stages_of.items():
        yield f"  predicted {name:6} {seconds(one.total)}"
    whole = stages_of["text"].total + steps * stages_of["step"].total + stages_of["decode"].total
    yield f"  predicted picture of {steps} steps: {seconds(whole)}"
    weights, arena = (max(getattr(one, kind) for one in stages_of.values()) for kind in ("weights", "arena"))
    total = sum(one.weights for one in stages_of.values())
    yield (
        f"  predicted memory: weights {byte_count(total)} (largest network {byte_count(weights)}), "
        f"activations {byte_count(arena)}; the device has {byte_count(d.memory)}"
    )
    step = stages_of["step"]
    yield "  predicted seconds of a step by kernel:"
    for kernel, taken in sorted(step.seconds.items(), key=lambda pair: -pair[1]):
        yield f"    {kernel:18} {step.launches[kernel]:4} launches  {seconds(taken):>9}  {taken / step.total:5.1%}"
    yield "  assumed:"
    yield from (f"    {text}" for text in d.assumptions)
    yield "  sources:"
    yield from (f"    {source['what']}: {source['url']}" for source in d.sources)
    if d.published:
        yield "  measured by others, with other programs:"
        yield from (f"    {one['what']}: {one['url']}" for one in d.published)
