"""What a picture's PNG file says of its making: the facts of this run, put into `tinydiff.metadata`'s record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tinydiff.arguments import steps_and_guidance
from tinydiff.commands.model_hash import quick_model_hash
from tinydiff.commands.settings import Settings
from tinydiff.memory.report import words
from tinydiff.metadata import Record, png_texts
from tinydiff.rng import image_seed
from tinydiff.schedulers import a1111_name
from tinydiff_weights.open import DEFAULT_MODEL

if TYPE_CHECKING:
    from tinydiff.api import Pipeline
    from tinydiff.pipeline import Output
    from tinydiff.schedulers import Scheduler


def describe_run(pipe: Pipeline, scheduler: Scheduler, out: Output, prompt: str, settings: Settings) -> Record:
    """The record of a run's first picture. The model's hash is there if it is known or quickly found."""
    sampler, schedule_type = a1111_name(scheduler.config)
    defaults = pipe.model.defaults
    steps, guidance_scale = steps_and_guidance(pipe.model, settings["steps"], settings["cfg"])
    width, height = settings["size"] or (defaults.width, defaults.height)
    source = pipe.model.source.origin or pipe.model.source
    return Record(
        prompt=prompt,
        negative_prompt=settings["negative"] or "",
        steps=steps,
        sampler=sampler,
        schedule_type=schedule_type,
        guidance_scale=guidance_scale,
        seed=out.seed,
        width=width,
        height=height,
        model=model_name(settings["model"], source.path),
        model_hash=quick_model_hash(source) or "",
        vae=Path(settings["vae"]).stem if settings["vae"] else "",
        clip_skip=settings["clip_skip"] or 1,
        timings=out.timings,
        extra={
            "scheduler": scheduler.config["_class_name"],
            "prediction_type": scheduler.config.get("prediction_type"),
            "eta": settings["eta"],
            "guidance_rescale": settings["guidance_rescale"] or 0.0,
            "guidance_interval": settings["guidance_interval"] or (0.0, 1.0),
            "weights": settings["weights"] or "auto",
            "backend": settings["backend"] or "auto",
            "memory_plan": None if pipe.model.keeper is None else words(pipe.model.keeper.plan),
        },
    )


def model_name(given: str | None, path: Path) -> str:
    """A file's name without its suffix, a folder's name, a hub id as it was given."""
    if path == DEFAULT_MODEL:
        return "tinydiff default"
    if path.parent.name == "snapshots" and given is not None:  # the folder's own name is a commit
        return given
    return path.stem if path.suffix == ".safetensors" else path.absolute().name


def texts(record: Record, index: int) -> dict[str, str]:
    """The PNG's text chunks for picture `index` of the run."""
    return png_texts(Record(**{**vars(record), "seed": image_seed(record.seed, index)}))
