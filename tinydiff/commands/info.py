"""`tinydiff info [PATH]`: what a model is, from its headers and configs; the weights are not read."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tinydiff.commands.console import Console
from tinydiff.commands.interrupts import Interrupts
from tinydiff.commands.model_hash import files_of, model_hash
from tinydiff.commands.progress import byte_count
from tinydiff.commands.settings import settle
from tinydiff.errors import TinyDiffError
from tinydiff_weights.open import open_model
from tinydiff_weights.source import Component, ModelSource

BY_TRIAL = "by trial at load"
NAMES_SHOWN = 5


def run(args: argparse.Namespace, console: Console, interrupts: Interrupts) -> int:
    source = open_model(args.path if args.path is not None else settle({})["model"])
    if args.verify:
        from tinydiff_weights.packed_verify import verify

        verify(source)
    found = describe(source, compute_hash=args.hash)
    console.result(json.dumps(found, indent=2) if args.json else as_text(found))
    return 0


def describe(source: ModelSource, *, compute_hash: bool = False) -> dict[str, Any]:
    """All that is known, ready for JSON. `problem` says why the model cannot run, None if it can."""
    parts = {part.name: _component(part) for part in source.parts()}
    prediction, defaults, problem = _settled(source)
    additions = () if source.few_steps is None else source.few_steps.tensors.values()
    return {
        "path": str(source.path),
        "kind": source.kind,
        "family": source.family,
        "why": source.why,
        "pipeline": source.pipeline_class,
        "scheduler": source.scheduler.get("_class_name"),
        "prediction_type": prediction,
        "components": parts,
        "parameters": sum(p["parameters"] for p in parts.values()),
        "bytes": sum(p["bytes"] for p in parts.values()) + sum(t.nbytes for t in additions),
        "sha256": model_hash(source, compute=compute_hash),
        "defaults": defaults,
        "packed": dict(source.provenance),
        "hints": list(source.hints),
        "leftovers": dict(source.leftovers),
        "unused": list(source.unused),
        "problem": problem,
    }


def _component(part: Component) -> dict[str, Any]:
    dtypes: Counter[str] = Counter()
    for tensor in part.tensors.values():
        dtypes[tensor.dtype] += tensor.parameters
    listed = part.config.get("architectures")
    named = part.config.get("_class_name") or (listed[0] if isinstance(listed, list) and listed else None)
    return {
        "class": named,
        "parameters": sum(dtypes.values()),
        "dtypes": dict(dtypes.most_common()),
        "tensors": len(part.tensors),
        "bytes": sum(t.nbytes for t in part.tensors.values()),
        "files": [os.fspath(f) for f in files_of(part.tensors.values())],
    }


def _settled(source: ModelSource) -> tuple[str | None, dict[str, Any] | None, str | None]:
    """Prediction type, defaults, and what would stop the model from running. Networks are built, nothing is read."""
    from tinydiff.arguments import steps_and_guidance
    from tinydiff.loading import build
    from tinydiff.schedulers import make

    unsaid = source.scheduler.get("prediction_type", "") is None
    try:
        model = build(source, weights="auto", backend="reference", prediction_type="epsilon" if unsaid else None)
        predicted = BY_TRIAL if unsaid else make(model.scheduler_config).config.get("prediction_type", "epsilon")
    except TinyDiffError as error:
        return (BY_TRIAL if unsaid else source.scheduler.get("prediction_type")), None, str(error)
    d, (steps, guidance_scale) = model.defaults, steps_and_guidance(model, None, None)
    defaults: dict[str, Any] = {
        "steps": steps,
        "guidance_scale": guidance_scale,
        "width": d.width,
        "height": d.height,
    }
    if unsaid and "by_prediction_type" in source.defaults:
        defaults["by_prediction_type"] = source.defaults["by_prediction_type"]
    if model.few_steps is not None:
        defaults["few_steps"] = model.few_steps.steps
    return predicted, defaults, None


# ------------------------------------------------------------------------------------------------ as text


def as_text(found: Mapping[str, Any]) -> str:
    rows = [
        ("path", found["path"]),
        ("kind", f"{found['kind'].replace('_', ' ')}, {found['pipeline']}"),
        ("family", f"{found['family']}: {found['why']}"),
        ("scheduler", found["scheduler"]),
        ("prediction", found["prediction_type"]),
    ]
    rows += [(name, _part_text(part)) for name, part in found["components"].items()]
    rows.append(("in all", f"{found['parameters']:,} parameters, {byte_count(found['bytes'])}"))
    rows.append(("sha256", found["sha256"] or "not known yet (--hash computes it)"))
    if found["defaults"]:
        rows.append(("defaults", _defaults_text(found["defaults"])))
    if found["packed"]:
        recipe, version = found["packed"].get("recipe"), found["packed"].get("tinydiff")
        weights = recipe.get("weights") if isinstance(recipe, dict) else None
        rows.append(("packed", f"{weights}, by tinydiff {version}, from {found['packed'].get('source_sha256')}"))
    if found["leftovers"]:
        rows.append(("leftovers", ", ".join(f"{n} {kind}" for kind, n in found["leftovers"].items())))
    if found["unused"]:
        first = ", ".join(found["unused"][:NAMES_SHOWN])
        more = ", ..." if len(found["unused"]) > NAMES_SHOWN else ""
        rows.append(("unused", f"{len(found['unused'])} tensors: {first}{more}"))
    rows += [("hint", hint) for hint in found["hints"]]
    rows.append(("runs", f"no: {found['problem']}" if found["problem"] else "yes"))
    return table_text(rows)


def table_text(rows: list[tuple[str, Any]]) -> str:
    """`name   value` lines, values in one column. Characters that steer a terminal are shown as codes."""
    from tinydiff.commands.console import printable

    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {printable(str(value))}" for name, value in rows)


def _part_text(part: Mapping[str, Any]) -> str:
    dtypes = ", ".join(part["dtypes"]) or "no weights"
    return (
        f"{part['class'] or 'unknown class'}: {part['parameters']:,} parameters, {dtypes}, {byte_count(part['bytes'])}"
    )


def _defaults_text(d: Mapping[str, Any]) -> str:
    sizes = f"{d['width']}x{d['height']}"
    if "by_prediction_type" in d:
        each = [f"{v['width']}x{v['height']} for {kind}" for kind, v in d["by_prediction_type"].items()]
        sizes = " or ".join(each)
    few = f"; {d['few_steps']} steps with guidance 1" if d.get("few_steps", d["steps"]) != d["steps"] else ""
    return f"{sizes}, {d['steps']} steps, guidance {d['guidance_scale']:g}{few}"
