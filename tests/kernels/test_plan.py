"""The plan of a network is what a real run does: the same operations, shapes, weights and costs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from miniatures import TEXT_ENCODERS, UNETS, VAES, class_name, declared_shapes, network, random_tensors

from tinydiff.config import UNetConfig
from tinydiff.layers import Context
from tinydiff.parameters import Parameters
from tinydiff.unet import Added, UNet
from tinydiff_kernels import operations as op
from tinydiff_kernels.plan import Plan
from tinydiff_kernels.reference import Reference
from tinydiff_kernels.rows import Grid, Rows

SD15: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}


class Recorder:
    """What a real run did, operation by operation."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, ...]] = []

    def before(self, operation: op.Operation) -> None: ...

    def after(self, operation: op.Operation, result: Rows) -> None:
        weights = tuple(w.name for w in operation.weights())
        self.steps.append((operation.kind, result.array.shape, weights, counted(operation)))


def counted(operation: op.Operation) -> int:
    """Multiplications of matmul kind, from the sizes of the real operands."""
    inputs = list(operation.inputs())
    match operation:
        case op.Conv():
            weight = operation.weight.weight.shape
            rows = operation.grid.batch * operation.grid.height * operation.grid.width
            return rows * math.prod(weight)
        case op.Linear() | op.Geglu():
            return len(inputs[0].array) * math.prod(operation.weight.weight.shape)
        case op.Attention():
            q, k, v = (x.array for x in inputs)
            return (q.size * k.shape[0] + q.shape[0] * v.size) // operation.grid.batch
    return 0


def planned(plan: Plan) -> list[tuple[Any, ...]]:
    return [(s.kind, s.shape, tuple(w.name for w in s.weights), s.macs) for s in plan.steps]


def run_unet(model: UNet, backend: Any, values: bool, batch: int = 2, size: tuple[int, int] = (9, 7)) -> Rows:
    """One forward on zeros, or on shapes alone."""
    c = model.config

    def rows(height: int, width: int, channels: int) -> Rows:
        grid = Grid(batch, height, width)
        return Rows(grid, channels, np.zeros((grid.rows, channels), np.float32) if values else None)

    added = Added(np.zeros((batch, 20)), np.zeros((batch, 6))) if c.text_time else None
    condition = np.zeros((batch, c.time_cond_proj_dim)) if c.time_cond_proj_dim else None
    context = Context(rows(1, 77, c.cross_attention_dim[0]))
    sample, steps = rows(*size, c.in_channels), np.zeros(batch)
    return model.forward(backend, sample, steps, context, added=added, timestep_cond=condition)


@pytest.mark.parametrize("name", UNETS)
def test_plan_of_a_unet_equals_its_run(name: str) -> None:
    """The plan needs no weights at all: it is made on declared shapes."""
    recorder, plan = Recorder(), Plan()
    tensors = random_tensors(class_name(UNETS[name]), UNETS[name], 1)
    real = run_unet(network(UNETS[name], tensors, Reference()), Reference(observers=[recorder]), True)
    shapes = run_unet(network(UNETS[name], None, plan), plan, False)
    assert planned(plan) == recorder.steps
    assert (shapes.grid, shapes.channels) == (real.grid, real.channels)


@pytest.mark.parametrize("name", VAES)
@pytest.mark.parametrize("way", ["forward_decode", "forward_encode"])
def test_plan_of_a_vae_equals_its_run(name: str, way: str) -> None:
    config = VAES[name]
    channels = config["latent_channels"] if way == "forward_decode" else 3
    recorder, plan = Recorder(), Plan()
    x = Rows(Grid(1, 16, 8), channels, np.zeros((128, channels), np.float32))
    getattr(network(config, random_tensors(class_name(config), config, 1), Reference()), way)(
        Reference(observers=[recorder]), x
    )
    getattr(network(config, None, plan), way)(plan, Rows(x.grid, channels))
    assert planned(plan) == recorder.steps


@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_plan_of_a_text_encoder_equals_its_run(name: str) -> None:
    config, ids = TEXT_ENCODERS[name], np.zeros((2, 77), np.int64)
    recorder, plan = Recorder(), Plan()
    tensors = random_tensors(class_name(config), config, 1)
    network(config, tensors, Reference()).forward(Reference(observers=[recorder]), ids, 1)
    network(config, None, plan).forward(plan, ids, 1)
    assert planned(plan) == recorder.steps


