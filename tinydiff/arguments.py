"""What a call may ask for. Every value is checked here, before any work, and named if it cannot work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydiff.errors import InvalidArgumentError
from tinydiff.few_steps import FewSteps
from tinydiff.loading import Model
from tinydiff.rng import check_seed, fresh_seed
from tinydiff.schedulers import Scheduler, make
from tinydiff.suggest import unknown

LARGEST_SIDE = 8192  # pixels
MOST_STEPS = 1000
MOST_IMAGES = 64
OUTPUTS = ("pil", "np", "latent")


@dataclass(frozen=True)
class Settings:
    """A call's arguments, checked and with the model's defaults filled in."""

    width: int
    height: int
    steps: int
    guidance_scale: float
    guidance_rescale: float
    seed: int
    images: int
    output_type: str
    latents: NDArray[np.float32] | None  # unit noise
    clip_skip: int | None
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # shares of the steps
    few_steps: bool = False  # with the model's few-step additions


def settle(
    model: Model,
    *,
    width: object,
    height: object,
    steps: object,
    guidance_scale: object,
    guidance_rescale: object,
    seed: object,
    images: object,
    output_type: object,
    latents: object,
    clip_skip: object,
    guidance_interval: object = (0.0, 1.0),
) -> Settings:
    """Raises InvalidArgumentError, which names the argument."""
    d, factor = model.defaults, model.vae.config.factor
    count = whole("num_images_per_prompt", images, 1, MOST_IMAGES)
    w = whole("width", d.width if width is None else width, factor, LARGEST_SIDE)
    h = whole("height", d.height if height is None else height, factor, LARGEST_SIDE)
    for name, side in (("width", w), ("height", h)):
        if side % factor:
            raise InvalidArgumentError(
                f"{name} {side} is not a multiple of {factor}; try {round(side / factor) * factor}"
            )
    if not isinstance(output_type, str) or output_type not in OUTPUTS:
        raise unknown("output_type", str(output_type), OUTPUTS)
    shape = (count, model.vae.config.latent_channels, h // factor, w // factor)
    rescale = number("guidance_rescale", guidance_rescale)
    if not 0 <= rescale <= 1:
        raise InvalidArgumentError(f"guidance_rescale must be from 0 to 1, not {rescale:g}")
    taken, scale = steps_and_guidance(model, steps, guidance_scale)
    return Settings(
        width=w,
        height=h,
        steps=taken,
        guidance_scale=scale,
        guidance_rescale=rescale,
        seed=fresh_seed() if seed is None else check_seed(seed),
        images=count,
        output_type=output_type,
        latents=None if latents is None else checked_latents("latents", latents, shape),
        clip_skip=None if clip_skip is None else whole("clip_skip", clip_skip, 0, 100),
        guidance_interval=interval("guidance_interval", guidance_interval),
        few_steps=model.few_steps is not None and FewSteps.apply(taken, scale),
    )


def steps_and_guidance(model: Model, steps: object, guidance_scale: object) -> tuple[int, float]:
    """What is asked for, completed. A model with few-step additions takes few steps and no guidance together."""
    d, few = model.defaults, model.few_steps
    asked = None if steps is None else whole("num_inference_steps", steps, 1, MOST_STEPS)
    scale = None if guidance_scale is None else number("guidance_scale", guidance_scale)
    if few is not None:
        if asked is None and (few.default if scale is None else scale == 1):
            asked = few.steps
        if scale is None and asked is not None and FewSteps.apply(asked, 1.0):
            scale = 1.0
    return d.steps if asked is None else asked, d.guidance_scale if scale is None else scale


def settle_scheduler(
    model: Model,
    scheduler: object,
    steps: int,
    eta: float | None,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
) -> Scheduler:
    """The scheduler asked for by name, config or object, on the model's betas, with its timesteps set."""
    base = model.scheduler_config
    given = 0.0 if eta is None else number("eta", eta)  # diffusers' pipelines pass 0 where nothing is said
    if scheduler is None:
        made = make(base, eta=given)
    elif isinstance(scheduler, Scheduler):
        config = {**scheduler.config, "_class_name": scheduler.class_name}
        made = scheduler if eta is None else make(config, eta=given)
    elif isinstance(scheduler, str):
        made = make(scheduler, base=base, eta=given)
    elif isinstance(scheduler, Mapping):
        made = make(scheduler, eta=given)
    else:
        raise InvalidArgumentError(f"scheduler must be a name, a config or a Scheduler, not {type(scheduler).__name__}")
    made.set_timesteps(
        None if timesteps is not None or sigmas is not None else steps, timesteps=timesteps, sigmas=sigmas
    )
    return made


def whole(name: str, value: object, low: int, high: int) -> int:
    """A whole number in [low, high]."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise InvalidArgumentError(f"{name} must be a whole number from {low} to {high}, not {_shown(value)}")
    return int(value)


def number(name: str, value: object) -> float:
    """A finite number of ordinary size."""
    good = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not good or not math.isfinite(float(value)) or abs(float(value)) > 1e6:  # type: ignore[arg-type]
        raise InvalidArgumentError(f"{name} must be a finite number, not {_shown(value)}")
    return float(value)  # type: ignore[arg-type]


def interval(name: str, value: object) -> tuple[float, float]:
    """Two shares of the steps, 0 to 1, the first not above the second."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise InvalidArgumentError(f"{name} must be two numbers from 0 to 1, not {_shown(value)}")
    first, last = (number(name, share) for share in value)
    if not 0 <= first <= last <= 1:
        raise InvalidArgumentError(f"{name} must be two numbers from 0 to 1, the smaller first, not {_shown(value)}")
    return first, last


def checked_latents(name: str, value: object, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Finite latents of exactly this shape, as float32."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise InvalidArgumentError(f"{name} must be an array of numbers, not lists of unequal lengths") from None
    if array.dtype.kind not in "fiu":
        raise InvalidArgumentError(f"{name} must be numbers, not {array.dtype}")
    if array.shape != shape:
        raise InvalidArgumentError(f"{name} have shape {array.shape}, but this picture needs {shape}")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InvalidArgumentError(f"{name} hold NaN or infinity")
    return array


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
