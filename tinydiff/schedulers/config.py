"""From a stored config and the caller's options to a complete, checked one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np

from tinydiff import suggest
from tinydiff.errors import InvalidArgumentError, UnsupportedModelError
from tinydiff.schedulers.options import EVERY_KEY, OPTIONS, SIGMA_KINDS

Rule: TypeAlias = Callable[[Any], "str | None"]  # what the value should be, or None when it is fine


# ---- what a value may be -----------------------------------------------------------------------------------------
def flag(value: Any) -> str | None:
    return None if isinstance(value, bool | np.bool_) else "true or false"


def integer(low: int, high: int) -> Rule:
    def rule(value: Any) -> str | None:
        fine = isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high
        return None if fine else f"an integer from {low} to {high}"

    return rule


def number(low: float, high: float, *, optional: bool = False) -> Rule:
    def rule(value: Any) -> str | None:
        if value is None and optional:
            return None
        real: Any = value  # an integer too large for a float compares, too
        fine = isinstance(value, Real) and not isinstance(value, bool) and low <= real <= high
        return None if fine else f"a number from {low:g} to {high:g}"

    return rule


def seed_or_none(value: Any) -> str | None:
    return None if value is None else integer(0, 2**64 - 1)(value)


def step_numbers(value: Any) -> str | None:
    fine = isinstance(value, list | tuple) and all(integer(0, 10**6)(item) is None for item in value)
    return None if fine else "a list of step numbers"


def betas_or_none(value: Any) -> str | None:
    if value is None:
        return None
    numbers = value.tolist() if isinstance(value, np.ndarray) else value
    fine = isinstance(numbers, list | tuple) and all(number(1e-30, 1.0)(item) is None for item in numbers)
    return None if fine else "a list of numbers above 0 and at most 1, one per training timestep"


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "clip_sample",
            "thresholding",
            "set_alpha_to_one",
            "rescale_betas_zero_snr",
            "skip_prk_steps",
            "lower_order_final",
            "euler_at_final",
            "predict_x0",
            "use_lu_lambdas",
            *SIGMA_KINDS,
        ),
        flag,
    ),
    "num_train_timesteps": integer(2, 100_000),
    "steps_offset": integer(0, 100_000),
    "solver_order": integer(1, 3),
    "original_inference_steps": integer(1, 100_000),
    "beta_start": number(1e-12, 0.999999),
    "beta_end": number(1e-12, 0.999999),
    "dynamic_thresholding_ratio": number(0.0, 1.0),
    "sample_max_value": number(1e-6, 1e6),
    "clip_sample_range": number(1e-6, 1e6),
    "timestep_scaling": number(1e-6, 1e6),
    "sigma_data": number(1e-6, 1e6),
    "sigma_min": number(1e-6, 1e6, optional=True),
    "sigma_max": number(1e-6, 1e6, optional=True),
    "rho": number(0.1, 1000.0),
    "lambda_min_clipped": number(-math.inf, math.inf),
    "noise_sampler_seed": seed_or_none,
    "disable_corrector": step_numbers,
    "trained_betas": betas_or_none,
}


def shown(value: Any) -> str:
    """A value in a message, cut short. An integer of thousands of digits has no repr at all."""
    try:
        text = repr(value)
    except ValueError:
        text = f"a {type(value).__name__}"
    return text if len(text) < 80 else text[:77] + "..."


# ---- checking ----------------------------------------------------------------------------------------------------
def nearest(word: str, known: Iterable[str]) -> str:
    """`; the nearest known one is ...`, or nothing."""
    like = suggest.nearest(word[:100], known)
    return f"; the nearest known one is {like!r}" if like else ""


def _checked(class_name: str, key: str, value: Any) -> Any:
    """The value as the scheduler uses it; ValueError with the reason otherwise."""
    options = OPTIONS[class_name]
    if key in options.neutral:
        neutral = options.neutral[key]
        if value is None or (isinstance(value, bool) and value == neutral):
            return neutral
        raise ValueError(f"{key}={shown(value)} is not implemented; only {neutral!r} is")
    if isinstance(value, str):
        value = options.aliases.get(key, {}).get(value, value)
    if key in options.choices:
        allowed = options.choices[key]
        if isinstance(value, str | None) and value in allowed:
            return value
        near = nearest(value, [item for item in allowed if item]) if isinstance(value, str) else ""
        raise ValueError(f"{key}={shown(value)} does not run; one of {', '.join(map(repr, allowed))}{near}")
    wanted = RULES[key](value)
    if wanted:
        raise ValueError(f"{key}={shown(value)} should be {wanted}")
    return value


def _check_together(class_name: str, config: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    """Combinations for which diffusers raises. `written`: the options before aliases were translated."""
    kinds = [key for key in SIGMA_KINDS if config.get(key)]
    if len(kinds) > 1:
        raise ValueError(f"only one of {' and '.join(kinds)} can be used")
    given = config.get("trained_betas")
    if given is not None and len(given) != config["num_train_timesteps"]:
        raise ValueError(f"trained_betas has {len(given)} values for {config['num_train_timesteps']} timesteps")
    algorithm = str(config.get("algorithm_type", ""))
    if config.get("final_sigmas_type") == "zero":
        word = written.get("algorithm_type", algorithm)
        if word in ("dpmsolver", "sde-dpmsolver", "deis") and "algorithm_type" in OPTIONS[class_name].defaults:
            raise ValueError(f"algorithm_type={word!r} needs final_sigmas_type='sigma_min'")
    if algorithm == "dpmsolver" and config["thresholding"] and class_name == "DPMSolverSinglestepScheduler":
        raise ValueError(f"thresholding does not work with algorithm_type={algorithm!r} here")
    if config.get("solver_type") == "bh1" and config["final_sigmas_type"] == "zero":
        raise ValueError("solver_type='bh1' has no step to zero noise; it needs final_sigmas_type='sigma_min'")
    steps = config.get("original_inference_steps", 1)
    if steps > config["num_train_timesteps"]:
        raise ValueError(f"original_inference_steps={steps} is more than num_train_timesteps")
    if "sigma_data" in config and (config["sigma_min"] is None or config["sigma_max"] is None):
        raise ValueError("sigma_min and sigma_max must be numbers")
    low, high = config.get("sigma_min"), config.get("sigma_max")
    if low is not None and high is not None and low >= high:
        raise ValueError(f"sigma_min={low} must be below sigma_max={high}")


def resolve(class_name: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The complete config of a scheduler: diffusers' defaults, then a stored config, then the caller's options.

    `_use_default_values` lists the keys that nobody set, as diffusers keeps it: they do not travel to another class.
    Raises InvalidArgumentError for the caller's options and UnsupportedModelError for the stored config's.
    """
    options = OPTIONS[class_name]
    for key in given:
        if key not in options.known():
            raise InvalidArgumentError(f"{class_name} has no option {key!r}{nearest(key, options.known())}")
    unset, others_before = stored.get("_use_default_values"), stored.get("_other_keys")
    unset = unset if isinstance(unset, list | tuple) else ()
    given_once = {**(others_before if isinstance(others_before, Mapping) else {}), **stored}
    public = {key: value for key, value in given_once.items() if not key.startswith("_") and key not in unset}
    merged = {**public, **given}
    if "prediction_type" in merged and merged["prediction_type"] is None:
        raise InvalidArgumentError("the model does not say its prediction_type: pass prediction_type=")
    config = dict(options.defaults)
    others: dict[str, Any] = {}
    for key, value in merged.items():
        failure = InvalidArgumentError if key in given else UnsupportedModelError
        if key not in EVERY_KEY:
            if value is not None and value is not False:
                near = nearest(key, options.known())
                raise failure(f"scheduler config of {class_name}: unknown key {key!r} = {shown(value)}{near}")
            continue
        if key not in options.defaults and key not in options.neutral:
            others[key] = value  # another class's key, or one without effect: kept for the next change of class
            continue
        if value is None and options.defaults.get(key) is not None:
            continue  # null stands for the default
        try:
            config[key] = _checked(class_name, key, value)
        except ValueError as error:
            raise failure(f"{class_name}: {error}") from None
    try:
        _check_together(class_name, config, merged)
    except ValueError as error:
        failure = InvalidArgumentError if given else UnsupportedModelError
        raise failure(f"{class_name}: {error}") from None
    config["_class_name"], config["_other_keys"] = class_name, others
    config["_use_default_values"] = sorted(key for key in options.defaults if merged.get(key) is None)
    return config
