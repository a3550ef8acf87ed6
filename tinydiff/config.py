"""Configs: frozen dataclasses that mirror the diffusers JSON, per-block values spelled out.

`from_json` honours every key (see `config_keys.py`), checks types and sizes, and names the file and key that
is wrong. Nothing else in the package looks into a config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydiff.config_keys import check_keys, class_of
from tinydiff.config_reader import DEEPEST, Reader
from tinydiff.errors import UnsupportedModelError


@dataclass(frozen=True)
class UNetConfig:
    """UNet2DConditionModel. Tuples run over the blocks, down from full resolution (up: from the deepest)."""

    sample_size: tuple[int, int]  # height, width of the latents it was trained on
    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    down_attention: tuple[bool, ...]  # CrossAttnDownBlock2D or DownBlock2D
    up_attention: tuple[bool, ...]
    mid: str | None  # "cross", "plain" (one resnet), or None (BK-SDM tiny)
    layers_per_block: tuple[int, ...]
    down_depths: tuple[tuple[int, ...], ...]  # transformer blocks of each layer
    mid_depth: int
    up_depths: tuple[tuple[int, ...], ...]
    cross_attention_dim: tuple[int, ...]
    heads: tuple[int, ...]  # number of heads; the JSON calls it attention_head_dim by a historic mistake
    norm_num_groups: int
    norm_eps: float
    use_linear_projection: bool
    flip_sin_to_cos: bool
    freq_shift: float
    time_embed_dim: int
    time_cond_proj_dim: int | None  # LCM: embedding of the guidance scale
    time_scale_shift: bool
    text_time: tuple[int, int] | None  # SDXL: width per time id, width of the whole added vector
    conv_in_kernel: int
    conv_out_kernel: int

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], path: str | Path) -> UNetConfig:
        check_keys(class_of(raw, path, "UNet2DConditionModel"), raw, path)
        r = Reader(raw, path)
        channels = r.integers("block_out_channels", (320, 640, 1280, 1280))
        n = len(channels)
        cross, plain = "CrossAttnDownBlock2D", "DownBlock2D"
        down = r.texts("down_block_types", (cross,) * 3 + (plain,), (cross, plain))
        up = r.texts("up_block_types", ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3), ("CrossAttnUpBlock2D", "UpBlock2D"))
        if len(down) != n or len(up) != n:
            raise r.fail("down_block_types", f"one name for each of the {n} blocks, here and in up_block_types")
        mids = {"UNetMidBlock2DCrossAttn": "cross", "UNetMidBlock2D": "plain", None: None}
        mid = raw.get("mid_block_type", "UNetMidBlock2DCrossAttn")
        if not (mid is None or isinstance(mid, str)) or mid not in mids:
            raise UnsupportedModelError(f"{str(path)!r}: config key 'mid_block_type' = {mid!r:.80} is not supported")
        layers = r.integers("layers_per_block", 2, n, high=DEEPEST)
        down_depths, mid_depth, up_depths = _depths(r, layers)
        heads = r.integers("attention_head_dim", 8, n)
        groups = r.integer("norm_num_groups", 32)
        if any(c % groups for c in channels):
            raise r.fail("norm_num_groups", f"a divisor of block_out_channels {list(channels)}")
        if any(c % h for c, h in zip(channels, heads, strict=True)):
            raise r.fail("attention_head_dim", f"numbers of heads that divide block_out_channels {list(channels)}")
        kernels = r.integer("conv_in_kernel", 3), r.integer("conv_out_kernel", 3)
        if any(k % 2 == 0 or k > 15 for k in kernels):
            raise r.fail("conv_in_kernel", "odd and at most 15 (conv_out_kernel too)")
        return cls(
            sample_size=_size(r, "sample_size", 64),
            in_channels=r.integer("in_channels", 4),
            out_channels=r.integer("out_channels", 4),
            block_out_channels=channels,
            down_attention=tuple(name == cross for name in down),
            up_attention=tuple(name == "CrossAttnUpBlock2D" for name in up),
            mid=mids[mid],
            layers_per_block=layers,
            down_depths=down_depths,
            mid_depth=mid_depth,
            up_depths=up_depths,
            cross_attention_dim=r.integers("cross_attention_dim", 1280, n),
            heads=heads,
            norm_num_groups=groups,
            norm_eps=r.number("norm_eps", 1e-5, low=0),
            use_linear_projection=r.flag("use_linear_projection", False),
            flip_sin_to_cos=r.flag("flip_sin_to_cos", True),
            freq_shift=r.number("freq_shift", 0),
            time_embed_dim=r.optional_integer("time_embedding_dim") or 4 * channels[0],
            time_cond_proj_dim=r.optional_integer("time_cond_proj_dim"),
            time_scale_shift=r.choice("resnet_time_scale_shift", "default", ("default", "scale_shift")) != "default",
            text_time=_text_time(r),
            conv_in_kernel=kernels[0],
            conv_out_kernel=kernels[1],
        )


def _size(r: Reader, key: str, default: int) -> tuple[int, int]:
    value = r.raw.get(key)
    height, width = r.integers(key, default, 2) if value is not None else (default, default)
    return height, width


def _text_time(r: Reader) -> tuple[int, int] | None:
    kind = r.raw.get("addition_embed_type")
    if kind is None:
        return None
    if kind != "text_time":
        raise UnsupportedModelError(
            f"{str(r.path)!r}: config key 'addition_embed_type' = {kind!r:.80} is not supported"
        )
    return r.integer("addition_time_embed_dim"), r.integer("projection_class_embeddings_input_dim")


Depths = tuple[tuple[int, ...], ...]


def _depths(r: Reader, layers: tuple[int, ...]) -> tuple[Depths, int, Depths]:
    """Transformer blocks per layer, going down, in the middle, going up.

    `transformer_layers_per_block` holds a number per block, or (SSD-1B) a list per block with a number per
    layer; then `reverse_transformer_layers_per_block` gives the way up, whose blocks have one layer more.
    """
    key, reverse = "transformer_layers_per_block", "reverse_transformer_layers_per_block"
    n = len(layers)

    def spelled(name: str, value: Any, counts: tuple[int, ...]) -> Depths:
        if isinstance(value, int):
            value = [value] * n
        if not isinstance(value, (list, tuple)) or len(value) != n:
            raise r.fail(name, f"a number, or a list of {n}")
        rows = [[v] * count if isinstance(v, int) else v for v, count in zip(value, counts, strict=True)]
        for row, count in zip(rows, counts, strict=True):
            fits = isinstance(row, (list, tuple)) and len(row) == count
            if not fits or not all(isinstance(d, int) and not isinstance(d, bool) and 0 < d <= DEEPEST for d in row):
                raise r.fail(name, f"whole numbers from 1, or a list of {count} of them for a block of {count} layers")
        if sum(map(sum, rows)) > 10 * DEEPEST:
            raise r.fail(name, f"{10 * DEEPEST} transformer blocks or fewer in all")
        return tuple(tuple(row) for row in rows)

    value = r.raw.get(key, 1)
    down = spelled(key, value, layers)
    up_layers = tuple(count + 1 for count in reversed(layers))
    if r.raw.get(reverse) is not None:
        return down, down[-1][0], spelled(reverse, r.raw[reverse], up_layers)
    if isinstance(value, (list, tuple)):
        if any(isinstance(v, (list, tuple)) for v in value):
            raise r.fail(reverse, "given, though transformer_layers_per_block is a list of lists")
        value = list(reversed(value))
    return down, down[-1][0], spelled(key, value, up_layers)


@dataclass(frozen=True)
class VAEConfig:
    """AutoencoderKL."""

    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    latent_channels: int
    norm_num_groups: int
    scaling_factor: float
    shift_factor: float
    use_quant_conv: bool
    use_post_quant_conv: bool
    mid_block_add_attention: bool

    @property
    def factor(self) -> int:
        """Pixels per latent along each side."""
        return 1 << (len(self.block_out_channels) - 1)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], path: str | Path) -> VAEConfig:
        check_keys(class_of(raw, path, "AutoencoderKL"), raw, path)
        r = Reader(raw, path)
        channels = r.integers("block_out_channels", (64,))
        down = r.texts("down_block_types", ("DownEncoderBlock2D",), ("DownEncoderBlock2D",))
        up = r.texts("up_block_types", ("UpDecoderBlock2D",), ("UpDecoderBlock2D",))
        if not len(down) == len(up) == len(channels):
            raise r.fail("down_block_types", "one name for each entry of block_out_channels, and up_block_types too")
        groups = r.integer("norm_num_groups", 32)
        if any(c % groups for c in channels):
            raise r.fail("norm_num_groups", f"a divisor of block_out_channels {list(channels)}")
        return cls(
            in_channels=r.integer("in_channels", 3),
            out_channels=r.integer("out_channels", 3),
            block_out_channels=channels,
            layers_per_block=r.integer("layers_per_block", 1, high=DEEPEST),
            latent_channels=r.integer("latent_channels", 4),
            norm_num_groups=groups,
            scaling_factor=_scaling(r, 0.18215),
            shift_factor=_shift(r),
            use_quant_conv=r.flag("use_quant_conv", True),
            use_post_quant_conv=r.flag("use_post_quant_conv", True),
            mid_block_add_attention=r.flag("mid_block_add_attention", True),
        )


@dataclass(frozen=True)
class TinyVAEConfig:
    """AutoencoderTiny (TAESD)."""

    in_channels: int
    out_channels: int
    encoder_channels: tuple[int, ...]
    decoder_channels: tuple[int, ...]
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    latent_channels: int
    scaling_factor: float
    shift_factor: float

    @property
    def factor(self) -> int:
        """Pixels per latent along each side."""
        return 1 << (len(self.decoder_channels) - 1)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], path: str | Path) -> TinyVAEConfig:
        check_keys(class_of(raw, path, "AutoencoderTiny"), raw, path)
        r = Reader(raw, path)
        encoder = r.integers("encoder_block_out_channels", (64,) * 4)
        decoder = r.integers("decoder_block_out_channels", (64,) * 4)
        for key, widths in (("encoder_block_out_channels", encoder), ("decoder_block_out_channels", decoder)):
            if len(set(widths)) > 1:
                raise UnsupportedModelError(f"{str(path)!r}: {key!r} = {list(widths)}: only equal widths are supported")
        if len(encoder) != len(decoder):
            raise r.fail("decoder_block_out_channels", "as long as encoder_block_out_channels")
        return cls(
            in_channels=r.integer("in_channels", 3),
            out_channels=r.integer("out_channels", 3),
            encoder_channels=encoder,
            decoder_channels=decoder,
            encoder_blocks=r.integers("num_encoder_blocks", (1, 3, 3, 3), len(encoder), high=DEEPEST),
            decoder_blocks=r.integers("num_decoder_blocks", (3, 3, 3, 1), len(decoder), high=DEEPEST),
            latent_channels=r.integer("latent_channels", 4),
            scaling_factor=_scaling(r, 1.0),
            shift_factor=_shift(r),
        )


def _scaling(r: Reader, default: float) -> float:
    value = r.number("scaling_factor", default)
    if value == 0:
        raise r.fail("scaling_factor", "a number other than 0")
    return value


def _shift(r: Reader) -> float:
    return 0.0 if r.raw.get("shift_factor") is None else r.number("shift_factor", 0.0)


@dataclass(frozen=True)
class CLIPConfig:
    """CLIPTextModel, or CLIPTextModelWithProjection where `projection_dim` is not None."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    positions: int
    activation: str  # "quick_gelu" or "gelu"
    eps: float
    eos_token_id: int
    projection_dim: int | None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], path: str | Path) -> CLIPConfig:
        name = class_of(raw, path, "CLIPTextModel", "CLIPTextModelWithProjection")
        check_keys(name, raw, path)
        r = Reader(raw, path)
        hidden, heads = r.integer("hidden_size", 512), r.integer("num_attention_heads", 8)
        if hidden % heads:
            raise r.fail("num_attention_heads", f"a divisor of hidden_size {hidden}")
        projected = name == "CLIPTextModelWithProjection"
        return cls(
            vocab_size=r.integer("vocab_size", 49408),
            hidden_size=hidden,
            intermediate_size=r.integer("intermediate_size", 2048),
            layers=r.integer("num_hidden_layers", 12, high=DEEPEST),
            heads=heads,
            positions=r.integer("max_position_embeddings", 77),
            activation=r.choice("hidden_act", "quick_gelu", ("quick_gelu", "gelu")),
            eps=r.number("layer_norm_eps", 1e-5, low=0),
            eos_token_id=r.integer("eos_token_id", 49407, low=0),
            projection_dim=r.integer("projection_dim", 512) if projected else None,
        )
