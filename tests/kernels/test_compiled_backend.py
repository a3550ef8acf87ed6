"""Whole miniature networks on compiled kernels: against the reference, and against themselves to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from compiled_tools import TOKENS, Floats, compiled, reference_unet, relative, tensors, unet, unet_inputs
from miniatures import TEXT_ENCODERS, UNETS, VAES, class_name, network, random_tensors

from tinydiff.layers import Context
from tinydiff.recipe import kind_of
from tinydiff_kernels.compiled import program
from tinydiff_kernels.reference import Reference
from tinydiff_kernels.rounded import Rounded
from tinydiff_kernels.rows import rows_from_tokens

FLOAT_LIMIT = 1e-5  # relative root mean square; at most 1e-6 was measured
# Of quantised miniatures, whose narrow random layers suffer more than trained ones: measured, and a third on top.
LIMITS = {"int8": 0.07, "int4": 0.65}


@pytest.mark.parametrize("name", UNETS)
def test_unets_equal_the_reference(name: str) -> None:
    ours = unet(name, compiled())(**unet_inputs(name))
    assert relative(ours, reference_unet(name)) < FLOAT_LIMIT


@pytest.mark.parametrize("name", VAES)
def test_autoencoders_equal_the_reference(name: str) -> None:
    config = VAES[name]
    ours, wanted = (network(config, tensors("vae", name), b) for b in (compiled(component="vae"), Reference()))
    latents = np.random.default_rng(1).standard_normal((2, config["latent_channels"], 5, 3), np.float32)
    picture = wanted.decode(latents)
    assert relative(ours.decode(latents), picture) < FLOAT_LIMIT
    assert relative(ours.encode(picture), wanted.encode(picture)) < FLOAT_LIMIT


@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_all_results_of_a_text_encoder_equal_the_reference(name: str) -> None:
    """Several results of one forward, each looked at on its own."""
    config = TEXT_ENCODERS[name]
    weights = random_tensors(class_name(config), config, 4)
    ids = np.random.default_rng(2).integers(0, 500, (2, 9))
    found = []
    for backend in (compiled(component="text_encoder"), Reference()):
        encoder = network(config, weights, backend)
        out = encoder.forward(backend, ids, 1)
        found.append([rows.array for rows in (out.pooled, out.hidden, out.normed)])
    for ours, wanted in zip(*found, strict=True):
        assert relative(ours, wanted) < FLOAT_LIMIT


@pytest.mark.parametrize("name", ["sd1", "sdxl", "scale_shift", "no_attention_above"])
def test_half_precision_weights_equal_rounded_ones(name: str) -> None:
    rounded = {
        n: t.astype(np.float16).astype(np.float32) if t.ndim > 1 else t for n, t in tensors("unet", name).items()
    }
    wanted = network(UNETS[name], rounded, Reference())(**unet_inputs(name))
    assert relative(unet(name, compiled("float16"))(**unet_inputs(name)), wanted) < FLOAT_LIMIT


@pytest.mark.parametrize("weights", LIMITS)
@pytest.mark.parametrize("name", ["sd1", "sdxl", "bk_tiny", "scale_shift", "one_level"])
def test_quantised_unets_come_close(name: str, weights: str) -> None:
    error = relative(unet(name, compiled(weights))(**unet_inputs(name)), reference_unet(name))
    assert 1e-3 < error < LIMITS[weights]


def agree_but_for_ties(ours: Floats, wanted: Floats) -> None:
    """Most images agree as floats do. Where the two sides' last bits put one activation on different sides of a
    half, all later roundings of that image go other ways."""
    errors = sorted(relative(a, b) for a, b in zip(ours, wanted, strict=True))
    assert errors[len(errors) // 2] < FLOAT_LIMIT


@pytest.mark.parametrize("size", [(9, 3, 2), (9, 1, 1)])
@pytest.mark.parametrize("weights", LIMITS)
@pytest.mark.parametrize("name", ["sd1", "sdxl", "scale_shift", "no_attention_above", "one_level"])
def test_quantised_unets_compute_what_rounded_inputs_and_weights_mean(
    name: str, weights: str, size: tuple[int, int, int]
) -> None:
    wanted = unet(name, Rounded(kind_of("unet", weights, small="i4")))(**unet_inputs(name, size))
    agree_but_for_ties(unet(name, compiled(weights))(**unet_inputs(name, size)), wanted)


@pytest.mark.parametrize("weights", LIMITS)
def test_quantised_encoders_compute_what_rounded_inputs_and_weights_mean(weights: str) -> None:
    picture = np.random.default_rng(3).uniform(-1, 1, (7, 3, 16, 8)).astype(np.float32)
    backends = compiled(weights, "vae"), Rounded(kind_of("vae", weights, 4, small="i4"))
    ours, wanted = (network(VAES["kl"], tensors("vae", "kl"), b).encode(picture) for b in backends)
    agree_but_for_ties(ours, wanted)


@pytest.mark.parametrize("weights", LIMITS)
def test_a_quantised_autoencoder_comes_close(weights: str) -> None:
    latents = np.random.default_rng(1).standard_normal((1, 4, 5, 3), np.float32)
    ours = network(VAES["kl"], tensors("vae", "kl"), compiled(weights, "vae"))
    wanted = network(VAES["kl"], tensors("vae", "kl"), Reference())
    assert 1e-3 < relative(ours.decode(latents), wanted.decode(latents)) < LIMITS[weights]


@pytest.mark.parametrize("weights", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("long", [False, True], ids=["joining", "waiting"])
def test_the_number_of_threads_does_not_change_bits(
    name: str, weights: str, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All threads work on every kernel, however little there is to do; the main thread too, or not."""
    monkeypatch.setattr(program, "LITTLE_WORK", 0)
    monkeypatch.setattr(program, "LONG_WORK", -1 if long else program.LONG_WORK)
    given = unet_inputs(name, (2, 17, 16))
    one, *others = (unet(name, compiled(weights, threads=n))(**given) for n in (1, 2, 3, 5))
    assert all(np.array_equal(other, one) for other in others)


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("name", ["sdxl", "lcm"])
def test_a_program_is_used_again_for_other_inputs(name: str, weights: str) -> None:
    backend = compiled(weights)
    model = unet(name, backend)
    results = [model(**unet_inputs(name, seed=seed)) for seed in (0, 1, 2)]
    assert len(backend.programs) == 1
    for seed, result in enumerate(results):
        assert np.array_equal(unet(name, compiled(weights))(**unet_inputs(name, seed=seed)), result)


