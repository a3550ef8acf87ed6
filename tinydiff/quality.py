"""What quantising loses: by layer, by step, and in the picture; and how much each layer matters.

    snr(reference, other)                  tensors: 10 log10(sum ref^2 / sum (ref - other)^2)
    psnr(reference, other)                 images on [-1, 1]: 10 log10(2^2 / mean (ref - other)^2)
    layer_errors(pipe, kinds, ...)         every quantised layer's output for the same float32 input
    step_errors(pipe, other, ...)          latents after every step, and the picture, of two pipelines
    sensitivities(pipe, kinds, ...)        what the prediction loses if one layer alone is quantised

`kinds` names a choice of tinydiff.recipe ("int8", "int4"), or maps "component/layer" to "i8", "i4" ... (the rest is
float32). Pipelines here are opened with weights="float32"; layers are measured by NumPy, which is exact but slow.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydiff.api import Pipeline
from tinydiff.conditioning import Conditioning
from tinydiff.denoise import Loop
from tinydiff.errors import InvalidArgumentError
from tinydiff.pipeline import Watcher
from tinydiff.recipe import kind_of
from tinydiff_kernels import operations as op
from tinydiff_kernels.backend import Backend
from tinydiff_kernels.handles import MatmulWeight
from tinydiff_kernels.matmul.packing import Kind
from tinydiff_kernels.reference import Reference
from tinydiff_kernels.rounded import Rounded
from tinydiff_kernels.rows import Rows
from tinydiff_weights.jsonfile import read_json

F32 = NDArray[np.float32]
Kinds = str | Mapping[str, str]
KindOf = Callable[[MatmulWeight], Kind]


def snr(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Decibels; infinity where nothing differs, NaN where both are zero or one is not finite."""
    signal = np.sum(np.square(reference, dtype=np.float64))
    noise = np.sum(np.square(np.subtract(reference, other, dtype=np.float64)))
    return _decibels(float(signal), float(noise))


def psnr(reference: NDArray[Any], other: NDArray[Any], peak: float = 2.0) -> float:
    """Decibels of images; `peak` is the width of their range: 2 for [-1, 1], 1 for [0, 1]."""
    return _decibels(peak**2, float(np.mean(np.square(np.subtract(reference, other, dtype=np.float64)))))


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf if signal > 0 else math.nan
    ratio = signal / noise
    return 10 * math.log10(ratio) if ratio > 0 and math.isfinite(ratio) else math.nan if ratio else -math.inf


# ---------------------------------------------------------------------------------------------------- layers


@dataclass
class LayerError:
    """Sums over all calls of a layer."""

    kind: str
    signal: float = 0.0
    noise: float = 0.0

    @property
    def snr(self) -> float:
        return _decibels(self.signal, self.noise)


class Measuring(Rounded):
    """Computes in float32, and beside it what each quantised layer would make of the same input."""

    name = "measuring"

    def __init__(self, component: str, kind_of: KindOf, errors: dict[str, LayerError]) -> None:
        super().__init__(kind_of)
        self._component, self._errors = component, errors

    def execute(self, operation: op.Operation) -> Rows:
        if isinstance(operation, (op.Linear, op.Geglu, op.Conv)):
            self._measure(operation)
            return Reference.execute(self, operation)
        return super().execute(operation)  # notes the ranges that group norms give

    def _measure(self, operation: op.Operation) -> None:
        bare: Any = {"residual": None, "table": None} if isinstance(operation, (op.Linear, op.Conv)) else {}
        plain: Any = replace(operation, **bare)
        if (rounded := self.rounded(operation)) is None:
            return
        exact = Reference.execute(self, plain).array.astype(np.float64)
        noisy = Reference.execute(self, replace(rounded, **bare)).array
        name = f"{self._component}/{plain.weight.name}"
        error = self._errors.setdefault(name, LayerError(self.kind_of(plain.weight)))
        error.signal += float(np.sum(exact**2))
        error.noise += float(np.sum((exact - noisy) ** 2))


def layer_errors(pipe: Pipeline, kinds: Kinds, prompts: Sequence[str], **settings: Any) -> dict[str, LayerError]:
    """ "component/layer" -> error, summed over one picture of each prompt. `settings`: of the pipeline's call."""
    errors: dict[str, LayerError] = {}
    with backends(pipe, lambda name: Measuring(name, _chooser(pipe, name, kinds), errors)):
        for prompt in prompts:
            pipe(prompt, output_type="np", **settings)
    return errors


