"""One test for each hook that later work hangs on: adapters, contexts, residuals, remembered blocks, borders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compiled_tools import BACKENDS, make_backend
from miniatures import EOS, TEXT_ENCODERS, UNETS, VAES, VOCAB_SIZE, class_name, network, random_tensors
from numpy.typing import NDArray

from tinydiff.errors import InvalidArgumentError
from tinydiff.layers import Context
from tinydiff.unet import Added, Deep, UNet
from tinydiff_kernels import operations as op
from tinydiff_kernels.handles import ConvWeight, LinearWeight, LowRank
from tinydiff_kernels.plan import Plan
from tinydiff_kernels.ref.attention import attention
from tinydiff_kernels.reference import Reference
from tinydiff_kernels.rows import Grid, Rows, rows_from_nchw, rows_from_tokens, tokens_from_rows

SD1 = UNETS["sd1"]
Floats = NDArray[np.float32]


def normal(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def relative(a: Floats, b: Floats) -> float:
    return float(np.sqrt(((a - b) ** 2).sum() / (b**2).sum()))


@pytest.fixture(scope="module")
def weights() -> dict[str, Floats]:
    return random_tensors("UNet2DConditionModel", SD1, 11)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend; every hook works on each."""
    return str(request.param)


@pytest.fixture
def unet(weights: dict[str, Floats], backend: str) -> UNet:
    model: UNet = network(SD1, weights, make_backend(backend))
    return model


SAMPLE, CONTEXT, STEPS = normal(2, 4, 9, 7), normal(2, 77, 24, seed=1), np.array([999.0, 20.0])


class Count:
    """How often each weight was used."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.used: dict[str, int] = {}

    def before(self, operation: op.Operation) -> None:
        self.kinds.append(operation.kind)
        for weight in operation.weights():
            self.used[weight.name] = self.used.get(weight.name, 0) + 1

    def after(self, operation: op.Operation, result: Rows) -> None: ...


# ------------------------------------------------------------------------------- 1, 2: plans, shared handles


def test_a_backend_is_chosen_without_touching_the_model(unet: UNet, backend: str) -> None:
    """The same network, planned and computed: as many operations, and handles of the network itself."""
    count, plan = Count(), Plan()
    other = make_backend(backend, observers=[count])
    unet.forward(other, rows_from_nchw(SAMPLE), STEPS, Context(rows_from_tokens(CONTEXT)))
    unet.forward(plan, Rows(Grid(2, 9, 7), 4), STEPS, Context(Rows(Grid(2, 1, 77), 24)))
    assert [s.kind for s in plan.steps] == count.kinds
    assert all(w is unet.weights[w.name] for s in plan.steps for w in s.weights)


def test_two_networks_share_their_weights(unet: UNet, weights: dict[str, Floats]) -> None:
    other: UNet = network(SD1, weights, Reference())
    for name, handle in unet.weights.items():
        assert np.shares_memory(handle.weight.float32(), other.weights[name].weight.float32())


# ------------------------------------------------------------------------------- 3: adapters


def adapter(weight: LinearWeight | ConvWeight) -> LowRank:
    kernel = weight.kernel if isinstance(weight, ConvWeight) else ()
    return LowRank(normal(2, weight.inputs, *kernel, seed=2) * 0.2, normal(weight.outputs, 2, seed=3) * 0.2, 0.7)


def test_rank_2_adapters_on_every_layer_equal_merged_weights(unet: UNet, weights: dict[str, Floats]) -> None:
    before = unet(SAMPLE, STEPS, CONTEXT)
    merged = dict(weights)
    for name, handle in unet.weights.items():
        if isinstance(handle, (LinearWeight, ConvWeight)):
            a = adapter(handle)
            handle.adapters.append(a)
            delta = a.scale * np.tensordot(a.up, a.down, 1)
            merged[f"{name}.weight"] = weights[f"{name}.weight"] + delta.reshape(weights[f"{name}.weight"].shape)
    adapted = unet(SAMPLE, STEPS, CONTEXT)
    assert relative(adapted, before) > 0.1
    assert relative(adapted, network(SD1, merged, Reference())(SAMPLE, STEPS, CONTEXT)) < 1e-5


def test_an_adapter_can_be_taken_off(unet: UNet) -> None:
    before = unet(SAMPLE, STEPS, CONTEXT)
    handle = unet.weights["mid_block.attentions.0.transformer_blocks.0.attn2.to_v"]
    assert isinstance(handle, LinearWeight)
    handle.adapters.append(adapter(handle))
    assert not np.array_equal(unet(SAMPLE, STEPS, CONTEXT), before)
    handle.adapters.clear()
    assert np.array_equal(unet(SAMPLE, STEPS, CONTEXT), before)


# ------------------------------------------------------------------------------- 4: conditioning


def test_two_blocks_of_77_tokens_with_a_length_per_row(unet: UNet) -> None:
    """What lies behind a row's length changes nothing; what lies before it does."""
    long = np.concatenate([CONTEXT, normal(2, 77, 24, seed=5)], 1)
    lengths = np.array([77, 154])
    y = unet(SAMPLE, STEPS, Context(rows_from_tokens(long), lengths))
    short = unet(SAMPLE[:1], STEPS[:1], CONTEXT[:1])
    assert relative(y[:1], short) < 1e-5
    whole = unet(SAMPLE[1:], STEPS[1:], long[1:])
    assert relative(y[1:], whole) < 1e-5
    assert relative(whole, unet(SAMPLE[1:], STEPS[1:], CONTEXT[1:])) > 1e-3
    long[0, 77:] = np.nan
    assert np.array_equal(unet(SAMPLE, STEPS, Context(rows_from_tokens(long), lengths)), y)


