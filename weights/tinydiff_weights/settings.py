"""What a single file leaves unsaid: the scheduler, what the UNet predicts, default size, steps and guidance."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

EPSILON, V = "epsilon", "v_prediction"

# `modelspec.prediction_type` as trainers write it (https://github.com/Stability-AI/ModelSpec).
SPEC_PREDICTION = {
    "epsilon": EPSILON,
    "eps": EPSILON,
    "v": V,
    "v_prediction": V,
    "v-prediction": V,
    "vprediction": V,
    "v_pred": V,
    "vpred": V,
}
# `modelspec.architecture`; the part after a slash ("/inpainting", "/lora") says nothing of the prediction.
SPEC_ARCHITECTURE = {"stable-diffusion-v2-512": EPSILON, "stable-diffusion-v2-768-v": V}


@dataclass(frozen=True)
class Prediction:
    """What the UNet predicts, and whether the last step of its schedule is pure noise."""

    kind: str | None  # "epsilon", "v_prediction"; None: only a trial forward can tell
    zero_snr: bool  # Lin et al. 2023, https://arxiv.org/abs/2305.08891
    hints: tuple[str, ...] = ()


def prediction(family: str, names: Collection[str], metadata: Mapping[str, str], *, inpainting: bool) -> Prediction:
    """Epsilon or v, from marker tensors (`v_pred`, `ztsnr`) and `modelspec` metadata, in this order.

    Without either SD 1 and SDXL predict epsilon, and so does SD 2's inpainting model. SD 2 base and SD 2 v have
    the same tensors: None.
    """
    said = metadata.get("modelspec.prediction_type", "").strip().lower()
    architecture = metadata.get("modelspec.architecture", "").strip().lower().split("/")[0]
    hints: list[str] = []
    kind = V if "v_pred" in names else SPEC_PREDICTION.get(said) or SPEC_ARCHITECTURE.get(architecture)
    if said and said not in SPEC_PREDICTION:
        hints.append(f"The file's modelspec.prediction_type {said[:40]!r} is unknown and was passed over.")
    if kind is None and (family != "sd2" or inpainting):
        kind = EPSILON
    zero_snr = "ztsnr" in names
    if zero_snr and kind == EPSILON:
        # Pure noise has no signal to divide out: epsilon prediction would divide by zero.
        hints.append("The file has the mark ztsnr but predicts epsilon, where it cannot apply; it was passed over.")
        zero_snr = False
    return Prediction(kind, zero_snr, tuple(hints))


# --------------------------------------------------------------------------------------------------- scheduler

BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "trained_betas": None,
}


def scheduler_config(family: str, predicted: Prediction, *, distilled: bool) -> dict[str, Any]:
    """The `scheduler_config.json` of the family's published folder.

    `distilled`: a latent consistency model (Luo et al. 2023), which has its own scheduler.
    """
    config = BETAS | {"prediction_type": predicted.kind, "steps_offset": 1, "timestep_spacing": "leading"}
    if distilled:
        config |= {
            "_class_name": "LCMScheduler",
            "clip_sample": False,
            "original_inference_steps": 50,
            "rescale_betas_zero_snr": predicted.zero_snr,
            "set_alpha_to_one": True,
            "steps_offset": 0,
            "timestep_scaling": 10.0,
        }
    elif family == "sdxl":
        config |= {
            "_class_name": "EulerDiscreteScheduler",
            "clip_sample": False,
            "interpolation_type": "linear",
            "rescale_betas_zero_snr": predicted.zero_snr,
            "sample_max_value": 1.0,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "use_karras_sigmas": False,
        }
    elif predicted.zero_snr:
        # PNDM knows no zero terminal SNR; DDIM does, and "trailing" makes it start at the step of pure noise.
        config |= {
            "_class_name": "DDIMScheduler",
            "clip_sample": False,
            "rescale_betas_zero_snr": True,
            "set_alpha_to_one": False,
            "timestep_spacing": "trailing",
        }
    else:
        config |= {
            "_class_name": "PNDMScheduler",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
        }
    return config


# ---------------------------------------------------------------------------------------------------- defaults

LATENT_SIZE = {("sd1", EPSILON): 64, ("sd1", V): 64, ("sd2", EPSILON): 64, ("sd2", V): 96}
SDXL_LATENT_SIZE = 128


def latent_size(family: str, kind: str | None) -> int:
    """Width and height of the latents that the family was trained on. SD 2 of unknown prediction: the smaller."""
    return SDXL_LATENT_SIZE if family == "sdxl" else LATENT_SIZE[family, kind or EPSILON]


def default_settings(family: str, kind: str | None, *, factor: int, distilled: bool) -> dict[str, Any]:
    """Steps and guidance of diffusers' pipelines, and the size in pixels; `factor` pixels per latent.

    Where only a trial can tell the prediction there is no size yet, but `by_prediction_type` has one for either
    outcome.
    """
    steps, guidance = (4, 8.5) if distilled else (50, 5.0 if family == "sdxl" else 7.5)
    defaults: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance}
    if kind is not None:
        return defaults | _square(latent_size(family, kind) * factor)
    return defaults | {"by_prediction_type": {k: _square(latent_size(family, k) * factor) for k in (EPSILON, V)}}


def _square(side: int) -> dict[str, int]:
    return {"width": side, "height": side}


def hints(family: str, *, distilled: bool) -> list[str]:
    """What the user should know once, because the tensors cannot tell it."""
    if distilled:
        return [
            "This is a latent consistency model: 4 to 8 steps with the LCM sampler; its guidance is part of the "
            "network, so the negative prompt has no effect."
        ]
    if family == "sd1":
        return []
    name = "SDXL base" if family == "sdxl" else "SD 2"
    return [
        f"Turbo, Lightning and Hyper checkpoints have the tensors of {name} and are run with its defaults. If this "
        "is one, say so: --steps 1 to 8 --cfg 1, and the sampler its author names."
    ]
