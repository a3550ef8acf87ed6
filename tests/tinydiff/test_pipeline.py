"""The pipeline on a miniature: what a call returns, seeds and batches, callbacks, cancelling, resuming, guidance."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import write_folder

import tinydiff
from tinydiff.arguments import settle, settle_scheduler
from tinydiff.conditioning import Conditioning, Prompt, combine
from tinydiff.errors import Cancelled, InvalidArgumentError, ModelFileError, NonFiniteError
from tinydiff.loading import trial_prediction
from tinydiff.pipeline import start_loop
from tinydiff.rng import Generator
from tinydiff.text import PromptWarning
from tinydiff_kernels.reference import Reference

STEPS = 4
CALL: dict[str, Any] = {"seed": 11, "num_inference_steps": STEPS, "width": 64, "height": 64, "output_type": "latent"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "sd1", "sd1", seed=2)


@pytest.fixture(scope="module")
def pipe(folder: Path) -> tinydiff.Pipeline:
    return tinydiff.Pipeline.from_pretrained(folder)


def latents(pipe: tinydiff.Pipeline, prompt: Any = "a cat", **changes: Any) -> np.ndarray:
    out = pipe(prompt, **{**CALL, **changes}).images
    assert isinstance(out, np.ndarray)
    return out


# ------------------------------------------------------------------------------------------------- what comes out


def test_output_types_agree(pipe: tinydiff.Pipeline) -> None:
    pixels = pipe("a cat", **{**CALL, "output_type": "np"})
    pictures = pipe("a cat", **{**CALL, "output_type": "pil"})
    assert pixels.images.shape == (1, 64, 64, 3)
    assert pixels.images.min() >= 0
    assert pixels.images.max() <= 1
    assert np.array_equal(np.asarray(pictures.images[0]), np.round(pixels.images[0] * 255).astype(np.uint8))
    assert pixels.seed == pictures.seed == 11
    assert set(pixels.timings) == {"text", "steps", "decode", "total"}
    assert len(pixels.timings["steps"]) == STEPS + 1  # PNDM evaluates its second timestep twice


def test_sizes_and_steps_come_from_the_model(pipe: tinydiff.Pipeline) -> None:
    assert pipe("", seed=1, num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)
    assert pipe.model.defaults.steps == 50
    assert pipe.model.defaults.guidance_scale == 7.5


def test_seed_is_drawn_and_reported_when_none_is_given(pipe: tinydiff.Pipeline) -> None:
    out = pipe("a cat", **{**CALL, "seed": None})
    assert np.array_equal(latents(pipe, seed=out.seed), out.images)


def test_a_call_can_be_repeated_bit_for_bit_whatever_came_between(pipe: tinydiff.Pipeline) -> None:
    first = latents(pipe)
    latents(pipe, "a dog", seed=3, num_inference_steps=2, scheduler="Euler a")
    assert np.array_equal(latents(pipe), first)


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ SDE"])
def test_image_i_of_a_batch_is_the_image_of_seed_plus_i(pipe: tinydiff.Pipeline, sampler: str) -> None:
    batch = latents(pipe, num_images_per_prompt=3, scheduler=sampler)
    for i in range(3):
        alone = latents(pipe, seed=11 + i, scheduler=sampler)
        assert np.allclose(batch[i], alone[0], rtol=0, atol=2e-5 * np.abs(alone).max())


def test_latents_are_unit_noise(pipe: tinydiff.Pipeline) -> None:
    noise = Generator(11).normal((1, 4, 8, 8))
    assert np.array_equal(latents(pipe, seed=99, latents=noise, scheduler="Euler"), latents(pipe, scheduler="Euler"))


def test_weights_backend_and_vae_options(folder: Path, tmp_path: Path) -> None:
    small = write_folder(tmp_path / "small", "sd1", seed=2, taesd=True)
    with_tiny = tinydiff.Pipeline.from_pretrained(folder, vae=small / "vae", backend="reference", weights="float32")
    assert type(with_tiny.vae).__name__ == "TinyVAE"
    assert with_tiny("a cat", **{**CALL, "output_type": "np"}).images.shape == (1, 64, 64, 3)
    with pytest.raises(InvalidArgumentError, match="memory must be a size"):
        tinydiff.Pipeline.from_pretrained(folder, memory="a lot")
    for weights in ("int8", "int4"):
        with pytest.raises(InvalidArgumentError, match=f"weights='{weights}' needs the backend 'numba'"):
            tinydiff.Pipeline.from_pretrained(folder, weights=weights, backend="reference")
    for option, like in (({"weights": "flot16"}, "float16"), ({"backend": "refrence"}, "reference")):
        with pytest.raises(InvalidArgumentError, match=f"did you mean '{like}'"):
            tinydiff.Pipeline.from_pretrained(folder, **option)
    for option in ({"weights": None}, {"backend": 3}):
        with pytest.raises(InvalidArgumentError, match=r"unknown (weights|backend)"):
            tinydiff.Pipeline.from_pretrained(folder, **option)
    for path in (3, b"x", ""):
        with pytest.raises(ModelFileError, match="is no path of a model"):
            tinydiff.Pipeline.from_pretrained(path)  # type: ignore[arg-type]
        with pytest.raises(ModelFileError, match="is no path of a model"):
            tinydiff.Pipeline.from_pretrained(folder, vae=path)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- the loop


def test_callback_sees_every_step_and_may_replace_the_latents(pipe: tinydiff.Pipeline) -> None:
    seen: list[tuple[int, float]] = []

    def watch(p: tinydiff.Pipeline, step: int, t: float, values: dict[str, Any]) -> None:
        assert p is pipe
        assert values["latents"].shape == values["denoised"].shape == (1, 4, 8, 8)
        seen.append((step, t))

    plain = latents(pipe, scheduler="Euler")
    assert np.array_equal(latents(pipe, scheduler="Euler", callback_on_step_end=watch), plain)
    assert [step for step, _ in seen] == list(range(STEPS))
    assert [t for _, t in seen] == sorted((t for _, t in seen), reverse=True)
    zeros = latents(pipe, callback_on_step_end=lambda p, i, t, v: {"latents": np.zeros_like(v["latents"])})
    assert not zeros.any()


def test_cancel_stops_after_the_current_operation_and_the_next_call_runs(pipe: tinydiff.Pipeline) -> None:
    def stop(p: tinydiff.Pipeline, step: int, t: float, values: dict[str, Any]) -> None:
        if step == 1:
            p.cancel()

    with pytest.raises(Cancelled):
        latents(pipe, callback_on_step_end=stop)
    assert np.isfinite(latents(pipe)).all()


def test_cancel_from_another_thread(pipe: tinydiff.Pipeline) -> None:
    timer = threading.Timer(0.05, pipe.cancel)
    timer.start()
    with pytest.raises(Cancelled):
        latents(pipe, num_inference_steps=1000, scheduler="Euler")
    timer.join()


@pytest.mark.parametrize("sampler", ["PNDM", "Euler a", "DPM++ 2M Karras", "Heun", "UniPC", "DPM++ SDE"])
def test_a_loop_goes_on_from_its_saved_state_bit_for_bit(folder: Path, sampler: str) -> None:
    def loop_of(pipe: tinydiff.Pipeline) -> Any:
        s = settle(
            pipe.model, width=64, height=64, steps=7, guidance_scale=4.0, guidance_rescale=0.0, seed=5, images=2,
            output_type="latent", latents=None, clip_skip=None,
        )  # fmt: skip
        scheduler = settle_scheduler(pipe.model, sampler, 7, None, None, None)
        return start_loop(pipe.model, pipe.encode_prompt("a cat"), s, scheduler)

    whole = loop_of(tinydiff.Pipeline.from_pretrained(folder))
    for _ in range(5):
        whole.step()
    state = whole.state_dict()
    final = whole.run()
    resumed = loop_of(tinydiff.Pipeline.from_pretrained(folder))
    resumed.load_state_dict(state)
    assert resumed.index == 5
    assert np.array_equal(resumed.run(), final)


def test_a_loop_can_start_in_the_middle_with_ready_latents(pipe: tinydiff.Pipeline) -> None:
    s = settle(
        pipe.model, width=64, height=64, steps=6, guidance_scale=4.0, guidance_rescale=0.0, seed=5, images=1,
        output_type="latent", latents=None, clip_skip=None,
    )  # fmt: skip
    scheduler = settle_scheduler(pipe.model, "Euler", 6, None, None, None)
    loop = start_loop(pipe.model, pipe.encode_prompt("a cat"), s, scheduler)
    steps: list[int] = []
    loop.before_step = lambda part: steps.append(part.index)
    noise = loop.generators[0].normal((1, 4, 8, 8))
    loop.latents = scheduler.add_noise(np.zeros((1, 4, 8, 8), np.float32), noise, scheduler.timesteps[3])
    loop.begin_at(3)
    assert np.isfinite(loop.run()).all()
    assert steps == [3, 4, 5]


# ------------------------------------------------------------------------------------------------- conditioning


def test_a_conditioning_stands_for_its_prompt(pipe: tinydiff.Pipeline) -> None:
    conditioning = pipe.encode_prompt("a cat", "dog")
    assert np.array_equal(latents(pipe, conditioning), latents(pipe, negative_prompt="dog"))
    with pytest.raises(InvalidArgumentError, match="belong to encode_prompt"):
        latents(pipe, conditioning, negative_prompt="dog")


def test_a_prompt_twice_as_long_runs_and_padding_is_not_seen(pipe: tinydiff.Pipeline) -> None:
    one = pipe.encode_prompt("a cat")
    cat = one.positive[0]
    long = dataclasses.replace(cat, hidden=np.concatenate([cat.hidden, cat.hidden + 5]))
    padded = dataclasses.replace(long, length=77)
    plain = latents(pipe, one)
    assert not np.allclose(latents(pipe, Conditioning((long,), one.negative)), plain, atol=1e-3)
    assert np.allclose(latents(pipe, Conditioning((padded,), one.negative)), plain, atol=1e-4)


def test_prompts_with_weights_times_and_guidance(pipe: tinydiff.Pipeline) -> None:
    cat, dog = (pipe.encode_prompt(text).positive[0] for text in ("a cat", "a dog"))
    nothing = pipe.encode_prompt("").positive[0]
    both = Conditioning((cat, dataclasses.replace(dog, weight=0.0)), nothing)
    assert np.allclose(latents(pipe, both), latents(pipe, Conditioning((cat,), nothing)), atol=1e-4)
    late = Conditioning((cat, dataclasses.replace(dog, start=1.0)), nothing)
    assert np.array_equal(latents(pipe, late), latents(pipe, Conditioning((cat,), nothing)))
    first = Conditioning((cat, dataclasses.replace(dog, end=0.5)), nothing)
    assert not np.allclose(latents(pipe, first), latents(pipe, late), atol=1e-2)


def test_combine_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    negative, a, b = (rng.standard_normal((2, 4, 3, 3)).astype(np.float32) for _ in range(3))
    wanted = negative + 3.0 * (0.5 * (a - negative) + 2.0 * (b - negative))
    assert np.allclose(combine(negative, [a, b], [0.5, 2.0], 3.0, 0.0), wanted, atol=1e-5)
    assert np.allclose(combine(None, [a, b], [1.0, 3.0], 1.0, 0.0), (a + 3 * b) / 4, atol=1e-6)
    rescaled = combine(negative, [a], [1.0], 3.0, 1.0)
    assert np.allclose(rescaled.std((1, 2, 3), ddof=1), a.std((1, 2, 3), ddof=1), rtol=1e-5)


def test_tokens_that_do_not_fit_are_named(pipe: tinydiff.Pipeline) -> None:
    with pytest.warns(PromptWarning, match=r"longer than 75 tokens; 4 were dropped: dog"):
        pipe.encode_prompt("cat " * 75 + "dog red app le")
    with pytest.warns(PromptWarning, match="negative prompt"):
        pipe.encode_prompt("cat", "cat " * 76)


def test_prompt_holds_what_the_unet_gets(pipe: tinydiff.Pipeline) -> None:
    prompt = pipe.encode_prompt("a cat").positive[0]
    assert isinstance(prompt, Prompt)
    assert np.array_equal(prompt.hidden[None], pipe.text_encoder(pipe.tokenizer("a cat")))


# ------------------------------------------------------------------------------------------------- numbers


def test_watchdog_names_the_first_layer_that_is_not_finite(folder: Path, tmp_path: Path) -> None:
    from miniatures import UNETS, random_tensors, stored, write_component

    tensors = random_tensors("UNet2DConditionModel", UNETS["sd1"], 2000)
    name = "down_blocks.1.resnets.0.conv1"
    tensors[f"{name}.weight"][0, 0, 0, 0] = np.nan
    bad = write_folder(tmp_path / "bad", "sd1", seed=2)
    write_component(bad / "unet", UNETS["sd1"], stored(tensors, "F32"))
    with pytest.raises(NonFiniteError, match=rf"unet: layer '{name}' produced NaN; its weights are not finite"):
        latents(tinydiff.Pipeline.from_pretrained(bad))


def test_precision_is_set_per_component(folder: Path) -> None:
    pipe = tinydiff.Pipeline.from_pretrained(folder)
    plain = latents(pipe)
    pipe.unet.backend = Reference("float64")
    exact = latents(pipe)
    assert 0 < np.linalg.norm(exact - plain) / np.linalg.norm(exact) < 1e-4
    pipe.unet.backend = Reference("float16")
    assert 1e-5 < np.linalg.norm(latents(pipe) - exact) / np.linalg.norm(exact) < 0.2


@pytest.mark.parametrize(("mean", "found"), [(0.0, "epsilon"), (-2.0, "v_prediction")])
def test_trial_forward_tells_v_from_epsilon(pipe: tinydiff.Pipeline, mean: float, found: str) -> None:
    class Fake:
        config = pipe.unet.config

        def __call__(self, sample: np.ndarray, t: float, context: np.ndarray) -> np.ndarray:
            assert sample.shape == (1, 4, 8, 8)
            assert t == 999
            return sample + np.float32(mean)

    assert trial_prediction(pipe.model.text, Fake()) == found  # type: ignore[arg-type]


def test_parts_of_different_models_are_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    other = write_folder(tmp_path / "other", "sdxl")
    shutil.rmtree(mixed / "text_encoder")
    shutil.copytree(other / "text_encoder_2", mixed / "text_encoder")
    index = (mixed / "model_index.json").read_text().replace('"CLIPTextModel"', '"CLIPTextModelWithProjection"')
    (mixed / "model_index.json").write_text(index)
    with pytest.raises(ModelFileError, match="attends to text of 24 channels, the text encoders give 32"):
        tinydiff.Pipeline.from_pretrained(mixed)


@pytest.mark.parametrize(
    ("length", "said"), [(60, "two tokenizers make texts of different lengths"), (78, "takes 77 at most")]
)
def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path, length: int, said: str) -> None:
    folder = write_folder(tmp_path / "model", "sdxl")
    file = folder / "tokenizer_2" / "tokenizer_config.json"
    config = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(config | {"model_max_length": length}))
    with pytest.raises(ModelFileError, match=said):
        tinydiff.Pipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_an_id_beyond_the_embedding_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "model", "sdxl")
    file = folder / name / "vocab.json"
    ids = json.loads(file.read_text())
    last = max(ids.values())
    ids[next(iter(ids))] = last + 1  # as many tokens as before, with a gap
    file.write_text(json.dumps(ids))
    said = f"token_embedding.weight': the tokenizer's ids go to {last + 1}, .* for 0 to {last}\\."
    with pytest.raises(ModelFileError, match=said):
        tinydiff.Pipeline.from_pretrained(folder)