def test_keys_and_values_of_a_prompt_are_computed_once(unet: UNet) -> None:
    count = Count()
    unet.backend.observers.append(count)
    context = Context(rows_from_tokens(CONTEXT))
    results = [unet(SAMPLE, t, context) for t in (999.0, 500.0, 1.0)]
    cross = {n: used for n, used in count.used.items() if n.endswith(("attn2.to_k", "attn2.to_v"))}
    assert len(cross) == 2 * 16
    assert set(cross.values()) == {1}
    assert {used for n, used in count.used.items() if n not in cross} == {3}
    assert np.array_equal(results[2], unet(SAMPLE, 1.0, CONTEXT))
    assert {count.used[n] for n in cross} == {2}  # an array is a new context each time


LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


def test_extra_keys_and_values(unet: UNet) -> None:
    """Scale 0 is nothing; scale 1 adds, before the output projection, attention to the extra pairs."""
    keys, values = rows_from_tokens(normal(2, 5, 16, seed=6)), rows_from_tokens(normal(2, 5, 16, seed=7))
    plain = unet(SAMPLE, STEPS, CONTEXT)

    def with_scale(scale: float) -> Floats:
        return unet(SAMPLE, STEPS, Context(rows_from_tokens(CONTEXT), extra={LAYER: [(keys, values, scale)]}))

    assert np.array_equal(with_scale(0), plain)
    assert relative(with_scale(1), plain) > 1e-4
    layer = unet.down[0][0].transformers[0].blocks[0].attn2
    assert layer.name == LAYER
    x, residual = rows_from_tokens(normal(2, 3, 16, seed=8)), rows_from_tokens(normal(2, 3, 16, seed=9))
    context = Context(rows_from_tokens(CONTEXT), extra={LAYER: [(keys, values, 0.5), (keys, values, 0.25)]})
    got = layer(unet.backend, x, residual, context).array
    wq, wk, wv, wo = (h.weight.float32().T for h in (layer.to_q, layer.to_k, layer.to_v, layer.to_out))
    text = CONTEXT.reshape(-1, 24)
    h = attention(x.array @ wq, text @ wk, text @ wv, 2, 4)
    h = h + 0.75 * attention(x.array @ wq, keys.array, values.array, 2, 4)
    assert layer.to_out.bias is not None
    assert relative(got, h @ wo + layer.to_out.bias.float32() + residual.array) < 1e-5


def test_a_context_has_to_fit(unet: UNet) -> None:
    for context in (CONTEXT[:1], CONTEXT[..., :23], CONTEXT[0], Context(rows_from_tokens(CONTEXT[:1]))):
        with pytest.raises(InvalidArgumentError, match="context"):
            unet(SAMPLE, STEPS, context)


# ------------------------------------------------------------------------------- 5: residuals, text encoders