@pytest.mark.parametrize(("table", "name"), [("unet", n) for n in UNETS] + [("vae", n) for n in ("kl", "taesd")])
def test_every_declared_tensor_is_used(table: str, name: str) -> None:
    """The weights of the plan's steps are the network's weights: none is forgotten in the forward."""
    plan = Plan()
    model = network({"unet": UNETS, "vae": VAES}[table][name], None, plan)
    if table == "unet":
        run_unet(model, plan, False)
    else:
        model.forward_decode(plan, Rows(Grid(1, 8, 8), 4))
        model.forward_encode(plan, Rows(Grid(1, 32, 32), 3))
    assert {id(w) for s in plan.steps for w in s.weights} == {id(w) for w in model.weights.values()}


def test_sd15_at_full_size_without_weights() -> None:
    """For one 512x512 image and 77 tokens; torch's FlopCounterMode on diffusers' UNet counts the same to the unit.

    Counted are matrix products, convolutions and both products of attention; nothing elementwise.
    """
    declared = declared_shapes("UNet2DConditionModel", SD15)
    assert sum(math.prod(shape) for shape in declared.values()) == 859_520_964
    plan = Plan()
    model = UNet(UNetConfig.from_json(SD15, "sd15"), Parameters.declare(), plan)
    out = run_unet(model, plan, False, batch=1, size=(64, 64))
    assert (out.grid, out.channels) == (Grid(1, 64, 64), 4)
    assert sum(s.macs for s in plan.steps) == 401_636_720_640
    assert sum(s.macs for s in plan.steps if s.kind == "Attention") == 63_026_135_040
    assert {s.kind for s in plan.steps if s.macs} == {"Linear", "Geglu", "Conv", "Attention"}


# ------------------------------------------------------------------------------------------------- lifetimes


def test_numbers_last_uses_and_peak_of_a_chain() -> None:
    """
        x (24 numbers) -> a = affine(x) -> b = affine(a) -> c = add(b, a) -> d = concat(c, c)

    a lives until c is made. Numbers alive: x a | a b | b a c | c d, which is 48, 48, 72, 72.
    """
    plan = Plan()
    x = Rows(Grid(1, 2, 3), 4)
    a = plan.affine(x, 1, 0)
    b = plan.affine(a, 1, 0)
    c = plan.add(b, a)
    plan.concat(c, c)
    assert [(s.inputs, s.output) for s in plan.steps] == [((0,), 1), ((1,), 2), ((2, 1), 3), ((3, 3), 4)]
    assert plan.last_uses() == {0: 0, 1: 2, 2: 2, 3: 3, 4: 3}
    assert plan.peak_bytes() == 72 * 4
    assert plan.peak_bytes(itemsize=2) == 72 * 2


def test_an_input_counts_from_its_first_use_to_its_last() -> None:
    """a skip that is read at the very end keeps its 6 numbers alive through the wide middle."""
    plan = Plan()
    skip = Rows(Grid(1, 1, 6), 1)
    wide = plan.concat(plan.concat(skip, skip), skip)  # 6 + 12, then 6 + 12 + 18
    narrow = plan.add(wide, wide)  # 6 + 18 + 18
    plan.concat(narrow, skip)  # 6 + 18 + 24
    assert plan.last_uses() == {0: 3, 1: 1, 2: 2, 3: 3, 4: 3}
    assert plan.peak_bytes() == 4 * (6 + 18 + 24)


def test_a_result_that_nobody_reads_dies_at_once() -> None:
    plan = Plan()
    x = Rows(Grid(1, 1, 5), 2)
    for _ in range(4):
        plan.affine(x, 1, 0)
    assert plan.peak_bytes() == 4 * (10 + 10)


def test_peak_of_a_unet_is_below_the_sum_of_all() -> None:
    plan = Plan()
    run_unet(network(UNETS["sd1"], None, plan), plan, False)
    sizes = [s.shape[0] * s.shape[1] * 4 for s in plan.steps]
    assert max(sizes) < plan.peak_bytes() < sum(sizes) / 10
