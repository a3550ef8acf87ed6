"""What a network is, from its tensors' names and shapes alone: the diffusers config and the family of a UNet.

Widths, depths, missing blocks and input channels are read off; nothing depends on the published sizes where
the structure says it, so a miniature is recognised like the original. What no tensor tells is set to what
every model of the family has: 32 norm groups, 8 heads (SD 1) or heads of 64 features (SD 2, SDXL).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydiff_weights.errors import ModelFileError, UnsupportedModelError
from tinydiff_weights.safetensors import StoredTensor

Tensors = Mapping[str, StoredTensor]

TIME_IDS = 6  # SDXL: original size, crop and target size, two numbers each
TIME_ID_FEATURES = 256  # sinusoidal features of each
HEAD_FEATURES = 64
LAYER = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(?:transformer_blocks\.(\d+)\.)?")


@dataclass(frozen=True)
class Stage:
    """One resolution of a UNet: its width and, for each of its layers, how many transformer blocks follow."""

    channels: int
    depths: tuple[int, ...]  # 0: a layer without attention

    @property
    def attends(self) -> bool:
        return any(self.depths)


@dataclass(frozen=True)
class UNetLayout:
    """What the shapes of a UNet (diffusers names) say about it."""

    down: tuple[Stage, ...]
    up: tuple[Stage, ...]
    middle: int | None  # transformer blocks of the middle block; 0: one resnet only; None: no middle block
    in_channels: int
    out_channels: int
    context: int  # features of the text that cross-attention reads
    linear_projection: bool
    labels: int | None  # features of the added conditioning (SDXL), if there is one
    guidance_features: int | None  # features of the embedded guidance scale (LCM), if there is one


def extent(tensors: Tensors, name: str, axis: int, path: Path) -> int:
    """The size of one axis of a tensor. ModelFileError if the tensor or the axis does not exist."""
    tensor = tensors.get(name)
    if tensor is None:
        raise ModelFileError(path, "is missing", tensor=name)
    if not -len(tensor.shape) <= axis < len(tensor.shape):
        raise ModelFileError(path, f"has shape {list(tensor.shape)}, too few axes", tensor=name)
    return tensor.shape[axis]


# ------------------------------------------------------------------------------------------------ the layout


def unet_layout(unet: Tensors, path: Path) -> UNetLayout:
    """Read the structure of a UNet off its shapes. UnsupportedModelError where no config could describe it."""
    down, up = _stages(unet, "down", path), _stages(unet, "up", path)
    _check_mirrored(down, up, unet, path)
    keys = next((name for name in unet if name.endswith("attn2.to_k.weight")), None)
    projections = [t for name, t in unet.items() if name.endswith(".proj_in.weight") and "attentions" in name]
    if keys is None or not projections:
        raise UnsupportedModelError(f"{str(path)!r}: this UNet has no cross-attention, so no text can steer it")
    labels, guidance = "add_embedding.linear_1.weight", "time_embedding.cond_proj.weight"
    return UNetLayout(
        down=down,
        up=up,
        middle=_middle(unet, path),
        in_channels=extent(unet, "conv_in.weight", 1, path),
        out_channels=extent(unet, "conv_out.weight", 0, path),
        context=extent(unet, keys, 1, path),
        linear_projection=len(projections[0].shape) == 2,
        labels=extent(unet, labels, 1, path) if labels in unet else None,
        guidance_features=extent(unet, guidance, 1, path) if guidance in unet else None,
    )


def _stages(unet: Tensors, side: str, path: Path) -> tuple[Stage, ...]:
    layers: dict[int, set[int]] = {}
    depths: dict[tuple[int, int], int] = {}
    for name in unet:
        match = LAYER.match(name)
        if match is None or match[1] != side:
            continue
        stage, layer = int(match[2]), int(match[4])
        if match[3] == "resnets":
            layers.setdefault(stage, set()).add(layer)
        elif match[5] is not None:
            depths[stage, layer] = max(depths.get((stage, layer), 0), int(match[5]) + 1)
    return tuple(
        Stage(
            extent(unet, f"{side}_blocks.{stage}.resnets.0.conv1.weight", 0, path),
            tuple(depths.get((stage, layer), 0) for layer in sorted(layers[stage])),
        )
        for stage in sorted(layers)
    )


def _middle(unet: Tensors, path: Path) -> int | None:
    resnets = {name.split(".")[2] for name in unet if name.startswith("mid_block.resnets.")}
    blocks = {name.split(".")[4] for name in unet if name.startswith("mid_block.attentions.0.transformer_blocks.")}
    match len(resnets), bool(blocks):
        case 0, False:
            return None
        case 1, False:
            return 0
        case 2, True:
            return len(blocks)
    reason = f"a middle block of {len(resnets)} resnets and {len(blocks)} transformer blocks"
    raise UnsupportedModelError(f"{str(path)!r}: {reason} is none that diffusers has")


def _check_mirrored(down: Sequence[Stage], up: Sequence[Stage], unet: Tensors, path: Path) -> None:
    """The up path consumes what the down path leaves: one layer more per stage, the same widths reversed."""
    wanted = [(len(stage.depths) + 1, stage.channels) for stage in reversed(down)]
    found = [(len(stage.depths), stage.channels) for stage in up]
    last = len(down) - 1
    closed = any(name.startswith(f"down_blocks.{last}.downsamplers.") for name in unet) or any(
        name.startswith(f"up_blocks.{last}.upsamplers.") for name in unet
    )
    if not down or wanted != found or closed:
        raise ModelFileError(
            path,
            f"its UNet's output blocks (layers, channels: {found}) do not mirror its input blocks ({wanted})",
            hint="The file is damaged, or a UNet of another kind",
        )
    for stage in (*down, *up):
        if stage.attends and not all(stage.depths):
            raise UnsupportedModelError(f"{str(path)!r}: a UNet stage with attention in some of its layers only")


# ------------------------------------------------------------------------------------------------- the config


def unet_config(layout: UNetLayout, family: str, *, sample_size: int, pooled: int | None = None) -> dict[str, Any]:
    """The `config.json` that diffusers would have for this UNet.

    `pooled` is the width of the second text encoder's pooled output; what is left of SDXL's added conditioning
    belongs to the six time ids. Unknown: 256 features each, as published.
    """
    widths = [stage.channels for stage in layout.down]
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "addition_embed_type": None,
        "addition_time_embed_dim": None,
        "attention_head_dim": 8 if family == "sd1" else [max(1, width // HEAD_FEATURES) for width in widths],
        "block_out_channels": widths,
        "center_input_sample": False,
        "class_embed_type": None,
        "cross_attention_dim": layout.context,
        "down_block_types": ["CrossAttnDownBlock2D" if s.attends else "DownBlock2D" for s in layout.down],
        "downsample_padding": 1,
        "dual_cross_attention": False,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": layout.in_channels,
        "layers_per_block": _short([len(stage.depths) for stage in layout.down]),
        "mid_block_scale_factor": 1,
        "mid_block_type": _middle_type(layout.middle),
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "only_cross_attention": False,
        "out_channels": layout.out_channels,
        "projection_class_embeddings_input_dim": layout.labels,
        "sample_size": sample_size,
        "time_cond_proj_dim": layout.guidance_features,
        "up_block_types": ["CrossAttnUpBlock2D" if s.attends else "UpBlock2D" for s in layout.up],
        "use_linear_projection": layout.linear_projection,
        **_transformer_depths(layout),
    }
    if layout.labels is not None:
        rest = 0 if pooled is None else layout.labels - pooled
        features = rest // TIME_IDS if rest > 0 and rest % TIME_IDS == 0 else TIME_ID_FEATURES
        config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": features}
    return config


def _middle_type(middle: int | None) -> str | None:
    if middle is None:
        return None
    return "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D"


def _short(values: list[Any]) -> Any:
    """One number where all are equal, as diffusers writes it; else the list."""
    return values[0] if all(value == values[0] for value in values) else values


def _transformer_depths(layout: UNetLayout) -> dict[str, Any]:
    """`transformer_layers_per_block`: a number, a list per stage, or lists per layer with a reverse (SSD-1B).

    A stage without attention gets 1, which means nothing, but the last one rules the middle block's depth.
    """
    down: list[Any] = [_short(list(stage.depths)) or 1 for stage in layout.down]
    up: list[Any] = [_short(list(stage.depths)) or 1 for stage in layout.up]
    for i, stage in enumerate(layout.up):  # a stage that attends on one side only takes the other's number
        mirror = layout.down[len(down) - 1 - i]
        if stage.attends and not mirror.attends:
            down[len(down) - 1 - i] = up[i]
        elif mirror.attends and not stage.attends:
            up[i] = down[len(down) - 1 - i]
    if layout.middle and not (layout.down[-1].attends or layout.up[0].attends):
        down[-1] = up[0] = layout.middle
    if layout.middle and layout.middle != (down[-1] if isinstance(down[-1], int) else down[-1][0]):
        raise UnsupportedModelError(
            f"a middle block {layout.middle} transformer blocks deep beside {down[-1]} in the last stage "
            "is none that diffusers has"
        )
    if up == down[::-1] and all(isinstance(depth, int) for depth in down):
        return {"transformer_layers_per_block": _short(down), "reverse_transformer_layers_per_block": None}
    return {"transformer_layers_per_block": down, "reverse_transformer_layers_per_block": up}


# ------------------------------------------------------------------------------------------------- the family

INPUTS = {
    5: "a depth-to-image model (5 input channels)",
    7: "the x4 upscaler (7 input channels)",
    8: "an image-editing or image-variation model (8 input channels, InstructPix2Pix or Zero123)",
}


def recognise(layout: UNetLayout, path: Path) -> tuple[str, str]:
    """The family ("sd1", "sd2", "sdxl") and the evidence. UnsupportedModelError names what else it is."""
    if layout.in_channels in INPUTS:
        raise UnsupportedModelError(f"{str(path)!r}: this is {INPUTS[layout.in_channels]}, not a text-to-image model")
    if layout.in_channels not in (4, 9) or layout.out_channels != 4:
        shape = f"{layout.in_channels} input and {layout.out_channels} output channels"
        raise UnsupportedModelError(f"{str(path)!r}: a UNet with {shape}; Stable Diffusion has 4 (inpainting: 9) and 4")
    extra = ", 9 input channels: inpainting" if layout.in_channels == 9 else ""
    extra += ", embedded guidance scale: LCM-distilled" if layout.guidance_features is not None else ""
    if layout.middle is None:
        extra += ", no middle block: pruned (BK-SDM)"
    elif layout.middle == 0:
        extra += ", middle block without attention: pruned (SSD-1B, Segmind)"
    if layout.labels is not None:
        if layout.down[0].attends:
            what = "Stable unCLIP (SD 2 with an added image embedding)"
            raise UnsupportedModelError(f"{str(path)!r}: this is {what}, which tinydiff does not run")
        if len(layout.down) > 3:
            what = f"the SDXL refiner ({len(layout.down)} stages and an added embedding)"
            raise UnsupportedModelError(f"{str(path)!r}: this is {what}; take the SDXL base checkpoint instead")
        return "sdxl", f"the UNet has an added embedding (label_emb) and {len(layout.down)} stages{extra}"
    if layout.context in (768, 1024):
        family = "sd1" if layout.context == 768 else "sd2"
    else:
        family = "sd2" if layout.linear_projection else "sd1"
    projection = "linear" if layout.linear_projection else "convolutional"
    return family, f"the UNet reads text of {layout.context} features, {projection} projections{extra}"


# ----------------------------------------------------------------------------------------------- text encoders


def clip_config(text: Tensors, *, activation: str, path: Path) -> dict[str, Any]:
    """The transformers config of a CLIP text model. `activation`: "quick_gelu" (OpenAI) or "gelu" (open_clip)."""
    tokens = "text_model.embeddings.token_embedding.weight"
    hidden = extent(text, tokens, 1, path)
    layers = {name.split(".")[3] for name in text if name.startswith("text_model.encoder.layers.")}
    projected = "text_projection.weight" in text
    return {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,  # as on the hub, where 2 means: pool at the highest token id
        "hidden_act": activation,
        "hidden_size": hidden,
        "intermediate_size": extent(text, "text_model.encoder.layers.0.mlp.fc1.weight", 0, path),
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": extent(text, "text_model.embeddings.position_embedding.weight", 0, path),
        "model_type": "clip_text_model",
        "num_attention_heads": max(1, hidden // HEAD_FEATURES),
        "num_hidden_layers": len(layers),
        "pad_token_id": 1,
        "projection_dim": extent(text, "text_projection.weight", 0, path) if projected else hidden,
        "vocab_size": extent(text, tokens, 0, path),
    }