def residual_shapes(model: UNet) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """Of the skips and the middle for SAMPLE: 9x7, 5x4, 3x2, 2x1 pixels."""
    sizes, skips = [(9, 7), (5, 4), (3, 2), (2, 1)], [(2, 16, 9, 7)]
    for i, channels in enumerate(model.config.block_out_channels):
        skips += [(2, channels, *sizes[i])] * model.config.layers_per_block[i]
        if i < 3:
            skips.append((2, channels, *sizes[i + 1]))
    return skips, (2, 32, 2, 1)


def test_residuals(unet: UNet) -> None:
    """Zeros change nothing; other numbers do (test_networks_oracle.py compares those with diffusers)."""
    skips, middle = residual_shapes(unet)
    plain = unet(SAMPLE, STEPS, CONTEXT)
    zeros = [np.zeros(s, np.float32) for s in skips]
    nothing = unet(SAMPLE, STEPS, CONTEXT, down_residuals=zeros, mid_residual=np.zeros(middle, np.float32))
    assert np.array_equal(nothing, plain)
    assert relative(unet(SAMPLE, STEPS, CONTEXT, mid_residual=normal(*middle)), plain) > 1e-3
    for i in (0, 3, 8, 11):
        one = [*zeros[:i], normal(*skips[i]), *zeros[i + 1 :]]
        assert relative(unet(SAMPLE, STEPS, CONTEXT, down_residuals=one), plain) > 1e-3
    with pytest.raises(InvalidArgumentError, match="11 down_residuals, but this UNet has 12 skips"):
        unet(SAMPLE, STEPS, CONTEXT, down_residuals=zeros[:-1])


def text_encoder(backend: str, **changes: Any) -> Any:
    config = {**TEXT_ENCODERS["clip_l"], **changes}
    return network(config, random_tensors("CLIPTextModel", config, 4), make_backend(backend))


IDS = np.array([[EOS - 1, 5, 9, 300, EOS, EOS]])


def test_appended_embedding_rows(backend: str) -> None:
    """An id beyond the vocabulary reads an appended row: as if the table had held it."""
    encoder = text_encoder(backend)
    row = encoder.tokens.weight.float32()[9]
    wanted = encoder(IDS)
    encoder.appended = np.stack([np.full(24, 9, np.float32), row])
    ids = np.where(IDS == 9, VOCAB_SIZE + 1, IDS)
    assert np.array_equal(encoder(ids), wanted)
    assert relative(encoder(np.where(IDS == 9, VOCAB_SIZE, IDS)), wanted) > 1e-2


@pytest.mark.parametrize("eos", [2, EOS])
def test_appended_ids_are_never_the_end(eos: int, backend: str) -> None:
    """Old configs mean the largest id by 2; an appended id is larger than the end mark and does not end a text."""
    encoder = text_encoder(backend, eos_token_id=eos)
    encoder.appended = np.zeros((1, 24), np.float32)
    ids = np.where(IDS == 9, VOCAB_SIZE, IDS)
    out = encoder.forward(encoder.backend, ids)
    assert np.array_equal(out.pooled.array[0], tokens_from_rows(out.normed)[0, 4])


def test_any_hidden_state(backend: str) -> None:
    """skip 0 is the last layer, skip = layers the embeddings; each layer's output is the next one's input."""
    encoder = text_encoder(backend)
    states = [encoder.forward(encoder.backend, IDS, skip).hidden.array for skip in range(4)]
    for layer, before, after in zip(reversed(encoder.layers), states[1:], states, strict=False):
        again = layer(encoder.backend, Rows(Grid(1, 1, 6), 24, before)).array
        assert np.array_equal(again, after)
    for skip in (-1, 4):
        with pytest.raises(InvalidArgumentError, match="cannot skip"):
            encoder.forward(encoder.backend, IDS, skip)


# ------------------------------------------------------------------------------- 7: precision


def test_precision_of_the_reference(unet: UNet) -> None:
    """float64 shows float32's error; float16 shows what half precision would do, and does it in the open."""

    def run(precision: Any) -> Floats:
        context = Context(rows_from_tokens(CONTEXT))
        return unet.forward(Reference(precision), rows_from_nchw(SAMPLE), STEPS, context).array

    exact = run("float64")
    assert exact.dtype == np.float64
    assert 1e-9 < relative(run("float32"), exact) < 1e-5
    assert 1e-5 < relative(run("float16"), exact) < 1e-2
    assert np.array_equal(run("float16"), run("float16").astype(np.float16))


# ------------------------------------------------------------------------------- 8: borders


