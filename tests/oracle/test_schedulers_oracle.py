"""Every scheduler against diffusers: each class x each option that diffusers runs, at 1, 2, 3, 7 and 20 steps.

diffusers runs a loop on a smooth made-up network; the network's outputs and the noise that it drew are recorded and
fed to ours. Where diffusers raises, or ends in numbers that are not finite, ours must raise its own error.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import itertools
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import diffusers
import numpy as np
import pytest
import scipy.stats
import torch

from tinydiff import schedulers
from tinydiff.errors import TinyDiffError
from tinydiff.schedulers import OPTIONS
from tinydiff.schedulers.beta_quantile import beta_quantile, incomplete_beta
from tinydiff.schedulers.dpm_singlestep import order_list

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers' deprecations and NumPy's divisions there

STEPS = (1, 2, 3, 7, 20)
SHAPE = (2, 4, 3, 5)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
COMBINATIONS = 12  # random ones per class, beside each value on its own
COUNTS: Counter[str] = Counter()

VALUES: dict[str, tuple[Any, ...]] = {
    "num_train_timesteps": (1000, 500),
    "beta_start": (0.0005,),
    "beta_end": (0.015,),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp", "nonsense"),
    "trained_betas": ([0.0002 + 0.00001 * i for i in range(1000)],),
    "prediction_type": ("epsilon", "v_prediction", "sample", "nonsense"),
    "timestep_spacing": ("linspace", "leading", "trailing", "nonsense"),
    "steps_offset": (0, 1),
    "clip_sample": (True, False),
    "clip_sample_range": (1.0, 2.5),
    "thresholding": (True, False),
    "dynamic_thresholding_ratio": (0.9,),
    "sample_max_value": (1.5,),
    "set_alpha_to_one": (True, False),
    "rescale_betas_zero_snr": (True, False),
    "variance_type": (),  # set per class below
    "skip_prk_steps": (True, False),
    "use_karras_sigmas": (True, False),
    "use_exponential_sigmas": (True, False),
    "use_beta_sigmas": (True, False),
    "use_lu_lambdas": (True, False),
    "interpolation_type": ("linear", "log_linear", "nonsense"),
    "sigma_min": (0.05,),
    "sigma_max": (10.0,),
    "timestep_type": ("discrete", "continuous"),
    "final_sigmas_type": ("zero", "sigma_min", "nonsense"),
    "solver_order": (1, 2, 3),
    "algorithm_type": ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis", "nonsense"),
    "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2", "nonsense"),
    "lower_order_final": (True, False),
    "euler_at_final": (True, False),
    "lambda_min_clipped": (-5.1, -3.0),
    "predict_x0": (True, False),
    "disable_corrector": ([], [0, 1]),
    "original_inference_steps": (50, 25),
    "timestep_scaling": (10.0, 3.0),
    "noise_sampler_seed": (None, 3),
    "sigma_data": (0.5, 1.0),
    "sigma_schedule": ("karras", "exponential"),
    "rho": (7.0, 3.0),
}
PER_CLASS: dict[str, dict[str, tuple[Any, ...]]] = {
    "DDPMScheduler": {"variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")},
    "DPMSolverMultistepScheduler": {"variance_type": (None,)},
    "DPMSolverSinglestepScheduler": {"variance_type": (None,)},
    "EDMEulerScheduler": {"sigma_min": (0.002, 0.01), "sigma_max": (80.0, 40.0)},
    "EDMDPMSolverMultistepScheduler": {"sigma_min": (0.002, 0.01), "sigma_max": (80.0, 40.0)},
}
# options that diffusers fails without, so that the option under test is what runs
TOGETHER = {
    ("algorithm_type", "dpmsolver"): {"final_sigmas_type": "sigma_min"},
    ("algorithm_type", "sde-dpmsolver"): {"final_sigmas_type": "sigma_min"},
    ("rescale_betas_zero_snr", True): {"prediction_type": "v_prediction"},
    ("timestep_type", "continuous"): {"prediction_type": "v_prediction"},
    ("sigma_min", 0.05): {"use_karras_sigmas": True},
    ("sigma_max", 10.0): {"use_exponential_sigmas": True},
    ("solver_type", "heun"): {"solver_order": 3},
    ("dynamic_thresholding_ratio", 0.9): {"thresholding": True},
    ("sample_max_value", 1.5): {"thresholding": True},
    ("clip_sample_range", 2.5): {"clip_sample": True},
}


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """(class, options): the defaults, each value of each option on its own, and random combinations."""
    for name, spec in OPTIONS.items():
        base = {key: value for key, value in SD.items() if key in spec.defaults}
        values = {key: PER_CLASS.get(name, {}).get(key, VALUES[key]) for key in spec.defaults}
        yield name, {}
        yield name, base
        seen = []
        for key, candidates in values.items():
            for value in candidates:
                together = {
                    k: v
                    for k, v in TOGETHER.get((key, str(value) if isinstance(value, list) else value), {}).items()
                    if k in values
                }
                row = {**base, **together, key: value}
                if row not in seen:
                    seen.append(row)
                    yield name, row
        draw = random.Random(name)
        plain = {
            k: [v for v in vs if v != "nonsense"]
            for k, vs in values.items()
            if k not in ("trained_betas", "num_train_timesteps")
        }
        for _ in range(COMBINATIONS):
            keys = draw.sample(sorted(plain), k=min(len(plain), draw.randint(2, 6)))
            yield name, {**base, **{key: draw.choice(plain[key]) for key in keys if plain[key]}}


def row_id(row: tuple[str, dict[str, Any]]) -> str:
    name, options = row
    words = [f"{k}={'[...]' if isinstance(v, list) else v}" for k, v in options.items() if SD.get(k) != v]
    return f"{name.removesuffix('Scheduler')}:{','.join(words)}"


class Recorder:
    """Stands in for diffusers' noise: seeded normals, remembered with the step that drew them."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(5)
        self.step = -1
        self.drawn: dict[int, np.ndarray] = {}

    def __call__(self, *_: Any, **__: Any) -> torch.Tensor:
        noise = self.random.standard_normal(SHAPE).astype(np.float32)
        assert self.step not in self.drawn
        self.drawn[self.step] = noise
        return torch.from_numpy(noise.copy())


