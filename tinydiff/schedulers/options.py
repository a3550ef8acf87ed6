"""Every option of every scheduler in one table: implemented, without effect, or refused.

For each class of diffusers:
- `defaults`: the keys that do something, with diffusers' default values;
- `choices`: the values of the enumerated ones. diffusers raises for the others, or no Stable Diffusion uses them;
- `no_effect`: keys that diffusers takes but whose value changes nothing there;
- `neutral`: keys of features that are not implemented, accepted at the value that switches them off;
- `aliases`: values that belong to a sister class and are translated, as diffusers does when a config changes hands.

A key of another class in a scheduler_config.json is ignored, as diffusers ignores it (Stable Diffusion 1.5 ships
PNDM's file with DDIM's clip_sample). A key of no class at all is refused unless it is null or false.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ALL_PREDICTIONS = ("epsilon", "v_prediction", "sample")
TWO_PREDICTIONS = ("epsilon", "v_prediction")
SPACINGS = ("linspace", "leading", "trailing")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")


@dataclass(frozen=True)
class ClassOptions:
    defaults: Mapping[str, Any]
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    no_effect: tuple[str, ...] = ()
    neutral: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def known(self) -> set[str]:
        return {*self.defaults, *self.no_effect, *self.neutral}


def betas(start: float = 0.0001, stop: float = 0.02, schedule: str = "linear") -> dict[str, Any]:
    return {
        "num_train_timesteps": 1000,
        "beta_start": start,
        "beta_end": stop,
        "beta_schedule": schedule,
        "trained_betas": None,
    }


def spacing(kind: str) -> dict[str, Any]:
    return {"timestep_spacing": kind, "steps_offset": 0}


K_BETAS = betas(0.00085, 0.012)  # the classes that came from k-diffusion
LCM_BETAS = betas(0.00085, 0.012, "scaled_linear")
SIGMA_KINDS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
THRESHOLD = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
CLIP = {"clip_sample": True, "clip_sample_range": 1.0}
EPSILON = {"prediction_type": "epsilon"}
FLOW = {"use_flow_sigmas": False, "use_dynamic_shifting": False}
FLOW_DETAILS = ("flow_shift", "time_shift_type")
EDM = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "num_train_timesteps": 1000,
    "rho": 7.0,
    "final_sigmas_type": "zero",
}
DPM_ALIASES = {
    "algorithm_type": {"deis": "dpmsolver++"},
    "solver_type": {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"},
}
DPM_SOLVER = {
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
    "final_sigmas_type": "zero",
}
SIGMA_ENDS = ("zero", "sigma_min")


def choices(predictions: tuple[str, ...] = ALL_PREDICTIONS, **more: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    common = {"prediction_type": predictions, "beta_schedule": BETA_SCHEDULES, "timestep_spacing": SPACINGS}
    return {**common, **more}


LCM = ClassOptions(
    {
        **LCM_BETAS,
        **EPSILON,
        **CLIP,
        "clip_sample": False,
        **THRESHOLD,
        "original_inference_steps": 50,
        "set_alpha_to_one": True,
        "timestep_scaling": 10.0,
        "rescale_betas_zero_snr": False,
    },
    choices(),
    no_effect=("steps_offset", "timestep_spacing"),
)

OPTIONS: dict[str, ClassOptions] = {
    "DDIMScheduler": ClassOptions(
        {
            **betas(),
            **EPSILON,
            **CLIP,
            **THRESHOLD,
            **spacing("leading"),
            "set_alpha_to_one": True,
            "rescale_betas_zero_snr": False,
        },
        choices(),
    ),
    "DDPMScheduler": ClassOptions(
        {
            **betas(),
            **EPSILON,
            **CLIP,
            **THRESHOLD,
            **spacing("leading"),
            "variance_type": "fixed_small",
            "rescale_betas_zero_snr": False,
        },
        choices(variance_type=VARIANCES, beta_schedule=(*BETA_SCHEDULES, "sigmoid", "laplace")),
    ),
    "PNDMScheduler": ClassOptions(
        {**betas(), **EPSILON, **spacing("leading"), "skip_prk_steps": False, "set_alpha_to_one": False},
        choices(TWO_PREDICTIONS),
    ),
    "LMSDiscreteScheduler": ClassOptions(
        {**betas(), **EPSILON, **SIGMA_KINDS, **spacing("linspace")},
        choices(),
    ),
    "EulerDiscreteScheduler": ClassOptions(
        {
            **betas(),
            **EPSILON,
            **SIGMA_KINDS,
            **spacing("linspace"),
            "interpolation_type": "linear",
            "sigma_min": None,
            "sigma_max": None,
            "timestep_type": "discrete",
            "rescale_betas_zero_snr": False,
            "final_sigmas_type": "zero",
        },
        choices(
            interpolation_type=("linear", "log_linear"),
            timestep_type=("discrete", "continuous"),
            final_sigmas_type=SIGMA_ENDS,
        ),
    ),
    "EulerAncestralDiscreteScheduler": ClassOptions(
        {**betas(), **EPSILON, **spacing("linspace"), "rescale_betas_zero_snr": False},
        choices(TWO_PREDICTIONS),
    ),
    "HeunDiscreteScheduler": ClassOptions(
        {**K_BETAS, **EPSILON, **SIGMA_KINDS, **CLIP, "clip_sample": False, **spacing("linspace")},
        choices(beta_schedule=(*BETA_SCHEDULES, "exp")),
    ),
    "KDPM2DiscreteScheduler": ClassOptions(
        {**K_BETAS, **EPSILON, **SIGMA_KINDS, **spacing("linspace")},
        choices(TWO_PREDICTIONS),
    ),
    "KDPM2AncestralDiscreteScheduler": ClassOptions(
        {**K_BETAS, **EPSILON, **SIGMA_KINDS, **spacing("linspace")},
        choices(TWO_PREDICTIONS),
    ),
    "DPMSolverSDEScheduler": ClassOptions(
        {**K_BETAS, **EPSILON, **SIGMA_KINDS, **spacing("linspace"), "noise_sampler_seed": None},
        choices(TWO_PREDICTIONS),
    ),
    "DPMSolverMultistepScheduler": ClassOptions(
        {
            **betas(),
            **EPSILON,
            **SIGMA_KINDS,
            **THRESHOLD,
            **DPM_SOLVER,
            **spacing("linspace"),
            "euler_at_final": False,
            "use_lu_lambdas": False,
            "lambda_min_clipped": -math.inf,
            "variance_type": None,
            "rescale_betas_zero_snr": False,
        },
        choices(
            algorithm_type=("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"),
            solver_type=("midpoint", "heun"),
            final_sigmas_type=SIGMA_ENDS,
            variance_type=(None, "learned", "learned_range"),
        ),
        no_effect=FLOW_DETAILS,
        neutral=FLOW,
        aliases=DPM_ALIASES,
    ),
    "DPMSolverSinglestepScheduler": ClassOptions(
        {
            **betas(),
            **EPSILON,
            **SIGMA_KINDS,
            **THRESHOLD,
            **DPM_SOLVER,
            "lower_order_final": False,
            "lambda_min_clipped": -math.inf,
            "variance_type": None,
        },
        choices(
            algorithm_type=("dpmsolver", "dpmsolver++", "sde-dpmsolver++"),
            solver_type=("midpoint", "heun"),
            final_sigmas_type=SIGMA_ENDS,
            variance_type=(None, "learned", "learned_range"),
        ),
        no_effect=FLOW_DETAILS,
        neutral=FLOW,
        aliases=DPM_ALIASES,
    ),
    "DEISMultistepScheduler": ClassOptions(
        {
            **betas(),
            **EPSILON,
            **SIGMA_KINDS,
            **THRESHOLD,
            **spacing("linspace"),
            "solver_order": 2,
            "algorithm_type": "deis",
            "solver_type": "logrho",
            "lower_order_final": True,
        },
        choices(algorithm_type=("deis",), solver_type=("logrho",)),
        no_effect=FLOW_DETAILS,
        neutral=FLOW,
        aliases={
            "algorithm_type": {"dpmsolver": "deis", "dpmsolver++": "deis"},
            "solver_type": dict.fromkeys(("midpoint", "heun", "bh1", "bh2"), "logrho"),
        },
    ),
    "UniPCMultistepScheduler": ClassOptions(
        {
            **betas(),
            **EPSILON,
            **SIGMA_KINDS,
            **THRESHOLD,
            **spacing("linspace"),
            "solver_order": 2,
            "predict_x0": True,
            "solver_type": "bh2",
            "lower_order_final": True,
            "disable_corrector": (),
            "final_sigmas_type": "zero",
            "rescale_betas_zero_snr": False,
            "sigma_min": None,
            "sigma_max": None,
        },
        choices(solver_type=("bh1", "bh2"), final_sigmas_type=SIGMA_ENDS),
        no_effect=FLOW_DETAILS,
        neutral={**FLOW, "solver_p": None, "shift_terminal": None},
        aliases={"solver_type": dict.fromkeys(("midpoint", "heun", "logrho"), "bh2")},
    ),
    "LCMScheduler": LCM,
    "TCDScheduler": ClassOptions(
        {
            **LCM_BETAS,
            **EPSILON,
            "original_inference_steps": 50,
            "set_alpha_to_one": True,
            "rescale_betas_zero_snr": False,
        },
        choices(),
        no_effect=("steps_offset", "timestep_spacing", "timestep_scaling", *THRESHOLD, *CLIP),
    ),
    "EDMEulerScheduler": ClassOptions(
        {**EDM, **EPSILON},
        choices(TWO_PREDICTIONS, sigma_schedule=("karras", "exponential"), final_sigmas_type=SIGMA_ENDS),
    ),
    "EDMDPMSolverMultistepScheduler": ClassOptions(
        {**EDM, **EPSILON, **THRESHOLD, **DPM_SOLVER, "euler_at_final": False},
        choices(
            TWO_PREDICTIONS,
            sigma_schedule=("karras", "exponential"),
            final_sigmas_type=SIGMA_ENDS,
            algorithm_type=("dpmsolver++", "sde-dpmsolver++"),
            solver_type=("midpoint", "heun"),
        ),
        aliases=DPM_ALIASES,
    ),
}

EVERY_KEY = frozenset().union(*(options.known() for options in OPTIONS.values()))


def status(class_name: str, key: str) -> str:
    """One cell of the table: "implemented", "no effect", "neutral at ..." or "not an option of this class"."""
    options = OPTIONS[class_name]
    if key in options.defaults:
        return "implemented"
    if key in options.neutral:
        return f"neutral at {options.neutral[key]!r}, else refused"
    return "no effect" if key in options.no_effect else "not an option of this class"
