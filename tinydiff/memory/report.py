"""A memory plan in words and as JSON, and what was measured beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinydiff.memory.limits import MB
from tinydiff.memory.plan import MemoryPlan, StagePlan
from tinydiff.memory.process import Peaks


def measured(peaks: Peaks, plan: MemoryPlan | None) -> dict[str, Any]:
    """{"budget", "stages": {name: {"anonymous", "file", "planned_anonymous", "planned_file"}}}, bytes; peaks of each
    stage as they were measured, beside the plan where there is a budget."""
    found: dict[str, Any] = {}
    for name, peak in peaks.peaks.items():
        found[name] = {"anonymous": peak.anonymous, "file": peak.file}
        if plan is not None:
            stage = plan.of(name)
            found[name] |= {"planned_anonymous": stage.anonymous, "planned_file": stage.file}
    return {"budget": None if plan is None else plan.budget, "stages": found}


def as_json(plan: MemoryPlan) -> dict[str, Any]:
    """All figures in bytes and seconds."""
    return {
        "budget": plan.budget,
        "smallest": plan.smallest,
        "peak": {"anonymous": plan.anonymous, "total": plan.peak.total, "stage": plan.peak.stage.name},
        "process": {"anonymous": plan.base.anonymous, "file": plan.base.file},
        "growth": {"anonymous": plan.growth.anonymous, "file": plan.growth.file},
        "extra_seconds": plan.extra_seconds,
        "extra_decode_work": plan.extra_work,
        "stages": [_stage_json(stage) for stage in plan.stages],
    }


def _stage_json(p: StagePlan) -> dict[str, Any]:
    s = p.stage
    return {
        "name": s.name, "anonymous": p.anonymous, "file": p.file, "total": p.total, "arena": s.arena,
        "tables": s.tables, "results": s.results, "packed_in_memory": s.kept, "weights": s.mapped,
        "resident": p.resident, "window": p.window, "streamed": p.streamed,
        "strips": None if s.strips is None else str(s.strips),
    }  # fmt: skip


def lines(plan: MemoryPlan) -> list[str]:
    """A table of stages, and what the plan costs."""
    head = f"{'MB':<14}{'anonymous':>10}{'files':>8}{'total':>8}{'arena':>8}   weights in files"
    found = [head]
    for p in plan.stages:
        s = p.stage
        figures = f"{_mb(p.anonymous):>10}{_mb(p.file):>8}{_mb(p.total):>8}{_mb(s.arena):>8}"
        found.append(f"{s.name:<14}{figures}   {_weights(p, plan)}")
    decoder = plan.stages[-1].stage
    if decoder.strips is None:
        found.append("VAE: the whole image at once, everything stored")
    else:
        modes = decoder.strips.modes
        found.append(
            f"VAE: strips of {decoder.strips.lines} lines, {len(modes) - modes.count('.')} results stored, "
            f"{modes.count('h')} of them in 16 bits, {modes.count('.')} recomputed; {plan.extra_work:.0%} more work"
        )
    found.append(
        f"peak: {_mb(plan.peak.total)} MB in the {plan.peak.stage.name}, {_mb(plan.anonymous)} of it anonymous"
    )
    if plan.budget is not None:
        least = "" if plan.smallest is None else f"; the smallest that would do: {_mb(plan.smallest)} MB"
        found.append(f"budget: {_mb(plan.budget)} MB{least}")
        found.append(f"extra time: {plan.extra_seconds:.1f} s of reading weights again (at 1 GB/s)")
    return found


def _weights(p: StagePlan, plan: MemoryPlan) -> str:
    mapped = p.stage.mapped
    if plan.budget is None:
        return f"{_mb(mapped)} resident"
    if p.resident >= mapped:
        return f"{_mb(mapped)} resident"
    return f"{_mb(mapped)}: {_mb(p.resident)} resident, {_mb(p.streamed)} streamed through {_mb(p.window)}"


def _mb(nbytes: int) -> int:
    """Mebibytes, rounded up: a figure that is asked for must do."""
    return -(-nbytes // MB)


def timing_lines(timings: Mapping[str, Any], memory: Mapping[str, Any]) -> list[str]:
    """Seconds and memory of each stage, beside the plan where there was one."""
    seconds = {"text encoder": timings["text"], "denoising": sum(timings["steps"]), "VAE decode": timings["decode"]}
    found = []
    for name, stage in memory["stages"].items():
        line = f"{name}: {seconds.get(name, 0.0):.2f} s, peak {_mb(stage['anonymous'])} MB anonymous"
        if "planned_anonymous" in stage:
            line += f" (planned {_mb(stage['planned_anonymous'])})"
        line += f", {_mb(stage['file'])} MB of files"
        if "planned_file" in stage:
            line += f" (planned {_mb(stage['planned_file'])})"
        found.append(line)
    return found


def words(plan: MemoryPlan | None) -> str:
    """What of a plan decides how a picture is computed, in one line: for its PNG text and its journal."""
    if plan is None:
        return ""
    strips, budget = plan.stages[-1].stage.strips, plan.budget or 0
    return f"{_mb(budget)} MB, VAE {'whole' if strips is None else strips}"
