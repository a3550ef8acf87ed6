"""Networks in strips against the same networks on whole images: to the bit where values are kept or recomputed."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from compiled_tools import Floats, compiled, relative, tensors, unet, unet_inputs
from miniatures import UNETS, VAES, network

from tinydiff.errors import Cancelled, NonFiniteError
from tinydiff.observers import CancelToken, Watchdog
from tinydiff.recipe import kind_of
from tinydiff_kernels.backend import Backend
from tinydiff_kernels.compiled.backend import Compiled
from tinydiff_kernels.compiled.strip_plan import ladder, plan_policy, plan_strips
from tinydiff_kernels.compiled.strips import StripPolicy, StripPolicyError
from tinydiff_kernels.compiled.weights import KindOf
from tinydiff_kernels.handles import LowRank
from tinydiff_kernels.rows import Rows, rows_from_nchw

Forward = Callable[[Backend], Rows]
SIXTEEN_BITS = 1e-4  # relative root mean square of what planning chooses; 4e-5 was measured


@dataclass
class Case:
    """A miniature of an autoencoder in one direction."""

    backend: Compiled
    forward: Forward
    kinds: KindOf
    count: int  # operations
    whole: Floats

    def run(self, policy: StripPolicy | None) -> tuple[Floats, tuple[int, int]]:
        """The result; the arena and the launches of its program."""
        self.backend.strips = policy
        result = self.forward(self.backend).array.astype(np.float32)
        *_, program = self.backend.programs.values()
        return result, (program.arena_bytes, len(program.actions))

    def planned(self, policy: StripPolicy | None) -> tuple[int, int]:
        plan = plan_policy(self.forward, self.kinds, policy, threads=2)
        return plan.arena_bytes, plan.launches


@functools.cache
def case(name: str, weights: str, direction: str, size: tuple[int, int, int], border: str = "zero") -> Case:
    config = VAES[name]
    levels = len(config.get("block_out_channels") or config["decoder_block_out_channels"])
    kinds = kind_of("vae", weights, levels)
    backend = Compiled(kinds, threads=2)
    net = network(config, tensors("vae", name), backend, border=border)
    rng, factor = np.random.default_rng(3), net.config.factor
    shape = (size[0], config["latent_channels"], *size[1:])
    if direction == "encode":
        shape = (size[0], 3, factor * size[1], factor * size[2])
    rows = rows_from_nchw(rng.standard_normal(shape, np.float32))
    forward: Any = net.forward_decode if direction == "decode" else net.forward_encode
    whole = forward(backend, rows).array.astype(np.float32)
    ((_, key),) = backend.programs
    return Case(backend, lambda b: forward(b, rows), kinds, len(key) - 2, whole)


def policies(count: int, seed: int) -> list[StripPolicy]:
    """All kept, nothing kept, one strip for all, and three drawn at random."""
    draw = random.Random(seed)
    drawn = [StripPolicy(lines, "".join(draw.choice("k.") for _ in range(count))) for lines in (2, 6, 10)]
    return [
        StripPolicy(4, "k" * count),
        StripPolicy(16, "." * count),
        StripPolicy(4096, ("k." * count)[:count]),
        *drawn,
    ]


@pytest.mark.parametrize("size", [(1, 7, 5), (2, 3, 9)])
@pytest.mark.parametrize("direction", ["decode", "encode"])
@pytest.mark.parametrize(
    ("name", "weights"), [("kl", "float32"), ("kl", "int8"), ("taesd_three", "float32"), ("kl_no_attention", "int4")]
)
def test_every_policy_gives_the_bits_of_the_whole_image_in_the_planned_arena(
    name: str, weights: str, direction: str, size: tuple[int, int, int]
) -> None:
    told = case(name, weights, direction, size)
    for policy in policies(told.count, size[1]):
        result, size = told.run(policy)
        np.testing.assert_array_equal(result, told.whole, err_msg=str(policy))
        assert size == told.planned(policy), str(policy)
    _, size = told.run(None)
    assert size == told.planned(None)


@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_sixteen_bits_cost_little(direction: str) -> None:
    """What planning chooses at a third of the whole image's arena, and the arena that it said."""
    told = case("kl", "float32", direction, (1, 7, 5))
    plans = ladder(told.forward, told.kinds, threads=2)
    inexact = [plan for plan in plans if plan.policy is not None and not plan.policy.exact]
    assert inexact
    for plan in inexact[:: max(1, len(inexact) // 3)]:
        result, size = told.run(plan.policy)
        assert 0 < relative(result, told.whole) < SIXTEEN_BITS
        assert size == (plan.arena_bytes, plan.launches)


@pytest.mark.parametrize("direction", ["decode", "encode"])
@pytest.mark.parametrize("name", ["kl", "taesd"])
def test_plans_trade_work_for_memory(name: str, direction: str) -> None:
    told = case(name, "float32", direction, (1, 7, 5))
    plans = ladder(told.forward, told.kinds, threads=2)
    assert plans[0].policy is None
    assert plans[0].extra_work == 0
    arenas = [plan.arena_bytes for plan in plans]
    assert arenas == sorted(set(arenas), reverse=True)
    assert arenas[-1] < 0.6 * arenas[0]
    assert all(plan.extra_work > 0 for plan in plans[1:])
    for budget in (arenas[0], arenas[0] - 1, arenas[len(arenas) // 2]):
        plan = plan_strips(told.forward, told.kinds, budget=budget, threads=2)
        assert plan.arena_bytes <= budget
        assert plan.extra_work <= min(p.extra_work for p in plans if p.arena_bytes <= budget) + 0.3
    assert plan_strips(told.forward, told.kinds, budget=0, threads=2).arena_bytes <= arenas[-1]


def test_a_circular_border_is_computed_whole() -> None:
    told = case("kl", "float32", "decode", (1, 5, 3), "circular")
    policy = StripPolicy(4, "." * told.count)
    np.testing.assert_array_equal(told.run(policy)[0], told.whole)


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("name", ["sd1", "sdxl", "scale_shift"])
def test_unets_in_strips(name: str, weights: str) -> None:
    """Attention whole, concatenations, time embeddings, odd sizes, adapters on a convolution and a linear layer."""
    inputs = unet_inputs(name)
    backend = compiled(weights, resolutions=len(UNETS[name]["block_out_channels"]))
    net, rng = unet(name, backend), np.random.default_rng(4)
    for layer in ("down_blocks.0.resnets.0.conv1", "mid_block.attentions.0.proj_in"):
        weight = net.weights[layer]
        up, down = (rng.standard_normal(shape, np.float32) for shape in ((weight.outputs, 2), weight.weight.shape[1:]))
        weight.adapters.append(LowRank(np.stack([down, -down]) * 0.1, up * 0.1))
    whole = net(**inputs)
    ((_, key),) = backend.programs
    draw = random.Random(5)
    for lines, letters in ((4, "k."), (2, "k")):
        backend.strips = StripPolicy(lines, "".join(draw.choice(letters) for _ in range(len(key) - 2)))
        np.testing.assert_array_equal(net(**inputs), whole)


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize(
    "layer", ["conv_in", "up_blocks.1.upsamplers.0.conv", "up_blocks.3.resnets.1.norm2", "conv_out"]
)
def test_the_first_bad_layer_is_named(layer: str, weights: str) -> None:
    arrays, layer = dict(tensors("vae", "kl")), f"decoder.{layer}"
    arrays[f"{layer}.weight"] = arrays[f"{layer}.weight"].copy()
    arrays[f"{layer}.weight"].flat[-1] = np.nan
    backend = compiled(weights, "vae", observers=[Watchdog("vae")])
    backend.strips = StripPolicy(6, ("k..k" * 20)[: case("kl", weights, "decode", (1, 7, 5)).count])
    with pytest.raises(NonFiniteError, match=f"vae: layer '{layer}' produced"):
        network(VAES["kl"], arrays, backend).decode(np.ones((1, 4, 3, 5), np.float32))


def test_a_stop_is_heeded_between_strips() -> None:
    token = CancelToken()
    backend = compiled(component="vae", observers=[token])
    backend.cancel = token.word
    net = network(VAES["kl"], tensors("vae", "kl"), backend)
    latents = np.ones((1, 4, 3, 5), np.float32)
    backend.strips = StripPolicy(4, "k" * case("kl", "float32", "decode", (1, 7, 5)).count)
    net.decode(latents)
    (program,) = backend.programs.values()
    seen = []

    def stop_later(step: Any) -> None:
        seen.append(step)
        if len(seen) == len(program.actions) // 2:
            token.cancel()
        Compiled._check(backend, step)

    backend._check = stop_later  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        net.decode(latents)
    assert len(seen) == len(program.actions) // 2


def test_policies_are_text() -> None:
    policy = StripPolicy(32, "kh.k")
    assert str(policy) == "32:kh.k"
    assert StripPolicy.parse(str(policy)) == policy
    for text in ("", "32", "31:k", "0:k", "-2:k", "32:kx", "9999999999:k", "a:k", "3\u00b2:k"):
        with pytest.raises(StripPolicyError, match="not a strip policy"):
            StripPolicy.parse(text)


def test_a_policy_of_another_network_is_refused() -> None:
    told = case("kl", "float32", "decode", (1, 7, 5))
    with pytest.raises(StripPolicyError, match=f"of 3 operations was given to a network of {told.count}"):
        told.run(StripPolicy(4, "kkk"))
    told.backend.strips = StripPolicy(4, "kkk"), StripPolicy(4, "." * told.count)
    result = told.forward(told.backend).array
    np.testing.assert_array_equal(result, told.whole)
    *_, program = told.backend.programs.values()
    assert (program.arena_bytes, len(program.actions)) == told.planned(told.backend.strips[1])