@pytest.mark.parametrize("shift", [(4, 0), (0, 4), (4, 8)])
def test_circular_border_of_a_unet(shift: tuple[int, int], backend: str) -> None:
    """A picture on a torus: shifting the input by whole strides shifts the output, across the border too."""
    config = UNETS["bk_tiny"]
    tensors = random_tensors(class_name(config), config, 5)
    sample, context = normal(1, 4, 8, 12), CONTEXT[:1]

    def difference(model: UNet) -> float:
        moved = model(np.roll(sample, shift, (2, 3)), 500.0, context)
        return relative(moved, np.roll(model(sample, 500.0, context), shift, (2, 3)))

    assert difference(network(config, tensors, make_backend(backend), border="circular")) < 1e-5
    assert difference(network(config, tensors, make_backend(backend))) > 1e-2


@pytest.mark.parametrize("name", VAES)
def test_circular_border_of_a_vae(name: str, backend: str) -> None:
    config = VAES[name]
    model = network(config, random_tensors(class_name(config), config, 6), make_backend(backend), border="circular")
    latents, factor = normal(1, config["latent_channels"], 4, 6), model.config.factor
    picture = model.decode(latents)
    moved = model.decode(np.roll(latents, (1, 2), (2, 3)))
    assert relative(moved, np.roll(picture, (factor, 2 * factor), (2, 3))) < 1e-5
    back = model.encode(np.roll(picture, (factor, 2 * factor), (2, 3)))
    assert relative(back, np.roll(model.encode(picture), (1, 2), (2, 3))) < 1e-5


# ------------------------------------------------------------------------------- 9: remembered deep blocks


@pytest.mark.parametrize(("name", "levels"), [("sd1", 1), ("sd1", 3), ("bk_small", 2), ("ssd1b", 1), ("ssd1b", 2)])
def test_deep_blocks_are_left_out(name: str, levels: int, backend: str) -> None:
    """Remembered at the same inputs: identical bits, by fewer operations, as planned."""
    config = UNETS[name]
    count = Count()
    arrays = random_tensors(class_name(config), config, 5)
    model: UNet = network(config, arrays, make_backend(backend, observers=[count]))
    added = Added(normal(2, 20), np.full((2, 6), 64.0)) if "addition_embed_type" in config else None
    text, deep = normal(2, 77, config["cross_attention_dim"]), Deep(levels)

    def run(runner: Any, deep: Deep | None, values: bool = True) -> Rows:
        sample, hidden = rows_from_nchw(SAMPLE), rows_from_tokens(text)
        if not values:
            sample, hidden = Rows(sample.grid, 4), Rows(hidden.grid, hidden.channels)
        return model.forward(runner, sample, STEPS, Context(hidden), added=added, deep=deep)

    plain = run(model.backend, None).array
    whole = len(count.kinds)
    assert np.array_equal(run(model.backend, deep).array, plain)  # all computed, and remembered
    assert len(count.kinds) == 2 * whole
    assert deep.remembered is not None
    assert np.array_equal(run(model.backend, deep).array, plain)
    assert len(count.kinds) < 3 * whole
    costs, planned = [], Deep(levels)
    for _ in range(2):
        plan = Plan()
        run(plan, planned, values=False)
        costs.append(sum(s.macs for s in plan.steps))
    assert costs[1] < (0.97 if levels == 3 else 0.9) * costs[0]
    assert count.kinds[2 * whole :] == [s.kind for s in plan.steps]


def test_what_is_remembered_is_what_is_used(unet: UNet) -> None:
    deep = Deep(2)
    context = Context(rows_from_tokens(CONTEXT))

    def run() -> Floats:
        return unet.forward(unet.backend, rows_from_nchw(SAMPLE), STEPS, context, deep=deep).array

    plain = run()
    kept = deep.remembered
    assert kept is not None
    deep.remembered = Rows(kept.grid, kept.channels, kept.array * 2)
    assert relative(run(), plain) > 1e-2


@pytest.mark.parametrize("levels", [-1, 0, 4])
def test_levels_that_leave_nothing_out_are_refused(unet: UNet, levels: int) -> None:
    with pytest.raises(InvalidArgumentError, match="levels"):
        unet.forward(unet.backend, rows_from_nchw(SAMPLE), STEPS, Context(rows_from_tokens(CONTEXT)), deep=Deep(levels))
