"""What all schedulers share: where in the schedule a loop is, the checks, and state that can be saved.

A scheduler solves dx/dt of the diffusion process from noise to image. The loop around it is

    scheduler.set_timesteps(20)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = model(scheduler.scale_model_input(x, t), t)
        x, denoised = scheduler.step(output, t, x, noise=draw() if scheduler.needs_noise(t) else None)

Latents are float32 arrays of any shape, batch first. Coefficients are computed in float64 from the float32 noise
levels and rounded once, so that they do not depend on the last bits of a CPU's exp or log; arrays are combined in
float32. The mathematics of each step is a function of (sigmas, latents, model output, noise); what a multistep
method remembers lies apart, in the attributes named by `state_fields`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinydiff.errors import InvalidArgumentError
from tinydiff.schedulers.betas import F32

Steps: TypeAlias = NDArray[Any]  # timesteps: int64 for solvers on the training grid, else float32 or float64
MAX_STATE_ITEMS = 16


class Scheduler:
    """Base of all. `config` is diffusers' config with defaults filled in, `class_name` diffusers' class."""

    class_name: ClassVar[str]
    order: ClassVar[int] = 1  # model calls per step; img2img starts at a multiple of it
    takes_eta: ClassVar[float | None] = None  # the default eta of classes whose step has one
    takes_timesteps: ClassVar[bool] = False
    takes_sigmas: ClassVar[bool] = False
    later_match: ClassVar[bool] = True  # begun in the middle, at a timestep that occurs twice: at its second place
    # what a step remembers: "arrays" a list of latents, "array" latents or None, "count" an integer; "seeds" are the
    # caller's, and outlive a schedule
    state_fields: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: Mapping[str, Any], eta: float | None = None):
        self.config: Mapping[str, Any] = MappingProxyType(dict(config))
        self.eta = self._checked_eta(eta)
        self.num_inference_steps = 0
        self.timesteps: Steps = np.zeros(0, np.int64)
        self.sigmas: F32 = np.zeros(0, np.float32)
        self.step_index: int | None = None  # None: no step taken yet
        self.begin_index: int | None = None
        self._forget()

    # ---- what a class defines ------------------------------------------------------------------------------------
    def _schedule(self, n: int, timesteps: NDArray[np.float64] | None) -> tuple[Steps, F32]:
        """Timesteps and noise levels of n steps (or of the given timesteps)."""
        raise NotImplementedError

    def _step(self, output: F32, index: int, x: F32, noise: F32) -> tuple[F32, F32]:
        """The latents of the next noise level and the estimate of the clean ones. `noise` is zeros when not needed."""
        raise NotImplementedError

    @property
    def uses_noise(self) -> bool:
        """Whether any step consumes noise that the caller draws."""
        return False

    def needs_noise(self, t: float) -> bool:
        """Whether the step at t consumes noise: diffusers draws from the generator at exactly these steps."""
        return False

    @property
    def init_noise_sigma(self) -> float:
        """What unit noise is multiplied with to become the first latents."""
        return 1.0

    def scale_model_input(self, x: F32, t: float) -> F32:
        """The latents as the network expects them at t."""
        return x

    def add_noise(self, x: F32, noise: F32, t: ArrayLike) -> F32:
        """Clean latents brought to the noise level of t: a number, or one for each image."""
        raise NotImplementedError

    def set_noise_seeds(self, seeds: Sequence[int]) -> None:
        """One seed per image, for the classes that make their own noise (DPMSolverSDE); else without effect."""

    # ---- the schedule --------------------------------------------------------------------------------------------
    def set_timesteps(
        self, n: int | None = None, timesteps: ArrayLike | None = None, sigmas: ArrayLike | None = None
    ) -> None:
        """Prepares n steps, or the given timesteps, or the given noise levels (with the last, often 0, included).

        Forgets all history. A schedule that would end in infinities is refused here, before any work.
        Raises InvalidArgumentError.
        """
        if sum(item is not None for item in (n, timesteps, sigmas)) != 1:
            raise InvalidArgumentError("pass exactly one of num_inference_steps, timesteps and sigmas")
        if timesteps is not None and not self.takes_timesteps:
            raise InvalidArgumentError(f"{self.class_name} does not take custom timesteps")
        if sigmas is not None and not self.takes_sigmas:
            raise InvalidArgumentError(f"{self.class_name} does not take custom sigmas")
        with np.errstate(all="ignore"):
            if sigmas is not None:
                self.timesteps, self.sigmas = self._schedule_of_sigmas(self._checked_sigmas(sigmas))
                self.num_inference_steps = len(self.timesteps)
            else:
                given = None if timesteps is None else self._checked_timesteps(timesteps)
                self.num_inference_steps = self._checked_steps(n) if given is None else len(given)
                self.timesteps, self.sigmas = self._schedule(self.num_inference_steps, given)
        self.step_index = self.begin_index = None
        self._forget()
        self._rehearse()

    def set_begin_index(self, index: int) -> None:
        """Starts the next loop at timesteps[index] (img2img: a multiple of `order`)."""
        if not 0 <= index < len(self.timesteps):
            raise InvalidArgumentError(f"begin index {index} is outside of {len(self.timesteps)} timesteps")
        self.begin_index, self.step_index = int(index), None
        self._forget()

    def _schedule_of_sigmas(self, sigmas: F32) -> tuple[Steps, F32]:
        raise NotImplementedError

    def _rehearse(self) -> None:
        """Runs the whole loop on one number: coefficients depend on the schedule alone, so a bad one shows here."""
        self.rehearsed(len(self.timesteps))

    def rehearsed(self, steps: int) -> Scheduler:
        """A copy that was taken through the first `steps` timesteps on one number in the place of latents.

        Its state has the counts and as many arrays as that of a real loop there. Raises InvalidArgumentError.
        """
        double = copy.copy(self)
        double.step_index = None
        double._forget()
        double.set_noise_seeds([0])
        one = np.ones((1, 1), np.float32)
        output = np.ones((1, self._output_multiple()), np.float32)
        for t in self.timesteps[:steps]:
            try:
                double.scale_model_input(one, t)
                double.step(output, t, one, noise=one)
            except InvalidArgumentError as error:
                count = f"{self.num_inference_steps} step" + "s" * (self.num_inference_steps != 1)
                raise InvalidArgumentError(
                    f"{self.class_name} cannot run {count} with these options: at timestep {float(t):g}, {error}"
                ) from None
        return double

    def _output_multiple(self) -> int:
        """Channels of the model's output per channel of the latents; 2 where it also predicts a variance."""
        return 2 if str(self.config.get("variance_type")).startswith("learned") else 1

    # ---- one step ------------------------------------------------------------------------------------------------
    def step(self, model_output: F32, t: float, x: F32, noise: F32 | None = None) -> tuple[F32, F32]:
        """From the latents x at timestep t and what the network said to the next ones.

        Args: model_output, x and noise: float32 (B, ...); t: the next entry of `timesteps`; noise: unit normal,
        needed where `needs_noise(t)`, else ignored.
        Returns: (previous, denoised): the next latents, and the current estimate of the clean ones.
        Raises InvalidArgumentError for a wrong shape, a timestep out of order, or missing noise.
        """
        index = self.index_of(t)
        x, output = np.asarray(x, np.float32), np.asarray(model_output, np.float32)
        wanted = (x.shape[0], x.shape[1] * self._output_multiple(), *x.shape[2:]) if x.ndim > 1 else x.shape
        if output.shape not in (x.shape, wanted):
            raise InvalidArgumentError(f"model output of shape {output.shape} for latents of shape {x.shape}")
        self._check_state_shape(x.shape)
        if noise is None and self.needs_noise(t):
            raise InvalidArgumentError(f"{self.class_name} needs noise at timestep {float(t):g}")
        drawn = self._own_noise(index, x) if noise is None else np.asarray(noise, np.float32)
        if drawn.shape != x.shape:
            raise InvalidArgumentError(f"noise of shape {drawn.shape} for latents of shape {x.shape}")
        with np.errstate(all="ignore"):  # infinities are wanted in between (log 0) and refused by `combine`
            previous, denoised = self._step(output, index, x, drawn)
        self.step_index = index + 1
        return previous, denoised

    def _own_noise(self, index: int, x: F32) -> F32:
        """Noise of the scheduler's own making; zeros for all but DPMSolverSDE."""
        return np.zeros_like(x)

    def index_of(self, t: float) -> int:
        """The place of timestep t in the schedule: the next one in a running loop, found by value at its start."""
        value = float(t)
        if not len(self.timesteps):
            raise InvalidArgumentError("call set_timesteps() first")
        index = self.begin_index if self.step_index is None else self.step_index
        if index is None:
            places = np.flatnonzero(self.timesteps == value)
            if not len(places):
                raise InvalidArgumentError(f"timestep {value:g} is not in the schedule")
            # diffusers' later place is off the mark for the first timestep of all: its loop then runs past the end of
            # the sigmas (Karras, exponential or beta sigmas at zero terminal SNR round to equal timesteps). Its newer
            # pipelines begin at index 0 explicitly; here a loop from the start always does.
            return int(places[1 if self.later_match and len(places) > 1 and places[0] else 0])
        if index >= len(self.timesteps):
            raise InvalidArgumentError("all steps are done: call set_timesteps() before the next loop")
        if float(self.timesteps[index]) != value:
            expected = float(self.timesteps[index])
            raise InvalidArgumentError(f"the next timestep is {expected:g}, not {value:g}: steps go in order")
        return index

    # ---- state ---------------------------------------------------------------------------------------------------
    def _forget(self) -> None:
        """Drops what earlier steps left behind."""
        for name, kind in self.state_fields.items():
            if kind != "seeds":
                setattr(self, name, [] if kind == "arrays" else 0 if kind == "count" else None)

    def _check_state_shape(self, shape: tuple[int, ...]) -> None:
        for name in self.state_fields:
            value = getattr(self, name)
            for array in value if isinstance(value, list) else [value]:
                if isinstance(array, np.ndarray) and array.shape != shape:
                    raise InvalidArgumentError(
                        f"latents of shape {shape}, but the steps so far had {array.shape}: call set_timesteps()"
                    )

    def state_dict(self) -> dict[str, Any]:
        """All that a later `load_state_dict` needs to go on bit for bit: arrays and integers (-1: none yet)."""
        state: dict[str, Any] = {
            "timesteps": self.timesteps.copy(),
            "sigmas": self.sigmas.copy(),
            "num_inference_steps": self.num_inference_steps,
            "step_index": -1 if self.step_index is None else self.step_index,
            "begin_index": -1 if self.begin_index is None else self.begin_index,
        }
        for name, kind in self.state_fields.items():
            value = getattr(self, name)
            if kind == "arrays" and value:
                state[name] = np.stack(value)
            elif kind == "count":
                state[name] = int(value)
            elif kind == "seeds":
                state[name] = np.array(value, np.uint64)
            elif kind == "array" and value is not None:
                state[name] = value.copy()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave, into a scheduler made with the same config.

        Raises InvalidArgumentError and changes nothing when the state does not fit.
        """
        counts = ("num_inference_steps", "step_index", "begin_index")
        unknown = set(state) - {"timesteps", "sigmas", *counts, *self.state_fields}
        missing = {"timesteps", "sigmas", *counts} - set(state)
        missing |= {name for name, kind in self.state_fields.items() if kind == "count"} - set(state)
        if unknown or missing:
            what = f"has unknown {sorted(unknown)}" if unknown else f"lacks {sorted(missing)}"
            raise InvalidArgumentError(f"saved state of a scheduler: {what} for {self.class_name}")
        timesteps, sigmas = np.array(state["timesteps"]), np.array(state["sigmas"], np.float32)
        if timesteps.ndim != 1 or sigmas.ndim != 1 or timesteps.dtype.kind not in "if":
            raise InvalidArgumentError("saved state of a scheduler: timesteps and sigmas must be rows of numbers")
        values = {name: self._restored(name, kind, state) for name, kind in self.state_fields.items()}
        numbers = {name: _count(name, state[name], low=-1) for name in counts}
        if max(numbers["step_index"], numbers["begin_index"] + 1) > len(timesteps):
            raise InvalidArgumentError("saved state of a scheduler: the index lies outside of the timesteps")
        self.timesteps, self.sigmas = timesteps, sigmas
        self.num_inference_steps = numbers["num_inference_steps"]
        self.step_index = None if numbers["step_index"] < 0 else numbers["step_index"]
        self.begin_index = None if numbers["begin_index"] < 0 else numbers["begin_index"]
        for name, value in values.items():
            setattr(self, name, value)

    @staticmethod
    def _restored(name: str, kind: str, state: Mapping[str, Any]) -> Any:
        if name not in state:
            return None if kind == "array" else []
        if kind == "count":
            return _count(name, state[name], low=0)
        array = np.asarray(state[name])
        if kind == "seeds" and array.ndim == 1 and array.dtype.kind in "ui":
            return [int(seed) for seed in array]
        if array.dtype.kind != "f" or array.ndim < 1 or (kind == "arrays" and len(array) > MAX_STATE_ITEMS):
            raise InvalidArgumentError(f"saved state of a scheduler: {name} is not an array of latents")
        return [row.astype(np.float32) for row in array] if kind == "arrays" else array.astype(np.float32)

    # ---- checks --------------------------------------------------------------------------------------------------
    def _checked_eta(self, eta: float | None) -> float:
        """Only DDIM and TCD have an eta; the others leave it unread, as diffusers' pipelines do."""
        if self.takes_eta is None or eta is None:
            return self.takes_eta or 0.0
        if isinstance(eta, bool) or not isinstance(eta, int | float | np.number) or not 0 <= float(eta) <= 1:
            raise InvalidArgumentError(f"eta must be a number from 0 to 1, not {eta!r}")
        return float(eta)

    def _checked_steps(self, n: int | None) -> int:
        most = int(self.config["num_train_timesteps"])
        fine = isinstance(n, int | np.integer) and not isinstance(n, bool) and 1 <= n <= most
        if not fine or n is None:
            raise InvalidArgumentError(f"the number of steps must be an integer from 1 to {most}, not {n!r}")
        return int(n)

    def _checked_timesteps(self, timesteps: ArrayLike) -> NDArray[np.float64]:
        most = int(self.config["num_train_timesteps"])
        row = _row("timesteps", timesteps)
        if np.any(np.diff(row) >= 0) or row[0] >= most or row[-1] < 0:
            raise InvalidArgumentError(f"timesteps must fall, from below {most} to 0 or more")
        for key in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"):
            if self.config.get(key):
                raise InvalidArgumentError(f"custom timesteps cannot be used with {key}")
        return row

    def _checked_sigmas(self, sigmas: ArrayLike) -> F32:
        row = _row("sigmas", sigmas)
        if len(row) < 2 or np.any(np.diff(row) >= 0) or row[-1] < 0:
            raise InvalidArgumentError("sigmas must fall, to 0 or more, and be at least two")
        return row.astype(np.float32)


def _row(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        row = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"{name} must be a list of numbers, not {values!r}"[:200]) from None
    if row.ndim != 1 or not len(row) or not np.all(np.isfinite(row)):
        raise InvalidArgumentError(f"{name} must be a list of finite numbers")
    return row


def _count(name: str, value: Any, low: int) -> int:
    if not isinstance(value, int | np.integer | np.ndarray) or isinstance(value, bool) or np.size(value) != 1:
        raise InvalidArgumentError(f"saved state of a scheduler: {name} is not an integer")
    number = int(np.asarray(value).reshape(()))
    if number < low:
        raise InvalidArgumentError(f"saved state of a scheduler: {name} is {number}")
    return number