def test_shapes_have_programs_of_their_own_and_the_oldest_go() -> None:
    backend = compiled()
    model = unet("one_level", backend)
    first = model(**unet_inputs("one_level", (1, 2, 3)))
    for width in range(4, 14):
        model(**unet_inputs("one_level", (1, 2, width)))
    assert len(backend.programs) == 8
    assert np.array_equal(model(**unet_inputs("one_level", (1, 2, 3))), first)


def test_one_pixel() -> None:
    """The smallest latents: on the way up their size is that of the skips, and layers have a row or two."""
    size = (1, 1, 1)
    ours = unet("sd1", compiled())(**unet_inputs("sd1", size))
    assert relative(ours, reference_unet("sd1", size)) < FLOAT_LIMIT


def test_images_of_a_batch_do_not_meet() -> None:
    """int8 has ranges for each image: a picture is the same beside any other."""
    given = unet_inputs("sd1")
    both = unet("sd1", compiled("int8"))(**given)
    for i in range(2):
        alone = {name: value[i : i + 1] for name, value in given.items()}
        assert np.array_equal(unet("sd1", compiled("int8"))(**alone), both[i : i + 1])


def test_lengths_of_contexts_are_those_of_each_run() -> None:
    """Two runs of one program with other lengths."""
    given, backend = unet_inputs("sd1"), compiled()
    model, wanted = unet("sd1", backend), unet("sd1", Reference())
    text = given.pop("context")
    for lengths in ([TOKENS, 4], [1, TOKENS]):
        contexts = [Context(rows_from_tokens(text), np.array(lengths)) for _ in range(2)]
        assert relative(model(**given, context=contexts[0]), wanted(**given, context=contexts[1])) < FLOAT_LIMIT
    assert len(backend.programs) == 1