def network(x: np.ndarray, t: float, channels: int) -> np.ndarray:
    """Smooth in x and t, of the size of noise."""
    grid = np.linspace(-1, 1, x.size, dtype=np.float32).reshape(x.shape)
    out = 0.7 * np.sin(1.3 * x + 3 * grid + 0.002 * float(t)) + 0.4 * np.tanh(x) + 0.3 * grid
    # A predicted variance must not be negative.
    return np.concatenate([out, np.abs(out)][:channels], axis=1).astype(np.float32)


def ieee_square_root(self: torch.Tensor, exponent: Any) -> torch.Tensor:
    """x ** 0.5 as IEEE rounds it. torch takes MKL's, which is off by a unit in the last place in 18 % of values."""
    if isinstance(exponent, float) and exponent == 0.5 and self.dtype == torch.float32:
        return torch.from_numpy(np.sqrt(np.atleast_1d(self.numpy()))).reshape(self.shape)
    return torch.pow(self, exponent)


def exact_roots(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step cancels nearly all of its operands the last bit of a root is the third digit of the result: the
    variance left below a long ancestral step, and latents at zero terminal SNR (sigma 4096 and more)."""
    if "Ancestral" in name or options.get("rescale_betas_zero_snr"):
        monkeypatch.setattr(torch.Tensor, "__pow__", ieee_square_root)


def built(name: str, options: dict[str, Any]) -> Any:
    """diffusers' scheduler, or the exception that it raises.

    Some set up 1000 steps in their constructor, which takes a second and is replaced by the first set_timesteps.
    """
    cls = getattr(diffusers, name)
    with warnings.catch_warnings(), np.errstate(all="ignore"), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(cls, "set_timesteps", lambda self, *_: setattr(self, "sigmas", torch.zeros(1)))
        try:
            return cls(**options)
        except Exception as error:
            return error


def run_theirs(
    prototype: Any, set_timesteps: dict[str, Any], monkeypatch: pytest.MonkeyPatch, eta: float | None, channels: int
) -> dict[str, Any]:
    """diffusers' loop as its pipelines have it; raises what diffusers raises."""
    if isinstance(prototype, Exception):
        raise prototype
    scheduler = copy.deepcopy(prototype)
    module = importlib.import_module(type(scheduler).__module__)
    recorder = Recorder()
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", recorder)
    if hasattr(module, "BrownianTreeNoiseSampler"):
        monkeypatch.setattr(module, "BrownianTreeNoiseSampler", lambda *a, **k: recorder)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        scheduler.set_timesteps(**set_timesteps)
        if hasattr(scheduler, "set_begin_index"):
            # As diffusers' newer pipelines begin. Without it a first timestep that rounding made equal to the second is
            # taken for the second, and the loop runs past the end of the sigmas.
            scheduler.set_begin_index(0)
        options = scheduler.config
        if options.get("solver_order") == 3 and options.get("use_beta_sigmas") and "DEIS" in type(scheduler).__name__:
            # Beta sigmas lie so close that differences of float32 logarithms lose three digits.
            scheduler.sigmas = scheduler.sigmas.double()
        first = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
        sigma = float(scheduler.init_noise_sigma)
        x = torch.from_numpy(first) * sigma
        outputs, inputs, latents, estimates = [], [], [], []
        extra = {} if eta is None else {"eta": eta}
        for recorder.step, t in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, t)
            output = network(scaled.numpy(), float(t), channels)
            result = scheduler.step(torch.from_numpy(output), t, x, **extra)
            x = result.prev_sample
            inputs.append(scaled.numpy())
            outputs.append(output)
            latents.append(x.numpy())
            estimates.append(getattr(result, "pred_original_sample", None))
    return {
        "scheduler": scheduler,
        "timesteps": scheduler.timesteps.numpy(),
        "sigmas": scheduler.sigmas.numpy() if hasattr(scheduler, "sigmas") else None,
        "init": sigma,
        "first": first,
        "inputs": inputs,
        "outputs": outputs,
        "latents": latents,
        "estimates": estimates,
        "noise": recorder.drawn,
    }


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, in units of the reference's root mean square."""
    return float(
        np.abs(ours.astype(np.float64) - theirs).max() / max(np.sqrt(np.mean(theirs.astype(np.float64) ** 2)), 1e-12)
    )


