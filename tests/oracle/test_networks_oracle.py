"""Every network, family and option against diffusers and transformers, on random-weight miniatures.

Both sides read the weights from a folder that `miniatures` wrote. One row of the matrix is one parametrised test, in
which ours computes on the reference and on compiled kernels; the last test prints how many there were and the worst.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from compiled_tools import compiled, relative
from miniatures import (
    EOS,
    FAMILIES,
    TEXT_ENCODERS,
    UNETS,
    VAES,
    class_name,
    network,
    random_tensors,
    stored,
    write_component,
    write_folder,
)
from numpy.typing import NDArray

from tinydiff.layers import Context
from tinydiff_kernels.reference import Reference
from tinydiff_kernels.rows import nchw_from_rows, rows_from_nchw, rows_from_tokens, tokens_from_rows
from tinydiff_weights.folder import open_folder
from tinydiff_weights.weight_files import open_weights

LIMIT = 1e-4  # relative root mean square
BACKENDS_LIMIT = 1e-5  # of compiled kernels against the reference
Ours = tuple[Any, Any]  # a network on the reference, and on compiled kernels
ROWS: list[tuple[float, str]] = []
TOKENS = 11
LEGACY = {
    f"{name}, eos {eos}": {**TEXT_ENCODERS[name], "eos_token_id": eos} for name in TEXT_ENCODERS for eos in (2, EOS)
}
LIBRARY = {"CLIPTextModel": transformers, "CLIPTextModelWithProjection": transformers}


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def agree(
    ours: Ours, compute: Callable[[Any], NDArray[Any]], theirs: torch.Tensor, request: pytest.FixtureRequest
) -> None:
    """Assert a relative RMS below the limits for both of ours, and enter the row."""
    wanted = theirs.detach().numpy()
    assert np.isfinite(wanted).all()
    reference, fast = (compute(model) for model in ours)
    errors = [relative(found, wanted) for found in (reference, fast)]
    assert max(errors) < LIMIT
    assert relative(fast, reference) < BACKENDS_LIMIT
    ROWS.append((max(errors), request.node.name))


def theirs_of(config: dict[str, Any], folder: Path) -> Any:
    name = class_name(config)
    return getattr(LIBRARY.get(name, diffusers), name).from_pretrained(folder, torch_dtype=torch.float32).eval()


@functools.cache
def pair(table: str, name: str, dtype: str = "F32") -> tuple[Ours, Any]:
    """Ours and theirs on the same folder."""
    config = {"unet": UNETS, "vae": VAES, "text": LEGACY}[table][name]
    with tempfile.TemporaryDirectory() as folder:
        write_component(Path(folder), config, stored(random_tensors(class_name(config), config, 7), dtype))
        options = {"penultimate": True} if class_name(config) == "CLIPTextModelWithProjection" else {}
        weights = open_weights(Path(folder), Path(folder))
        ours, fast = (network(config, weights, backend, **options) for backend in (Reference(), compiled("auto")))
        theirs = theirs_of(config, Path(folder))
    return (ours, fast), theirs


# ------------------------------------------------------------------------------------------------- UNet

SHAPES = {
    "square": (1, 8, 8, 999.0),
    "wide, fractional timestep": (1, 4, 16, 499.25),
    "tall, batch 2": (2, 16, 8, np.array([17.0, 500.0])),
    "9x7": (2, 9, 7, np.array([0.0, 999.0])),
    "3x5": (1, 3, 5, 1.0),
    "1x1": (1, 1, 1, 250.0),
}


def inputs(config: dict[str, Any], shape: str, dtype: type = np.float32) -> dict[str, Any]:
    """Random inputs of a UNet, by the names of its call here."""
    rng = np.random.default_rng(len(shape))
    batch, height, width, timestep = SHAPES[shape]

    def normal(*size: int) -> NDArray[Any]:
        return rng.standard_normal(size, np.float32).astype(dtype)

    found: dict[str, Any] = {
        "sample": normal(batch, config["in_channels"], height, width),
        "timestep": timestep,
        "context": normal(batch, TOKENS, config["cross_attention_dim"]),
    }
    if "addition_embed_type" in config:
        sizes = rng.integers(0, 1025, (batch, 6)).astype(dtype)
        found["added"] = {"text_embeds": normal(batch, 20), "time_ids": sizes}
    if config.get("time_cond_proj_dim"):
        found["timestep_cond"] = normal(batch, config["time_cond_proj_dim"])
    return found


def their_unet(model: Any, given: dict[str, Any]) -> torch.Tensor:
    t = torch.from_numpy
    time = given["timestep"]
    added, condition = given.get("added"), given.get("timestep_cond")
    mask, down, mid = given.get("mask"), given.get("down_residuals"), given.get("mid_residual")
    result = model(
        t(given["sample"]),
        time if isinstance(time, float) else t(time).to(torch.float32),
        t(given["context"]),
        added_cond_kwargs=None if added is None else {k: t(v) for k, v in added.items()},
        timestep_cond=None if condition is None else t(condition),
        encoder_attention_mask=None if mask is None else t(mask),
        down_block_additional_residuals=None if down is None else [t(r) for r in down],
        mid_block_additional_residual=None if mid is None else t(mid),
    )
    return result.sample


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", UNETS)
def test_unet(name: str, shape: str, request: pytest.FixtureRequest) -> None:
    ours, theirs = pair("unet", name)
    given = inputs(UNETS[name], shape)
    agree(ours, lambda model: model(**given), their_unet(theirs, given), request)


@pytest.mark.parametrize("name", UNETS)
def test_unet_residuals(name: str, request: pytest.FixtureRequest) -> None:
    """What a ControlNet adds to the skips and to the middle."""
    ours, theirs = pair("unet", name)
    given = inputs(UNETS[name], "9x7")
    skips: list[tuple[int, ...]] = []
    hooks = [theirs.conv_in.register_forward_hook(lambda m, i, o: skips.append(o.shape))]
    hooks += [b.register_forward_hook(lambda m, i, o: skips.extend(x.shape for x in o[1])) for b in theirs.down_blocks]
    hooks += [theirs.down_blocks[-1].register_forward_hook(lambda m, i, o: skips.append(o[0].shape))]
    their_unet(theirs, given)
    for hook in hooks:
        hook.remove()
    rng = np.random.default_rng(5)
    *down, mid = [rng.standard_normal(skip, np.float32) for skip in skips]
    given |= {"down_residuals": down, "mid_residual": mid}
    agree(ours, lambda model: model(**given), their_unet(theirs, given), request)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_unet_context_lengths(name: str, request: pytest.FixtureRequest) -> None:
    """Only the first so many tokens of each image count; theirs takes a mask."""
    ours, theirs = pair("unet", name)
    given = inputs(UNETS[name], "9x7")
    lengths = np.array([4, TOKENS])
    mask = np.arange(TOKENS)[None] < lengths[:, None]

    def compute(model: Any) -> NDArray[Any]:
        found: NDArray[Any] = model(**{**given, "context": Context(rows_from_tokens(given["context"]), lengths)})
        return found

    agree(ours, compute, their_unet(theirs, {**given, "mask": mask}), request)


def test_unet_without_guidance_embedding(request: pytest.FixtureRequest) -> None:
    ours, theirs = pair("unet", "lcm")
    given = {**inputs(UNETS["lcm"], "square"), "timestep_cond": None}
    agree(ours, lambda model: model(**given), their_unet(theirs, given), request)


# ------------------------------------------------------------------------------------------------- VAE

SIZES = {"square": (1, 4, 4), "5x3, batch 2": (2, 5, 3), "1x6": (1, 1, 6)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", VAES)
def test_decode(name: str, size: str, request: pytest.FixtureRequest) -> None:
    ours, theirs = pair("vae", name)
    batch, *sides = SIZES[size]
    latents = np.random.default_rng(1).standard_normal((batch, VAES[name]["latent_channels"], *sides), np.float32)
    agree(ours, lambda model: model.decode(latents), theirs.decode(torch.from_numpy(latents)).sample, request)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", VAES)
def test_encode(name: str, size: str, request: pytest.FixtureRequest) -> None:
    ours, theirs = pair("vae", name)
    batch, *sides = SIZES[size]
    pixels = [side * ours[0].config.factor for side in sides]
    image = np.random.default_rng(2).uniform(-1, 1, (batch, 3, *pixels)).astype(np.float32)
    encoded = theirs.encode(torch.from_numpy(image))
    wanted = encoded.latents if "taesd" in name else encoded.latent_dist.mean
    agree(ours, lambda model: model.encode(image), wanted, request)


# ------------------------------------------------------------------------------------------------- CLIP


def token_ids(kind: str) -> NDArray[np.int64]:
    """`[B, T]` with a start mark, and end marks at several places."""
    ids = np.random.default_rng(len(kind)).integers(3, EOS - 1, (3, 20 if kind == "20 tokens" else 77))
    ids[:, 0] = EOS - 1
    ends = {"padded with the end": EOS, "padded with 0": 0, "20 tokens": 1, "full": None}[kind]
    for row, end in zip(ids, (1, 9, ids.shape[1] - 1), strict=True):
        row[end] = EOS
        if ends is not None:
            row[end + 1 :] = ends
    return ids


KINDS = ["padded with the end", "padded with 0", "20 tokens", "full"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LEGACY)
def test_what_the_unet_gets(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    """Last layer, normed; of an encoder with projection the last but one, unnormed."""
    ours, theirs = pair("text", name)
    ids = token_ids(kind)
    result = theirs(torch.from_numpy(ids), output_hidden_states=True)
    if ours[0].penultimate:
        agree(ours, lambda model: model(ids)[0], result.hidden_states[-2], request)
    else:
        agree(ours, lambda model: model(ids), result.last_hidden_state, request)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LEGACY)
def test_pooled(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    ours, theirs = pair("text", name)
    ids = token_ids(kind)
    result = theirs(torch.from_numpy(ids))
    wanted = result.text_embeds if ours[0].projection is not None else result.pooler_output
    agree(ours, lambda model: model.forward(model.backend, ids).pooled.array, wanted, request)


@pytest.mark.parametrize("skip", [1, 2, 3])
@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_any_hidden_state(name: str, skip: int, request: pytest.FixtureRequest) -> None:
    """Unnormed, as clip_skip of SDXL takes it, down to the embeddings."""
    ours, theirs = pair("text", f"{name}, eos {EOS}")
    ids = token_ids("padded with the end")
    wanted = theirs(torch.from_numpy(ids), output_hidden_states=True).hidden_states[-1 - skip]
    agree(ours, lambda model: tokens_from_rows(model.forward(model.backend, ids, skip).hidden), wanted, request)


@pytest.mark.parametrize("name", ["clip_l", "open_clip_h"])
def test_normed_hidden_state(name: str, request: pytest.FixtureRequest) -> None:
    """As clip_skip of SD 1 and 2 takes it: the last norm on an earlier layer."""
    ours, theirs = pair("text", f"{name}, eos {EOS}")
    ids = token_ids("full")
    hidden = theirs(torch.from_numpy(ids), output_hidden_states=True).hidden_states[-2]
    norm = next(m for n, m in theirs.named_modules() if n.endswith("final_layer_norm"))
    agree(ours, lambda model: tokens_from_rows(model.forward(model.backend, ids, 1).normed), norm(hidden), request)


# ------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_unet_on_half_weights(name: str, dtype: str, request: pytest.FixtureRequest) -> None:
    ours, theirs = pair("unet", name, dtype)
    assert next(theirs.parameters()).dtype == torch.float32
    given = inputs(UNETS[name], "9x7")
    agree(ours, lambda model: model(**given), their_unet(theirs, given), request)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("name", ["kl", "taesd"])
def test_vae_on_half_weights(name: str, dtype: str, request: pytest.FixtureRequest) -> None:
    ours, theirs = pair("vae", name, dtype)
    latents = np.random.default_rng(1).standard_normal((1, 4, 4, 4), np.float32)
    agree(ours, lambda model: model.decode(latents), theirs.decode(torch.from_numpy(latents)).sample, request)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_clip_on_half_weights(dtype: str, request: pytest.FixtureRequest) -> None:
    ours, theirs = pair("text", f"clip_l, eos {EOS}", dtype)
    ids = token_ids("full")
    agree(ours, lambda model: model(ids), theirs(torch.from_numpy(ids)).last_hidden_state, request)


@pytest.mark.parametrize(("table", "name", "limit"), [("vae", "kl", 1e-13), ("unet", "sd1", 1e-13)])
def test_float64(table: str, name: str, limit: float, request: pytest.FixtureRequest) -> None:
    """The reference's float64 is float64 throughout; timestep 0, as both take the sinusoids in float32."""
    config = {"unet": UNETS, "vae": VAES}[table][name]
    tensors = random_tensors(class_name(config), config, 7)
    ours = network(config, tensors, Reference("float64"))
    theirs = getattr(diffusers, class_name(config)).from_config(config).double().eval()
    theirs.load_state_dict({k: torch.from_numpy(v).double() for k, v in tensors.items()})
    given = {**inputs(UNETS["sd1"], "square"), "timestep": 0.0}
    wide = {k: torch.from_numpy(v).double() for k, v in given.items() if isinstance(v, np.ndarray)}
    sample = rows_from_nchw(given["sample"])
    if table == "vae":
        rows, wanted = ours.forward_decode(ours.backend, sample), theirs.decode(wide["sample"]).sample
    else:
        context = Context(rows_from_tokens(given["context"]))
        rows = ours.forward(ours.backend, sample, np.zeros(1), context)
        wanted = theirs(wide["sample"], 0, wide["context"]).sample
    error = relative(nchw_from_rows(rows), wanted.numpy())
    assert error < limit
    ROWS.append((error, request.node.name))