# ------------------------------------------------------------------------------------------------ steps, pictures


@dataclass
class PictureError:
    """How one picture of two pipelines differs."""

    prompt: str
    seed: int
    steps: list[float]  # SNR of the latents after each step
    picture: float  # PSNR
    images: tuple[F32, F32] = field(repr=False)  # (H, W, 3) on [0, 1]: reference, other


def step_errors(pipe: Pipeline, other: Pipeline, prompt: str, seed: int, **settings: Any) -> PictureError:
    """The same prompt and seed through both. `settings`: of the calls."""
    ways: list[list[F32]] = []
    images: list[F32] = []
    for each in (pipe, other):
        way: list[F32] = []

        def keep(_: Any, index: int, t: float, now: Mapping[str, Any], way: list[F32] = way) -> None:
            way.append(now["latents"].copy())

        out = each(prompt, seed=seed, output_type="np", callback_on_step_end=keep, **settings)
        ways.append(way)
        images.append(np.asarray(out.images)[0])
    steps = [snr(a, b) for a, b in zip(*ways, strict=True)]
    return PictureError(prompt, seed, steps, psnr(images[0], images[1], peak=1.0), (images[0], images[1]))


# ------------------------------------------------------------------------------------------------ sensitivity


def sensitivities(
    pipe: Pipeline,
    kinds: Sequence[str],
    prompts: Sequence[str],
    at: Sequence[float] = (0.0, 0.5, 0.9),
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> dict[str, dict[str, float]]:
    """ "component/layer" -> kind -> noise over signal of the guided prediction if this layer alone is of that kind.

    For every layer of UNet and text encoders that the recipe would quantise, at the given shares of the steps of the
    float32 pictures; the autoencoder's layers: of the decoded picture. One network pass for each layer, kind, prompt
    and share.
    """
    places = {name: _quantised_layers(pipe, name, settings) for name in _networks(pipe)}
    points = [moment for prompt in prompts for moment in moments(pipe, prompt, at, **settings)]
    found: dict[str, dict[str, float]] = {}
    total, done = sum(map(len, places.values())) * len(kinds), 0
    for component, layers in places.items():
        for layer in layers:
            name = f"{component}/{layer}"
            for kind in kinds:
                alone = _maker(pipe, {name: kind})
                pairs = [moment.again(pipe, alone, component) for moment in points]
                found.setdefault(name, {})[kind] = sum(_loss(exact, other) for exact, other in pairs) / len(pairs)
                done += 1
                if progress is not None:
                    progress(done, total)
    return found


def _maker(pipe: Pipeline, kinds: Kinds) -> Callable[[str], Backend]:
    return lambda component: Rounded(_chooser(pipe, component, kinds))


def _loss(exact: F32, other: F32) -> float:
    """Noise over signal."""
    noise = np.sum(np.square(np.subtract(exact, other, dtype=np.float64)))
    return float(noise / np.sum(np.square(exact, dtype=np.float64)))


def read_sensitivities(path: str | Path) -> dict[str, dict[str, float]]:
    """What `sensitivities` gave, from a JSON file. Raises InvalidArgumentError for any other."""
    table = read_json(Path(path))
    for losses in table.values():
        if not isinstance(losses, dict) or not all(type(v) is float and 0 <= v < math.inf for v in losses.values()):
            raise InvalidArgumentError(f"sensitivities {str(path)!r}: a layer has no table of losses")
    return table


@dataclass
class Moment:
    """A moment of a float32 picture: what the UNet is asked and says, and the picture of the end."""

    start: Callable[[Conditioning], Loop]
    encode: Callable[[], Conditioning]  # by the backends of the moment
    conditioning: Conditioning  # in float32
    x: F32
    t: float
    share: float  # of the steps
    prediction: F32  # guided
    latents: F32  # the last ones, as the decoder takes them
    decoded: F32

    def again(self, pipe: Pipeline, make: Callable[[str], Backend], only: str | None = None) -> tuple[F32, F32]:
        """(exact, other): the prediction when text encoders and UNet run on other backends, all or only one of them;
        the decoded picture where only "vae" does.
        """
        with backends(pipe, make, only):
            if only == "vae":
                return self.decoded, pipe.vae.decode(self.latents)
            conditioning = self.conditioning if only == "unet" else self.encode()
            return self.prediction, self.start(conditioning).model(self.x, self.t, self.share)


def moments(pipe: Pipeline, prompt: str, at: Sequence[float], **settings: Any) -> list[Moment]:
    """Moments of one picture, at these shares of its steps. `settings`: of the pipeline's call."""
    from tinydiff import arguments
    from tinydiff.pipeline import start_loop

    asked: list[tuple[F32, float, float, F32]] = []

    class Listen(Watcher):
        def begin(self, loop: Loop) -> None:
            guided = loop.model

            def told(x: F32, t: float, share: float) -> F32:
                prediction = guided(x, t, share)
                asked.append((x, t, share, prediction))
                return prediction

            loop.model = told  # type: ignore[assignment]

    with backends(pipe, lambda name: Reference()):
        latents = np.asarray(pipe(prompt, output_type="latent", watcher=Listen(), **settings).images)
        vae = pipe.vae
        unscaled = (latents / vae.config.scaling_factor + vae.config.shift_factor).astype(np.float32)
        decoded = vae.decode(unscaled)
        conditioning = pipe.encode_prompt(prompt)

    def encode() -> Conditioning:
        return pipe.encode_prompt(prompt)

    def start(conditioning: Conditioning) -> Loop:
        names = {"num_inference_steps": "steps", "num_images_per_prompt": "images"}
        known = dict.fromkeys(("width", "height", "steps", "guidance_scale", "seed", "latents", "clip_skip"), None) | {
            "guidance_rescale": 0.0,
            "images": 1,
            "output_type": "latent",
        }
        given = {names.get(name, name): value for name, value in settings.items() if name != "scheduler"}
        s = arguments.settle(pipe.model, **(known | given))
        scheduler = arguments.settle_scheduler(pipe.model, settings.get("scheduler"), s.steps, None, None, None)
        return start_loop(pipe.model, conditioning, s, scheduler)

    chosen = {min(int(share * len(asked)), len(asked) - 1) for share in at}
    return [Moment(start, encode, conditioning, *asked[index], unscaled, decoded) for index in sorted(chosen)]


# ------------------------------------------------------------------------------------------------ backends


@contextlib.contextmanager
def backends(pipe: Pipeline, make: Callable[[str], Backend], only: str | None = None) -> Iterator[None]:
    """Within the block the networks ("unet", "vae", "text_encoder" ...) run on other backends; `only`: one of them."""
    networks = {name: network for name, network in _networks(pipe).items() if only in (None, name)}
    before = {name: network.backend for name, network in networks.items()}
    try:
        for name, network in networks.items():
            network.backend = make(name)
        yield
    finally:
        for name, network in networks.items():
            network.backend = before[name]


def _networks(pipe: Pipeline) -> dict[str, Any]:
    encoders = {f"text_encoder{'_2' * i}": encoder for i, (_, encoder) in enumerate(pipe.model.text.pairs)}
    return {**encoders, "unet": pipe.unet, "vae": pipe.vae}


def _chooser(pipe: Pipeline, component: str, kinds: Kinds) -> KindOf:
    if isinstance(kinds, str):
        levels = pipe.model.source.components[component].config.get("block_out_channels") or ()
        return kind_of(component, kinds, len(levels))
    table: Any = kinds

    def choose(weight: MatmulWeight) -> Kind:
        kind: Kind = table.get(f"{component}/{weight.name}", "f32")
        return kind

    return choose


def _quantised_layers(pipe: Pipeline, component: str, settings: Mapping[str, Any]) -> list[str]:
    """Names of the layers that the recipe makes integers of, among those that a picture uses."""
    choose, seen = _chooser(pipe, component, "int8"), dict[str, None]()

    class Note(Reference):
        def execute(self, operation: op.Operation) -> Rows:
            for weight in operation.weights():
                if isinstance(weight, MatmulWeight) and choose(weight) == "i8":
                    seen[weight.name] = None
            return super().execute(operation)

    with backends(pipe, lambda name: Note(), only=component):
        pipe("", output_type="np", **{**settings, "num_inference_steps": 1})
    return list(seen)