def compare(
    name: str, options: dict[str, Any], call: dict[str, Any], theirs: dict[str, Any], eta: float | None
) -> None:
    scheduler = schedulers.make(name, eta=eta, **options)
    arguments = {"n": call.get("num_inference_steps"), "timesteps": call.get("timesteps"), "sigmas": call.get("sigmas")}
    scheduler.set_timesteps(**arguments)
    expected = theirs["timesteps"]
    assert len(scheduler.timesteps) == len(expected)
    if expected.dtype.kind == "i":
        assert scheduler.timesteps.dtype.kind == "i"
        assert np.array_equal(scheduler.timesteps, expected), (scheduler.timesteps, expected)
    else:
        assert np.abs(scheduler.timesteps - expected).max() < 1e-3, (scheduler.timesteps, expected)
    # Classes on the training grid have no sigmas in diffusers.
    if theirs["sigmas"] is not None:
        assert scheduler.sigmas.shape == theirs["sigmas"].shape
        assert np.allclose(scheduler.sigmas, theirs["sigmas"], rtol=1e-4, atol=0), (scheduler.sigmas, theirs["sigmas"])
    assert scheduler.init_noise_sigma == pytest.approx(theirs["init"], rel=1e-5)
    x = theirs["first"] * np.float32(scheduler.init_noise_sigma)
    for index, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, t)
        assert relative(scaled, theirs["inputs"][index]) < 1e-3
        assert scheduler.needs_noise(t) == (index in theirs["noise"]) or name == "DPMSolverSDEScheduler"
        assert scheduler.uses_noise or index not in theirs["noise"] or name == "DPMSolverSDEScheduler"
        x, denoised = scheduler.step(theirs["outputs"][index], t, x, noise=theirs["noise"].get(index))
        assert x.dtype == np.float32
        assert denoised.shape == x.shape
        if theirs["estimates"][index] is not None:
            assert relative(denoised, theirs["estimates"][index].numpy()) < 1e-3
    assert relative(x, theirs["latents"][-1]) < 1e-3


def check(
    prototype: Any,
    name: str,
    options: dict[str, Any],
    call: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    eta: float | None = None,
    channels: int = 1,
) -> None:
    """One row of the matrix."""
    try:
        theirs = run_theirs(prototype, call, monkeypatch, eta, channels)
        finite = all(np.all(np.isfinite(item)) for item in theirs["latents"])
        why = "not finite"
    except Exception as error:
        finite, why = False, f"{type(error).__name__}: {error}"
    if finite:
        compare(name, options, call, theirs, eta)
        COUNTS["run"] += 1
        return
    assert refuses(name, options, call, eta), f"diffusers refuses ({why}), ours does not"
    COUNTS["refused"] += 1


def refuses(name: str, options: dict[str, Any], call: dict[str, Any], eta: float | None) -> bool:
    """Whether ours raises its own error, before any step is taken."""
    try:
        scheduler = schedulers.make(name, eta=eta, **options)
        scheduler.set_timesteps(call.get("num_inference_steps"), call.get("timesteps"), call.get("sigmas"))
    except TinyDiffError:
        return True
    return False