# ------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("shards", [False, True], ids=["whole", "shards"])
@pytest.mark.parametrize("family", FAMILIES)
def test_folder(family: str, shards: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """diffusers opens the folders that the other tests stand on, finds every tensor in it, and makes the same of it."""
    source = open_folder(write_folder(tmp_path, family, seed=3, shards=shards))
    theirs = getattr(diffusers, source.pipeline_class).from_pretrained(tmp_path)
    assert set(theirs.tokenizer("red").input_ids) == {EOS - 1, 521, EOS}
    for name, component in source.components.items():
        state = getattr(theirs, name).state_dict()
        if name.startswith("text_encoder"):
            state = {n if n.startswith("text_") else f"text_model.{n}": v for n, v in state.items()}
        assert {n: tuple(v.shape) for n, v in state.items()} == {n: t.shape for n, t in component.tensors.items()}
        assert all(np.array_equal(state[n].numpy(), t.float32()) for n, t in component.tensors.items())
    given = inputs(UNETS[family], "9x7")
    unet = source.components["unet"]
    reference, fast = (network(unet.config, unet.tensors, backend) for backend in (Reference(), compiled("auto")))
    agree((reference, fast), lambda model: model(**given), their_unet(theirs.unet, given), request)


def test_count_of_rows(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    here = [i for i in request.session.items if i.path == Path(__file__) and i is not request.node]
    assert len(ROWS) == len(here)
    with capsys.disabled():
        error, name = max(ROWS)
        print(f"\n{len(ROWS)} rows agree within {LIMIT:g} relative RMS; the worst is {error:.2g} ({name})")
