"""A picture of one file of `tinydiff bench`: times by stage, and what a sustained run did. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinydiff.bench.text import described, stages
from tinydiff.errors import InvalidArgumentError


def save(data: Mapping[str, Any], file: str | Path) -> None:
    """Write a PNG. InvalidArgumentError where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullFormatter
    except ImportError:
        raise InvalidArgumentError("--plot needs matplotlib: pip install 'tinydiff[bench]'") from None
    runs = [run for run in data["runs"] if "skipped" not in run]
    long = [run for run in runs if run.get("sustained")]
    figure = Figure(figsize=(8, 1.5 + 0.9 * len(runs) + 3 * bool(long)), layout="constrained")
    axes = figure.subplots(2 if long else 1, 1, squeeze=False)[:, 0]
    names = ("text", "step", "decode")
    for place, name in enumerate(names):
        times = [stages(run)[name] for run in runs]
        where = [row + 0.25 * (1 - place) for row in range(len(runs))]
        look = {"widths": 0.2, "orientation": "horizontal", "patch_artist": True, "showfliers": False}
        parts = axes[0].boxplot(times, positions=where, **look)
        for box in parts["boxes"]:
            box.set_facecolor(f"C{place}")
        axes[0].plot([], [], f"C{place}", linewidth=6, label=name)
    axes[0].set_yticks(range(len(runs)), [described(run["settings"]) for run in runs], fontsize=8)
    axes[0].set_xscale("log")
    axes[0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].xaxis.set_major_formatter("{x:g}")
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_xlabel("seconds (boxes: quartiles)")
    axes[0].legend(fontsize=8)
    for run in long:
        pictures = run["sustained"]
        axes[1].plot([p["at"] / 60 for p in pictures], [p["total"] for p in pictures], label=described(run["settings"]))
    if long:
        axes[1].set_xlabel("minutes")
        axes[1].set_ylabel("seconds a picture")
        axes[1].set_ylim(bottom=0)
        axes[1].legend(fontsize=8)
    figure.suptitle(
        f"{', '.join(data['machine']['models'])}, tinydiff {data['tinydiff']}, {data['created'][:10]}", fontsize=9
    )
    figure.savefig(file, format="png", dpi=120)
