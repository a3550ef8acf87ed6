"""Schedulers without diffusers: formulas by hand, exact networks, saved state, names, options, golden values.

The comparison with diffusers, class by class and option by option, is tests/oracle/test_schedulers_oracle.py.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tinydiff import schedulers
from tinydiff.errors import InvalidArgumentError, TinyDiffError, UnsupportedModelError
from tinydiff.schedulers import CLASSES, OPTIONS, a1111_name, make, names, option_table, sd_pipeline_config
from tinydiff.schedulers.brownian import BrownianTree
from tinydiff.schedulers.dpm_singlestep import order_list
from tinydiff.schedulers.lms import adams_weights
from tinydiff.schedulers.names import BY_NAME, folded

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (2, 4, 3, 5)


def script() -> ModuleType:
    path = Path(__file__).parent / "golden" / "make_schedulers.py"
    spec = importlib.util.spec_from_file_location("make_schedulers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GOLDEN = script()
NORMALS = np.random.default_rng(0)


def normal() -> np.ndarray:
    return NORMALS.standard_normal(SHAPE).astype(np.float32)


def sd(name: str, **options: Any) -> schedulers.Scheduler:
    base = {**SD, "prediction_type": options.pop("prediction_type", "epsilon"), "clip_sample": False}
    return make(name, base=base, **options)


# ---- formulas ----------------------------------------------------------------------------------------------------
def test_euler_by_hand() -> None:
    """sigma 2 -> 1 -> 0 with the noise prediction 1: x falls by 1 each time, and x0 = x - sigma."""
    euler = sd("Euler")
    euler.set_timesteps(sigmas=[2.0, 1.0, 0.0])
    x = np.full((1, 1), 3.0, np.float32)
    one = np.ones((1, 1), np.float32)
    assert euler.init_noise_sigma == 2.0
    assert euler.scale_model_input(x, euler.timesteps[0])[0, 0] == pytest.approx(3 / np.sqrt(5))
    x, denoised = euler.step(one, euler.timesteps[0], x)
    assert (x[0, 0], denoised[0, 0]) == (2.0, 1.0)
    x, denoised = euler.step(one, euler.timesteps[1], x)
    assert (x[0, 0], denoised[0, 0]) == (1.0, 1.0)


def test_heun_by_hand() -> None:
    """Derivatives 1 and 3 at the two ends of a step from sigma s: x falls by 2 times the step."""
    heun = sd("Heun")
    heun.set_timesteps(2)
    s0, s1 = (float(v) for v in heun.sigmas[:2])
    x = np.full((1, 1), 5.0, np.float32)
    middle, _ = heun.step(np.full((1, 1), 1.0, np.float32), heun.timesteps[0], x)
    assert middle[0, 0] == pytest.approx(5 + (s1 - s0), rel=1e-6)
    end, _ = heun.step(np.full((1, 1), 3.0, np.float32), heun.timesteps[1], middle)
    assert end[0, 0] == pytest.approx(5 + 2 * (s1 - s0), rel=1e-5)


def test_ancestral_noise_has_the_missing_variance() -> None:
    """With x0 = 0 and x of level sigma the next latents have level sigma_next: down^2 + up^2."""
    ancestral = sd("Euler a")
    ancestral.set_timesteps(4)
    s0, s1 = (np.float64(v) for v in ancestral.sigmas[:2])
    x = np.full((1, 1), s0, np.float32)  # the noise is 1
    ones = np.ones((1, 1), np.float32)
    with_noise, x0 = ancestral.step(ones, ancestral.timesteps[0], x, noise=ones)
    ancestral.set_timesteps(4)
    without, _ = ancestral.step(ones, ancestral.timesteps[0], x, noise=0 * ones)
    assert x0[0, 0] == pytest.approx(0, abs=1e-5)
    up = float(with_noise[0, 0] - without[0, 0])
    assert float(without[0, 0]) ** 2 + up**2 == pytest.approx(s1**2, rel=1e-4)


def test_adams_weights_by_hand() -> None:
    """One node: the step. Two, with equal steps: 3/2 and -1/2. Four: 55, -59, 37, -9 over 24."""
    assert adams_weights(np.array([5.0]), 5.0, 4.0) == pytest.approx([-1.0])
    assert adams_weights(np.array([0.0, -1.0]), 0.0, 1.0) == pytest.approx([1.5, -0.5])
    weights = adams_weights(np.array([0.0, -1.0, -2.0, -3.0]), 0.0, 1.0)
    assert weights == pytest.approx(np.array([55, -59, 37, -9]) / 24)


def test_singlestep_orders_by_hand() -> None:
    assert order_list(6, 3, True, False) == [1, 2, 3, 1, 2, 1]
    assert order_list(7, 3, False, False) == [1, 2, 3, 1, 2, 3, 1]
    assert order_list(4, 2, False, False) == [1, 2, 1, 2]
    assert order_list(4, 2, False, True) == [1, 2, 1, 1]
    assert order_list(1, 3, False, True) == [1]


def test_timesteps_by_hand() -> None:
    """Table 2 of arXiv 2305.08891, ten steps of a thousand."""
    expected = {
        "leading": [901, 801, 701, 601, 501, 401, 301, 201, 101, 1],
        "trailing": [999, 899, 799, 699, 599, 499, 399, 299, 199, 99],
        "linspace": [999, 888, 777, 666, 555, 444, 333, 222, 111, 0],
    }
    for spacing, steps in expected.items():
        ddim = sd("DDIM", timestep_spacing=spacing, steps_offset=1)
        ddim.set_timesteps(10)
        assert ddim.timesteps.tolist() == steps
    plms = sd("PLMS", steps_offset=1, timestep_spacing="leading")
    plms.set_timesteps(4)
    assert plms.timesteps.tolist() == [751, 501, 501, 251, 1]
    lcm = sd("LCM")
    lcm.set_timesteps(4)
    assert lcm.timesteps.tolist() == [999, 759, 499, 259]


def perfect(kind: str, x0: np.ndarray, x: np.ndarray, signal: float, level: float) -> np.ndarray:
    """What a perfect network answers to signal * x0 + level * noise."""
    noise = (x - signal * x0) / level
    length = np.sqrt(signal**2 + level**2)
    return {"epsilon": noise, "sample": x0, "v_prediction": (signal * noise - level * x0) / length}[kind]


ENDS_AT_ZERO = [name for name in OPTIONS if name not in ("PNDMScheduler", "DEISMultistepScheduler", "TCDScheduler")]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ENDS_AT_ZERO)
def test_a_perfect_network_is_followed_to_its_image(name: str, kind: str) -> None:
    """Whatever the method: if every output points at the same x0, each estimate is x0 and the loop ends there."""
    choices = OPTIONS[name].choices["prediction_type"]
    if kind not in choices or "EDM" in name:  # EDM wraps its network otherwise
        with pytest.raises(UnsupportedModelError if kind not in choices else TinyDiffError):
            sd(name, prediction_type=kind).step(np.ones(SHAPE, np.float32), 0, np.ones(SHAPE, np.float32))
        return
    scheduler = sd(name, prediction_type=kind, **({"set_alpha_to_one": True} if name == "DDIMScheduler" else {}))
    scheduler.set_timesteps(8)
    scheduler.set_noise_seeds([1, 2])
    x0 = normal()
    x = x0 + normal() * np.float32(scheduler.init_noise_sigma)
    karras = scheduler.scale_model_input(np.ones(SHAPE, np.float32), scheduler.timesteps[0])[0, 0, 0, 0] < 1
    x = x if karras else scheduler.add_noise(x0, normal(), scheduler.timesteps[0])
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        signal = float(scaled.ravel()[0] / x.ravel()[0]) if karras else signal_at(scheduler, t)
        output = perfect(kind, x0, scaled, signal, np.sqrt(1 - signal**2)).astype(np.float32)
        x, denoised = scheduler.step(output, t, x, noise=normal() if scheduler.needs_noise(t) else None)
        if name != "LCMScheduler":  # mixes the noisy latents in
            assert np.abs(denoised - x0).max() < 2e-2
    assert np.abs(x - x0).max() < 2e-2


def signal_at(scheduler: schedulers.Scheduler, t: float) -> float:
    """sqrt(abar) at the noise level of a call of a scheduler on variance-preserving latents."""
    index = scheduler.index_of(t)
    return float(1 / np.sqrt(1 + np.float64(scheduler.sigmas[index]) ** 2))


# ---- golden values -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(json.loads(GOLDEN.FILE.read_text())))
def test_golden(name: str) -> None:
    stored = np.array(json.loads(GOLDEN.FILE.read_text())[name], np.float32)
    ours = GOLDEN.loop(make(name, base=GOLDEN.BASE)).ravel()
    assert np.allclose(ours, stored, rtol=2e-5, atol=2e-6)


def test_golden_has_every_sampler() -> None:
    assert {sampler.name for sampler in names()} <= set(json.loads(GOLDEN.FILE.read_text()))


# ---- state -------------------------------------------------------------------------------------------------------
STATEFUL = [sampler.name for sampler in names()] + ["DPM++ 2M Karras"]


@pytest.mark.parametrize("name", STATEFUL)
def test_resuming_anywhere_continues_bit_for_bit(name: str) -> None:
    base = {**GOLDEN.BASE}
    whole = make(name, base=base)
    whole.set_timesteps(6)
    whole.set_noise_seeds([7])
    x = GOLDEN.normals(GOLDEN.SHAPE, 0) * np.float32(whole.init_noise_sigma)
    saved = []
    for index, t in enumerate(whole.timesteps):
        saved.append((whole.state_dict(), x))
        output = GOLDEN.network(whole.scale_model_input(x, t), t)
        x, _ = whole.step(output, t, x, noise=GOLDEN.normals(GOLDEN.SHAPE, index) if whole.needs_noise(t) else None)
    for start, (state, latents) in enumerate(saved):
        for value in state.values():
            assert isinstance(value, int | np.ndarray)
        later = make(name, base=base)
        later.load_state_dict(state)
        for index, t in list(enumerate(whole.timesteps))[start:]:
            output = GOLDEN.network(later.scale_model_input(latents, t), t)
            noise = GOLDEN.normals(GOLDEN.SHAPE, index) if later.needs_noise(t) else None
            latents, _ = later.step(output, t, latents, noise=noise)
        assert np.array_equal(latents, x)


def state_of(name: str, steps: int = 2) -> tuple[schedulers.Scheduler, dict[str, Any]]:
    scheduler = sd(name)
    scheduler.set_timesteps(5)
    x = np.ones(SHAPE, np.float32)
    for t in scheduler.timesteps[:steps]:
        x, _ = scheduler.step(x, t, x, noise=x)
    return scheduler, scheduler.state_dict()


BAD_STATES: dict[str, Any] = {
    "unknown key": lambda s: s.update(other=1),
    "missing key": lambda s: s.pop("sigmas"),
    "missing count": lambda s: s.pop("taken"),
    "index text": lambda s: s.update(step_index="3"),
    "index float": lambda s: s.update(step_index=1.5),
    "index too high": lambda s: s.update(step_index=6),
    "begin too high": lambda s: s.update(begin_index=5),
    "index too low": lambda s: s.update(step_index=-2),
    "timesteps two-dimensional": lambda s: s.update(timesteps=np.zeros((2, 2))),
    "timesteps text": lambda s: s.update(timesteps=np.array(["a"])),
    "history of text": lambda s: s.update(models=np.array("x")),
    "history of integers": lambda s: s.update(models=np.zeros((2, 2), np.int64)),
    "history too long": lambda s: s.update(models=np.zeros((100, 2), np.float32)),
    "count negative": lambda s: s.update(taken=-1),
    "count bool": lambda s: s.update(taken=True),
}


@pytest.mark.parametrize("damage", BAD_STATES)
def test_bad_state(damage: str) -> None:
    scheduler, state = state_of("DPM++ 2M")
    before = scheduler.state_dict()
    BAD_STATES[damage](state)
    with pytest.raises(InvalidArgumentError):
        scheduler.load_state_dict(state)
    assert scheduler.state_dict().keys() == before.keys()
    assert scheduler.step_index == before["step_index"]


def test_state_of_other_latents() -> None:
    scheduler, _ = state_of("DPM++ 2M")
    x = np.ones((1, 4, 3, 5), np.float32)
    with pytest.raises(InvalidArgumentError, match="steps so far had"):
        scheduler.step(x, scheduler.timesteps[2], x)


# ---- noise -------------------------------------------------------------------------------------------------------
NOISE_PATTERN = {  # draws of three steps, as diffusers makes them
    "Euler": "---",
    "Euler a": "nnn",
    "DPM2 a": "-n-n-",
    "DPM++ 2M": "---",
    "DPM++ 2M SDE": "nnn",
    "DPM++ SDE": "-----",  # its own
    "DDPM": "nn-",
    "LCM": "nn-",
    "TCD": "nn-",
    "DDIM": "---",
}


@pytest.mark.parametrize("name", NOISE_PATTERN)
def test_which_steps_need_noise(name: str) -> None:
    scheduler = sd(name)
    scheduler.set_timesteps(3)
    scheduler.set_noise_seeds([1, 2])
    x, pattern = np.ones(SHAPE, np.float32), ""
    for t in scheduler.timesteps:
        needed = scheduler.needs_noise(t)
        pattern += "n" if needed else "-"
        if needed:
            with pytest.raises(InvalidArgumentError, match="needs noise"):
                scheduler.step(x, t, x)
        x, _ = scheduler.step(x, t, x, noise=np.ones_like(x) if needed else None)
    assert pattern == NOISE_PATTERN[name]
    assert scheduler.uses_noise == ("n" in pattern)


def test_eta() -> None:
    assert sd("DDIM").eta == 0
    assert sd("TCD").eta == 0.3
    assert not sd("DDIM").uses_noise
    assert sd("DDIM", eta=0.5).uses_noise
    assert not sd("TCD", eta=0.0).uses_noise
    assert not sd("Euler", eta=0.7).uses_noise  # no effect, as in diffusers' pipelines
    for eta in (-0.1, 1.5, "x", True, float("nan")):
        with pytest.raises(InvalidArgumentError, match="eta"):
            sd("DDIM", eta=eta)


def test_brownian_increments() -> None:
    """Of unit variance, additive, the same for the same seed, different for another one."""
    tree = BrownianTree(5, 0.03, 14.6, (4, 40, 40))
    a, b, c = 1.0, 2.5, 9.0
    first, second, both = tree.increment(a, b), tree.increment(b, c), tree.increment(a, c)
    total = first * np.sqrt(b - a) + second * np.sqrt(c - b)
    assert np.allclose(total, both * np.sqrt(c - a), atol=1e-4)
    for part in (first, second, both):
        assert abs(part.mean()) < 0.05
        assert part.std() == pytest.approx(1, abs=0.03)
    assert abs(np.mean(first * second)) < 0.05
    assert np.array_equal(BrownianTree(5, 0.03, 14.6, (4, 40, 40)).increment(a, b), first)
    assert abs(np.mean(BrownianTree(6, 0.03, 14.6, (4, 40, 40)).increment(a, b) * first)) < 0.05
    assert np.array_equal(tree.value(0.0), np.zeros((4, 40, 40)))
    assert np.array_equal(tree.value(99.0), tree.value(14.6))
    for t in (14.0, 0.031, 7.5, 1.0, 0.5):  # whatever was asked for before
        assert np.array_equal(tree.value(t), BrownianTree(5, 0.03, 14.6, (4, 40, 40)).value(t))
    with pytest.raises(ValueError, match="increment"):
        tree.increment(b, a)
    with pytest.raises(ValueError, match="path"):
        BrownianTree(5, 1.0, 1.0, (1,))


def test_brownian_noise_is_of_each_image() -> None:
    """Image 2 of a batch equals the image of its seed alone, and the option's seed goes over the pipeline's."""
    x = normal()
    pair, single, fixed = sd("DPM++ SDE"), sd("DPM++ SDE"), sd("DPM++ SDE", noise_sampler_seed=3)
    for scheduler, seeds in ((pair, [3, 4]), (single, [4]), (fixed, [9, 9])):
        scheduler.set_timesteps(3)
        scheduler.set_noise_seeds(seeds)
    t = pair.timesteps[0]
    both, _ = pair.step(x, t, x)
    alone, _ = single.step(x[1:], t, x[1:])
    assert np.array_equal(both[1:], alone)
    assert np.array_equal(fixed.step(x, t, x)[0], both)
    unseeded = sd("DPM++ SDE")
    unseeded.set_timesteps(3)
    with pytest.raises(InvalidArgumentError, match="noise seeds"):
        unseeded.step(x, t, x)
    with pytest.raises(InvalidArgumentError, match="seed"):
        unseeded.set_noise_seeds([-1])


# ---- names -------------------------------------------------------------------------------------------------------
SPELLINGS = {
    "dpm++2m": "DPMSolverMultistepScheduler",
    "DPM++ 2M Karras": "DPMSolverMultistepScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "dpmpp_2m_sde": "DPMSolverMultistepScheduler",
    "k_euler": "EulerDiscreteScheduler",
    "EULER A": "EulerAncestralDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "DPM++ SDE Karras": "DPMSolverSDEScheduler",
    "dpm2-a": "KDPM2AncestralDiscreteScheduler",
    "plms": "PNDMScheduler",
    "uni_pc": "UniPCMultistepScheduler",
    "Heun SGM Uniform": "HeunDiscreteScheduler",
    "LMSDiscreteScheduler": "LMSDiscreteScheduler",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spelling(name: str) -> None:
    assert make(name).class_name == SPELLINGS[name]


def test_every_class_has_a_name_and_every_name_is_unique() -> None:
    assert {sampler.class_name for sampler in names()} == set(CLASSES) == set(OPTIONS)
    spellings = [folded(s) for sampler in names() for s in {folded(sampler.name), folded(sampler.short)}]
    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize("name", [sampler.name for sampler in names()])
def test_a1111_name_comes_back(name: str) -> None:
    assert a1111_name(make(name).config)[0] == name
    assert a1111_name(make(name, base=SD).config) == (
        name,
        "Automatic" if "EDM" in name else a1111_name(make(name).config)[1],
    )


def test_a1111_schedule_types() -> None:
    assert a1111_name(make("DPM++ 2M SDE Karras").config) == ("DPM++ 2M SDE", "Karras")
    assert a1111_name(make("Euler SGM Uniform").config) == ("Euler", "SGM Uniform")
    assert a1111_name(make("Euler").config) == ("Euler", "Automatic")


UNKNOWN = {
    "Eulr": "euler",
    "DPM++ 2M Karas": "DPM++ 2M Karras",
    "DPM++ 2S a": "DPM++ 2S",
    "DDIM Karras": "DDIM",
    "EulerScheduler": "Euler",
    "": "unknown",
    "\x00": "unknown",
    "x" * 10000: "unknown",
}


@pytest.mark.parametrize("name", UNKNOWN, ids=lambda n: n[:20] or "empty")
def test_unknown_name(name: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        make(name)
    assert UNKNOWN[name].lower() in str(caught.value).lower()


def test_a_name_settles_the_sigmas_but_a_class_keeps_them() -> None:
    base = {**SD, "use_karras_sigmas": True, "prediction_type": "v_prediction", "steps_offset": 1}
    assert make("Euler", base=base).config["use_karras_sigmas"] is False
    assert make("EulerDiscreteScheduler", base=base).config["use_karras_sigmas"] is True
    karras = make("DPM++ 2M Karras", base=base).config
    assert (karras["use_karras_sigmas"], karras["prediction_type"], karras["steps_offset"]) == (True, "v_prediction", 1)
    assert karras["beta_start"] == 0.00085


# ---- options -----------------------------------------------------------------------------------------------------
REFUSED_OPTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("Euler", {"use_karras_sigma": True}, "use_karras_sigmas"),
    ("Euler", {"skip_prk_steps": True}, "no option"),
    ("Euler", {"prediction_type": "flow_prediction"}, "v_prediction"),
    ("Euler", {"prediction_type": None}, "prediction_type"),
    ("Euler", {"beta_schedule": "sigmoid"}, "beta_schedule"),
    ("Euler", {"timestep_spacing": "leadng"}, "leading"),
    ("Euler", {"use_karras_sigmas": True, "use_beta_sigmas": True}, "only one"),
    ("Euler", {"use_karras_sigmas": "yes"}, "true or false"),
    ("Euler", {"num_train_timesteps": 1}, "num_train_timesteps"),
    ("Euler", {"num_train_timesteps": 10**9}, "num_train_timesteps"),
    ("Euler", {"num_train_timesteps": True}, "integer"),
    ("Euler", {"steps_offset": -1}, "steps_offset"),
    ("Euler", {"beta_start": 0}, "beta_start"),
    ("Euler", {"beta_start": float("nan")}, "beta_start"),
    ("Euler", {"beta_end": 1.0}, "beta_end"),
    ("Euler", {"beta_end": "0.012"}, "beta_end"),
    ("Euler", {"beta_end": 10**400}, "beta_end"),
    ("Euler", {"trained_betas": [0.1, 0.2]}, "trained_betas"),
    ("Euler", {"trained_betas": ["a"] * 1000}, "trained_betas"),
    ("Euler", {"sigma_min": 5.0, "sigma_max": 2.0}, "sigma_min"),
    ("Euler", {"sigma_max": -1}, "sigma_max"),
    ("DPM++ 2M", {"use_flow_sigmas": True}, "use_flow_sigmas"),
    ("DPM++ 2M", {"use_dynamic_shifting": True}, "not implemented"),
    ("DPM++ 2M", {"solver_order": 4}, "solver_order"),
    ("DPM++ 2M", {"algorithm_type": "dpmsolver"}, "sigma_min"),
    ("DPM++ 2M", {"algorithm_type": "deis"}, "sigma_min"),
    ("DPM++ 2M", {"lambda_min_clipped": float("nan")}, "lambda_min_clipped"),
    ("DEIS", {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type"),
    ("UniPC", {"solver_type": "bh1"}, "bh1"),
    ("UniPC", {"solver_p": "DDIM"}, "solver_p"),
    ("UniPC", {"disable_corrector": [0.5]}, "disable_corrector"),
    ("Euler a", {"prediction_type": "sample"}, "prediction_type"),
    ("LCM", {"original_inference_steps": 2000}, "original_inference_steps"),
    ("EDM Euler", {"sigma_min": None, "sigma_max": 0.001}, "sigma_min"),
    ("DPM++ SDE", {"noise_sampler_seed": -1}, "noise_sampler_seed"),
    (
        "DPM++ 2S",
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "thresholding": True},
        "thresholding",
    ),
]


@pytest.mark.parametrize(("name", "options", "expected"), REFUSED_OPTIONS, ids=lambda v: str(v)[:60])
def test_refused_option(name: str, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        make(name, **options)
    assert expected in str(caught.value)


REFUSED_CONFIGS: list[tuple[Any, str]] = [
    ({}, "_class_name"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEuler"),
    ({"_class_name": "EulerDiscreteSchedulr"}, "EulerDiscreteScheduler"),
    ({"_class_name": ["EulerDiscreteScheduler"]}, "not implemented"),
    ({"_class_name": "EulerDiscreteScheduler", "new_key": 1}, "new_key"),
    ({"_class_name": "EulerDiscreteScheduler", "beta_start": "x"}, "beta_start"),
    ({"_class_name": "EulerDiscreteScheduler", "beta_start": 10**5000}, "beta_start"),
    ({"_class_name": "EulerDiscreteScheduler", "beta_start": {}, "_use_default_values": 5}, "beta_start"),
    ({"_class_name": "EulerDiscreteScheduler", "beta_start": [], "_other_keys": 5}, "beta_start"),
    ({"_class_name": "EulerDiscreteScheduler", "new_key": "x" * 10**6}, "new_key"),
    ({"_class_name": "x" * 10**6}, "not implemented"),
    ({"_class_name": "EulerDiscreteScheduler", "beta_schedule": ["linear"]}, "beta_schedule"),
    ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": 3}, "timestep_spacing"),
    ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas"),
    ({"_class_name": "UniPCMultistepScheduler", "shift_terminal": 0.1}, "shift_terminal"),
]


@pytest.mark.parametrize(("config", "expected"), REFUSED_CONFIGS, ids=range(len(REFUSED_CONFIGS)))
def test_refused_config(config: Any, expected: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        make(config)
    assert expected in str(caught.value)


@pytest.mark.parametrize("wrong", [None, 3, ["euler"], b"euler"])
def test_neither_name_nor_config(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        make(wrong)


def test_a_base_goes_with_a_name() -> None:
    with pytest.raises(InvalidArgumentError, match="base="):
        make({"_class_name": "DDIMScheduler"}, base={})


def test_published_configs_open() -> None:
    """Stable Diffusion 1.5's and SDXL's files carry keys of other classes; null and false mean nothing."""
    sd15 = {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        **SD,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
        "a_future_key": None,
        "another_one": False,
    }
    assert make(sd15).config["skip_prk_steps"] is True
    sdxl = {"_class_name": "EulerDiscreteScheduler", **SD, "sample_max_value": 1.0, "skip_prk_steps": True}
    assert make({**sdxl, "timestep_spacing": "leading", "steps_offset": 1}).config["timestep_spacing"] == "leading"
    old = {"_class_name": "DDIMScheduler", **SD, "steps_offset": 0}
    assert sd_pipeline_config(old) == {**old, "steps_offset": 1, "clip_sample": False}
    assert "clip_sample" not in sd_pipeline_config({"_class_name": "EulerDiscreteScheduler"})


def test_the_option_table_covers_everything() -> None:
    table = option_table()
    assert {row[0] for row in table} == set(OPTIONS)
    assert {row[2].split(" at ")[0] for row in table} == {"implemented", "no effect", "neutral"}
    assert len(table) == sum(len(options.known()) for options in OPTIONS.values())


# ---- bad calls ---------------------------------------------------------------------------------------------------
BAD_SCHEDULES: list[tuple[str, dict[str, Any], str]] = [
    ("Euler", {}, "exactly one"),
    ("Euler", {"n": 5, "sigmas": [1.0, 0.0]}, "exactly one"),
    ("Euler", {"n": 0}, "1 to 1000"),
    ("Euler", {"n": -3}, "1 to 1000"),
    ("Euler", {"n": 10**6}, "1 to 1000"),
    ("Euler", {"n": 2.5}, "integer"),
    ("Euler", {"n": True}, "integer"),
    ("Euler", {"n": "20"}, "integer"),
    ("Euler", {"timesteps": []}, "timesteps"),
    ("Euler", {"timesteps": [1, 2]}, "fall"),
    ("Euler", {"timesteps": [5, 5]}, "fall"),
    ("Euler", {"timesteps": [1000, 1]}, "below 1000"),
    ("Euler", {"timesteps": [5, -1]}, "0 or more"),
    ("Euler", {"timesteps": [5, float("nan")]}, "finite"),
    ("Euler", {"timesteps": [[5]]}, "list"),
    ("Euler", {"timesteps": "many"}, "list"),
    ("Euler Karras", {"timesteps": [5, 1]}, "use_karras_sigmas"),
    ("Euler", {"sigmas": [1.0]}, "two"),
    ("Euler", {"sigmas": [1.0, 2.0]}, "fall"),
    ("Euler", {"sigmas": [1.0, -2.0]}, "0 or more"),
    ("Euler", {"sigmas": [float("inf"), 0.0]}, "finite"),
    ("DDIM", {"timesteps": [5, 1]}, "does not take custom timesteps"),
    ("DPM++ 2M", {"sigmas": [1.0, 0.0]}, "does not take custom sigmas"),
    ("PNDM", {"n": 3}, "at least 4"),
    ("LCM", {"n": 51}, "at most"),
]


@pytest.mark.parametrize(("name", "call", "expected"), BAD_SCHEDULES, ids=lambda v: str(v)[:60])
def test_bad_schedule(name: str, call: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        sd(name).set_timesteps(**call)
    assert expected in str(caught.value)


def test_zero_terminal_snr_needs_v_prediction_where_it_divides_by_zero() -> None:
    """abar = 0 at the last timestep: fatal for epsilon where the schedule visits it, fine where it does not."""
    for name in ("DDIM", "DDPM", "LCM", "TCD"):
        spaced = {} if name in ("LCM", "TCD") else {"timestep_spacing": "trailing"}
        with pytest.raises(InvalidArgumentError, match="timestep 999"):
            sd(name, rescale_betas_zero_snr=True, **spaced).set_timesteps(10)
        sd(name, rescale_betas_zero_snr=True, prediction_type="v_prediction", **spaced).set_timesteps(10)
    leading = sd("DDIM", rescale_betas_zero_snr=True, timestep_spacing="leading")
    leading.set_timesteps(10)
    assert np.all(np.isfinite(leading.sigmas))
    sd("Euler", rescale_betas_zero_snr=True).set_timesteps(10)  # sigma 4096 instead of infinity


def test_calls_out_of_order() -> None:
    euler = sd("Euler")
    x = np.ones(SHAPE, np.float32)
    with pytest.raises(InvalidArgumentError, match="set_timesteps"):
        euler.step(x, 999, x)
    euler.set_timesteps(3)
    with pytest.raises(InvalidArgumentError, match="not in the schedule"):
        euler.step(x, 1, x)
    with pytest.raises(InvalidArgumentError, match="outside"):
        euler.set_begin_index(3)
    y, _ = euler.step(x, euler.timesteps[0], x)
    with pytest.raises(InvalidArgumentError, match="steps go in order"):
        euler.step(x, euler.timesteps[2], y)
    y, _ = euler.step(x, euler.timesteps[1], y)
    y, _ = euler.step(x, euler.timesteps[2], y)
    with pytest.raises(InvalidArgumentError, match="all steps are done"):
        euler.step(x, euler.timesteps[2], y)


def test_wrong_shapes() -> None:
    ancestral = sd("Euler a")
    ancestral.set_timesteps(3)
    x, t = np.ones(SHAPE, np.float32), ancestral.timesteps[0]
    with pytest.raises(InvalidArgumentError, match="model output of shape"):
        ancestral.step(x[:1], t, x, noise=x)
    with pytest.raises(InvalidArgumentError, match="noise of shape"):
        ancestral.step(x, t, x, noise=x[:1])
    with pytest.raises(InvalidArgumentError, match="timesteps for 2 images"):
        ancestral.add_noise(x, x, [t, t, t])
    learned = sd("DDPM", variance_type="learned_range")
    learned.set_timesteps(3)
    with pytest.raises(InvalidArgumentError, match="predicts a variance"):
        learned.step(x, learned.timesteps[0], x, noise=x)


def test_starting_in_the_middle() -> None:
    """add_noise before the loop uses the level where it begins; the loop then goes on from there."""
    euler = sd("Euler")
    euler.set_timesteps(10)
    euler.set_begin_index(4)
    x0, noise = normal(), normal()
    t = euler.timesteps[4]
    x = euler.add_noise(x0, noise, t)
    assert np.allclose(x, x0 + euler.sigmas[4] * noise, rtol=1e-6)
    for t in euler.timesteps[4:]:
        x, denoised = euler.step(noise, t, x)
        assert np.abs(denoised - x0).max() < 1e-4
    assert np.abs(x - x0).max() < 1e-4


ZERO_SNR = {
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}


@pytest.mark.parametrize("base", [{**SD, "prediction_type": "epsilon"}, ZERO_SNR], ids=["SD 1", "cosine, zero SNR"])
def test_every_name_and_schedule_type_runs_20_steps(base: dict[str, Any]) -> None:
    """As the menus of the command line offer them; `set_timesteps` rehearses the whole loop."""
    for name in BY_NAME:
        make(name, base=base).set_timesteps(20)


@pytest.mark.parametrize("name", ["DPM++ 2M Karras", "DPM++ 2S Karras", "UniPC Karras", "DEIS Karras"])
def test_a_loop_from_the_start_begins_at_the_start_though_rounding_made_two_timesteps_equal(name: str) -> None:
    scheduler = make(name, base=ZERO_SNR)
    scheduler.set_timesteps(20)
    assert scheduler.timesteps[0] == scheduler.timesteps[1]
    x = noise = normal()
    for number, t in enumerate(scheduler.timesteps):
        assert scheduler.index_of(t) == number
        x, _ = scheduler.step(-x, t, x, noise=noise)
    assert scheduler.step_index == len(scheduler.timesteps)


def test_latents_of_any_shape() -> None:
    for shape in ((1, 3), (2, 4, 1, 1), (1, 4, 2, 3, 2)):
        for name in ("DPM++ 2M", "Euler a", "UniPC", "Heun"):
            scheduler = sd(name)
            scheduler.set_timesteps(3)
            x = np.ones(shape, np.float32)
            for t in scheduler.timesteps:
                x, _ = scheduler.step(x, t, x, noise=x)
            assert x.shape == shape


def test_importing_schedulers_stays_light() -> None:
    heavy = ("torch", "scipy", "numba", "PIL", "tokenizers")
    code = f"import sys, tinydiff.schedulers; print([m for m in {heavy} if m in sys.modules])"
    paths = [str(Path(schedulers.__file__).parents[2] / part) for part in ("", "kernels", "weights")]
    code = f"import sys; sys.path[:0] = {paths!r}\n{code}"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
