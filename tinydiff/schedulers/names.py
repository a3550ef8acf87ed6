"""What people call a scheduler: diffusers' class, the name in A1111's menu, or a short one for the command line.

A1111's names end in how the noise levels are spaced ("DPM++ 2M Karras"); both parts are tables here. Spelling is
lenient: case, spaces, hyphens and underscores do not count, and `dpmpp` is DPM++ as in ComfyUI.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tinydiff.errors import InvalidArgumentError
from tinydiff.schedulers.config import nearest, shown
from tinydiff.schedulers.options import OPTIONS, SIGMA_KINDS


@dataclass(frozen=True)
class Sampler:
    name: str  # in A1111's menu, or its style where A1111 has none
    short: str  # for the command line
    class_name: str
    options: Mapping[str, Any] = field(default_factory=dict)


DPM = "DPMSolverMultistepScheduler"
TWO_M = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
TWO_M_SDE = {**TWO_M, "algorithm_type": "sde-dpmsolver++"}
SAMPLERS = (
    Sampler("Euler", "euler", "EulerDiscreteScheduler"),
    Sampler("Euler a", "euler-a", "EulerAncestralDiscreteScheduler"),
    Sampler("Heun", "heun", "HeunDiscreteScheduler"),
    Sampler("LMS", "lms", "LMSDiscreteScheduler"),
    Sampler("DPM2", "dpm2", "KDPM2DiscreteScheduler"),
    Sampler("DPM2 a", "dpm2-a", "KDPM2AncestralDiscreteScheduler"),
    Sampler("DPM++ 2M", "dpm++2m", DPM, TWO_M),
    Sampler("DPM++ 2M SDE", "dpm++2m-sde", DPM, TWO_M_SDE),
    Sampler("DPM++ 2M SDE Heun", "dpm++2m-sde-heun", DPM, {**TWO_M_SDE, "solver_type": "heun"}),
    Sampler("DPM++ 3M SDE", "dpm++3m-sde", DPM, {**TWO_M_SDE, "solver_order": 3}),
    Sampler("DPM++ 2S", "dpm++2s", "DPMSolverSinglestepScheduler", TWO_M),
    Sampler("DPM++ SDE", "dpm++sde", "DPMSolverSDEScheduler"),
    Sampler("DDIM", "ddim", "DDIMScheduler"),
    Sampler("DDPM", "ddpm", "DDPMScheduler"),
    Sampler("PLMS", "plms", "PNDMScheduler", {"skip_prk_steps": True}),
    Sampler("PNDM", "pndm", "PNDMScheduler"),
    Sampler("UniPC", "unipc", "UniPCMultistepScheduler"),
    Sampler("DEIS", "deis", "DEISMultistepScheduler"),
    Sampler("LCM", "lcm", "LCMScheduler"),
    Sampler("TCD", "tcd", "TCDScheduler"),
    Sampler("EDM Euler", "edm-euler", "EDMEulerScheduler"),
    Sampler("EDM DPM++ 2M", "edm-dpm++2m", "EDMDPMSolverMultistepScheduler", TWO_M),
)
# Schedule types: name -> options. A name without one means the plain spacing of the model's config.
SCHEDULE_TYPES: dict[str, dict[str, Any]] = {
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"use_exponential_sigmas": True},
    "Beta": {"use_beta_sigmas": True},
    "SGM Uniform": {"timestep_spacing": "trailing"},
}
OTHER_NAMES = {
    "eulerancestral": "Euler a",
    "dpm2ancestral": "DPM2 a",
    "dpm++2": "DPM++ 2M",
    "dpm++2msde": "DPM++ 2M SDE",
    "plms": "PLMS",
}


def folded(name: str) -> str:
    """Lower case without spaces, hyphens and underscores; `k_` and `sample_` in front do not count."""
    plain = re.sub(r"[\s_-]+", "", name.lower()).replace("dpmpp", "dpm++")
    return re.sub(r"^(sample|k)(?=euler|heun|lms|dpm)", "", plain)


BY_NAME: dict[str, tuple[Sampler, str | None]] = {}
for _sampler in SAMPLERS:
    for _spelling in (_sampler.name, _sampler.short):
        BY_NAME[folded(_spelling)] = (_sampler, None)
        for _type, _chosen in SCHEDULE_TYPES.items():
            if set(_chosen) <= set(OPTIONS[_sampler.class_name].defaults):
                BY_NAME[folded(f"{_spelling} {_type}")] = (_sampler, _type)
for _other, _name in OTHER_NAMES.items():
    BY_NAME.setdefault(_other, BY_NAME[folded(_name)])


def names() -> tuple[Sampler, ...]:
    """All samplers, for `tinydiff generate --sampler list`."""
    return SAMPLERS


def find(name: str) -> tuple[str, dict[str, Any]]:
    """(class, options) of a name. Raises InvalidArgumentError that names the nearest known one.

    A class name brings no options: a config keeps its own. A sampler's name settles the kind of sigmas too, so that
    "Euler" means plain Euler even on a config that asks for Karras sigmas.
    """
    if name in OPTIONS:
        return name, {}
    entry = BY_NAME.get(folded(name))
    if entry is None:
        known = [*OPTIONS, *(sampler.name for sampler in SAMPLERS), *(sampler.short for sampler in SAMPLERS)]
        known += [f"{sampler.name} {kind}" for sampler, kind in BY_NAME.values() if kind]
        raise InvalidArgumentError(f"unknown scheduler {shown(name)}{nearest(name, known)}; `--sampler list` shows all")
    sampler, kind = entry
    chosen = {key: False for key in SIGMA_KINDS if key in OPTIONS[sampler.class_name].defaults}
    return sampler.class_name, {**chosen, **sampler.options, **(SCHEDULE_TYPES[kind] if kind else {})}


def a1111_name(config: Mapping[str, Any]) -> tuple[str, str]:
    """(sampler, schedule type) of a scheduler's config in A1111's words, for the text in a picture."""
    class_name = config["_class_name"]
    kind = next((name for name, chosen in SCHEDULE_TYPES.items() if chosen.items() <= config.items()), "Automatic")
    fitting = [item for item in SAMPLERS if item.class_name == class_name and item.options.items() <= config.items()]
    best = max(fitting, key=lambda item: len(item.options), default=None)
    return (best.name if best else class_name.removesuffix("Scheduler")), kind
