"""Schedulers: how noise becomes latents, step by step. `make` finds one by name or config, `names` lists them.

    make("DPM++ 2M Karras", base=model_config)   what A1111's menu calls it, on the model's own noise schedule
    make(json_of_scheduler_config)               what a diffusers folder says
    make("EulerDiscreteScheduler", timestep_spacing="trailing")

base.py has the interface and the loop around it; each method is a file of its own with its paper in the docstring;
options.py is the table of all options, names.py that of all names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinydiff.errors import InvalidArgumentError, UnsupportedModelError
from tinydiff.schedulers.base import Scheduler
from tinydiff.schedulers.config import nearest, resolve, shown
from tinydiff.schedulers.consistency import LCM, TCD
from tinydiff.schedulers.ddim import DDIM
from tinydiff.schedulers.ddpm import DDPM
from tinydiff.schedulers.deis import DEIS
from tinydiff.schedulers.dpm2 import DPM2, DPM2Ancestral
from tinydiff.schedulers.dpm_multistep import DPMMultistep
from tinydiff.schedulers.dpm_sde import DPMSolverSDE
from tinydiff.schedulers.dpm_singlestep import DPMSinglestep
from tinydiff.schedulers.edm import EDMDPMMultistep, EDMEuler
from tinydiff.schedulers.euler import Euler, EulerAncestral
from tinydiff.schedulers.heun import Heun
from tinydiff.schedulers.lms import LMS
from tinydiff.schedulers.names import Sampler, a1111_name, find, names
from tinydiff.schedulers.options import OPTIONS, status
from tinydiff.schedulers.pndm import PNDM
from tinydiff.schedulers.unipc import UniPC

__all__ = ["CLASSES", "Sampler", "Scheduler", "a1111_name", "make", "names", "option_table", "sd_pipeline_config"]

CLASSES: dict[str, type[Scheduler]] = {
    cls.class_name: cls
    for cls in (
        DDIM,
        DDPM,
        PNDM,
        Euler,
        EulerAncestral,
        Heun,
        LMS,
        DPM2,
        DPM2Ancestral,
        DPMMultistep,
        DPMSinglestep,
        DPMSolverSDE,
        DEIS,
        UniPC,
        LCM,
        TCD,
        EDMEuler,
        EDMDPMMultistep,
    )
}


def make(
    name_or_config: str | Mapping[str, Any],
    *,
    base: Mapping[str, Any] | None = None,
    eta: float | None = None,
    **options: Any,
) -> Scheduler:
    """A scheduler from a name (diffusers' class, A1111's, or short) or from a scheduler_config.json mapping.

    base: the config of the model, whose betas, prediction type and so on a named scheduler keeps; keys that it has no
    use for are ignored, as diffusers' `from_config` does. options: override both. eta: read by DDIM (default 0) and
    TCD (default 0.3) only, as in diffusers' pipelines.
    Raises InvalidArgumentError for what the caller wrote, UnsupportedModelError for what a config says.
    """
    if isinstance(name_or_config, str):
        class_name, chosen = find(name_or_config)
        stored: Mapping[str, Any] = {**(base or {}), **chosen}
        if chosen and base:
            unset = [key for key in base.get("_use_default_values") or () if key not in chosen]
            stored = {**stored, "_use_default_values": unset}
    elif isinstance(name_or_config, Mapping):
        if base is not None:
            raise InvalidArgumentError("base= goes with a scheduler's name, not with a config")
        stored = name_or_config
        class_name = _class_of(stored)
    else:
        raise InvalidArgumentError(f"a scheduler is a name or a config, not {type(name_or_config).__name__}")
    return CLASSES[class_name](resolve(class_name, stored, options), eta)


def _class_of(config: Mapping[str, Any]) -> str:
    class_name = config.get("_class_name")
    if class_name is None:
        raise UnsupportedModelError("scheduler config without _class_name")
    if not isinstance(class_name, str) or class_name not in CLASSES:
        near = nearest(str(class_name), CLASSES)
        raise UnsupportedModelError(f"scheduler class {shown(class_name)} is not implemented{near}")
    return class_name


def sd_pipeline_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as diffusers' StableDiffusionPipeline corrects it for old models: steps_offset 1, no clip_sample.

    Its SDXL pipeline leaves the config alone. Keys that the class does not have are not added.
    """
    known = OPTIONS[_class_of(config)].defaults
    corrected = dict(config)
    if "steps_offset" in known:
        corrected["steps_offset"] = 1
    if "clip_sample" in known:
        corrected["clip_sample"] = False
    return corrected


def option_table() -> list[tuple[str, str, str]]:
    """(class, key, "implemented" | "no effect" | "neutral at ..."): every option of every class."""
    return [(name, key, status(name, key)) for name in OPTIONS for key in sorted(OPTIONS[name].known())]