ROWS = list(rows())


@pytest.mark.parametrize(("name", "options"), ROWS, ids=map(row_id, ROWS))
def test_option(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    exact_roots(name, options, monkeypatch)
    prototype = built(name, options)
    for n in STEPS:
        check(prototype, name, options, {"num_inference_steps": n}, monkeypatch)


ETA_ROWS = [
    (name, eta, {**SD, **options})
    for name, etas in (("DDIMScheduler", (0.0, 0.5, 1.0)), ("TCDScheduler", (0.0, 0.3, 1.0)))
    for eta in etas
    for options in (
        {},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {"set_alpha_to_one": False},
    )
]


@pytest.mark.parametrize(("name", "eta", "options"), ETA_ROWS)
def test_eta(name: str, eta: float, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    exact_roots(name, options, monkeypatch)
    prototype = built(name, options)
    for n in STEPS:
        check(prototype, name, options, {"num_inference_steps": n}, monkeypatch, eta)


CUSTOM_TIMESTEPS = ([999], [999, 500], [999, 850, 736, 645, 545, 455, 343, 233, 124, 24], [959, 700, 3, 0])
CUSTOM_SIGMAS = (
    [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.0],
    [10.0, 1.0],
    [100.0, 7.0, 0.01, 0.0],
)
KINDS: tuple[dict[str, Any], ...] = ({}, {"use_karras_sigmas": True}, {"use_beta_sigmas": True})


def accepts(name: str, argument: str) -> bool:
    return argument in inspect.signature(getattr(diffusers, name).set_timesteps).parameters


CUSTOM_ROWS = [
    (name, {"timesteps": list(steps)}, kind)
    for name in OPTIONS
    if accepts(name, "timesteps")
    for steps in CUSTOM_TIMESTEPS
    for kind in KINDS
    if set(kind) <= set(OPTIONS[name].defaults)
] + [("EulerDiscreteScheduler", {"sigmas": list(sigmas)}, kind) for sigmas in CUSTOM_SIGMAS for kind in KINDS]


@pytest.mark.parametrize(("name", "call", "options"), CUSTOM_ROWS)
def test_custom_schedule(
    name: str, call: dict[str, Any], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {key: value for key, value in SD.items() if key in OPTIONS[name].defaults}
    check(built(name, {**base, **options}), name, {**base, **options}, call, monkeypatch)


@pytest.mark.parametrize("name", OPTIONS)
def test_custom_schedules_are_taken_where_diffusers_takes_them(name: str) -> None:
    """Those that take sigmas there but no list of them (EDM Euler) or for flow models only (UniPC) do not count."""
    cls = schedulers.CLASSES[name]
    assert cls.takes_timesteps == accepts(name, "timesteps")
    assert cls.takes_sigmas == (
        accepts(name, "sigmas") and name not in ("EDMEulerScheduler", "UniPCMultistepScheduler")
    )


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("DDPMScheduler", {}),
        ("DPMSolverMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
        ("DPMSolverSinglestepScheduler", {}),
    ],
)
def test_learned_variance(name: str, more: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that predict a variance too have twice the channels; the DPM solvers there expect three of pixels."""
    monkeypatch.setattr(f"{__name__}.SHAPE", (2, 3, 4, 5))
    options = {**SD, **more, "variance_type": kind}
    exact_roots(name, options, monkeypatch)
    prototype = built(name, options)
    for n in STEPS:
        check(prototype, name, options, {"num_inference_steps": n}, monkeypatch, channels=2)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "PNDMScheduler"])
def test_image_to_image_start(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """add_noise and a loop from the middle, as diffusers' image-to-image pipelines do it."""
    base = {key: value for key, value in SD.items() if key in OPTIONS[name].defaults}
    theirs, ours = built(name, base), schedulers.make(name, **base)
    module = importlib.import_module(type(theirs).__module__)
    recorder = Recorder()
    for attribute in ("randn_tensor", "BrownianTreeNoiseSampler"):
        if hasattr(module, attribute):
            monkeypatch.setattr(
                module, attribute, recorder if attribute == "randn_tensor" else lambda *a, **k: recorder
            )
    theirs.set_timesteps(10)
    ours.set_timesteps(10)
    begin = 4 * ours.order
    random_numbers = np.random.default_rng(2)
    image, noise = (random_numbers.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
    if hasattr(theirs, "set_begin_index"):
        theirs.set_begin_index(begin)
    ours.set_begin_index(begin)
    t = theirs.timesteps[begin : begin + 1]
    x = theirs.add_noise(torch.from_numpy(image), torch.from_numpy(noise), t.repeat(2))
    y = ours.add_noise(image, noise, ours.timesteps[begin])
    assert relative(y, x.numpy()) < 1e-5
    for recorder.step, t in enumerate(theirs.timesteps[begin:]):
        scaled = theirs.scale_model_input(x, t).numpy()
        assert relative(ours.scale_model_input(y, ours.timesteps[begin + recorder.step]), scaled) < 1e-3
        output = network(scaled, float(t), 1)
        x = theirs.step(torch.from_numpy(output), t, x).prev_sample
        place = ours.timesteps[begin + recorder.step]
        y, _ = ours.step(output, place, y, noise=recorder.drawn.get(recorder.step))
    assert relative(y, x.numpy()) < 1e-3
    COUNTS["run"] += 1


def test_add_noise_per_image() -> None:
    """Without a begin index each image has its own timestep, as in training."""
    random_numbers = np.random.default_rng(3)
    image, noise = (random_numbers.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
    for name in OPTIONS:
        theirs, ours = built(name, {}), schedulers.make(name)
        theirs.set_timesteps(5)
        ours.set_timesteps(5)
        t = theirs.timesteps[[1, 4]]
        x = theirs.add_noise(torch.from_numpy(image), torch.from_numpy(noise), t)
        assert relative(ours.add_noise(image, noise, ours.timesteps[[1, 4]]), x.numpy()) < 1e-5, name


def test_switching_the_class_of_a_config() -> None:
    """`make(name, base=config)` is `from_config`: what the stored config sets travels, what it left open does not."""
    stored = {"_class_name": "PNDMScheduler", **SD, "skip_prk_steps": True, "steps_offset": 1, "clip_sample": False}
    original = diffusers.PNDMScheduler.from_config(stored)
    for name in OPTIONS:
        theirs = getattr(diffusers, name).from_config(original.config)
        for base in (stored, schedulers.make(stored).config):
            ours = schedulers.make(name, base=base)
            for key in OPTIONS[name].defaults:
                expected = theirs.config[key]
                assert ours.config[key] == (tuple(expected) if isinstance(expected, list) else expected), (name, key)


def test_singlestep_orders() -> None:
    for order, final, zero in itertools.product((1, 2, 3), (True, False), ("zero", "sigma_min")):
        options = {"solver_order": order, "lower_order_final": final, "final_sigmas_type": zero}
        for n in (*range(1, 16), 20, 25):
            theirs = built("DPMSolverSinglestepScheduler", options)
            theirs.set_timesteps(n)
            assert order_list(n, order, final, zero == "zero") == theirs.order_list, (options, n)


def test_beta_quantile() -> None:
    for a, b, low in ((0.6, 0.6, 0.0), (2.0, 5.0, 0.01), (0.3, 4.0, 0.01)):
        for p in np.linspace(low, 1 - low, 101):
            assert beta_quantile(p, a, b) == pytest.approx(scipy.stats.beta.ppf(p, a, b), rel=1e-11, abs=1e-14)
        for x in np.linspace(0, 1, 51):
            assert incomplete_beta(a, b, x) == pytest.approx(scipy.stats.beta.cdf(x, a, b), rel=1e-11, abs=1e-14)


def test_every_option_is_in_the_table() -> None:
    """diffusers' constructors and ours know the same keys, with the same defaults."""
    for name, spec in OPTIONS.items():
        parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
        theirs = {key: p.default for key, p in parameters.items() if key not in ("self", "args", "kwargs")}
        assert set(theirs) == spec.known(), (name, set(theirs) ^ spec.known())
        for key, value in spec.defaults.items():
            expected = theirs[key]
            assert value == (tuple(expected) if isinstance(expected, list) else expected), (name, key)
        for key, value in spec.neutral.items():
            assert value == theirs[key], (name, key)


def test_rows_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Every row was run at every number of steps; most compare numbers, the rest are refusals."""
    with capsys.disabled():
        print(f"\nschedulers: {COUNTS['run']} loops compared with diffusers, {COUNTS['refused']} refused on both sides")
    assert COUNTS.total() >= len(STEPS) * (len(ROWS) + len(ETA_ROWS)) + len(CUSTOM_ROWS)
    assert COUNTS["run"] > 2 * COUNTS["refused"]
