"""Every naming of Stable Diffusion's tensors, mapped to the diffusers names.

A single file names its UNet as Stability's code does (`input_blocks.4.1.proj_in.weight`), its VAE likewise
(`decoder.up.3.block.0.norm1.weight`) and its text encoders as transformers or open_clip do. The names inside
a layer come from `name_tables.py`; where a layer sits comes from a walk over the blocks that are found, so
any number of stages, layers and transformer blocks maps, also with gaps in the numbering (pruned UNets that
were converted with SD 1's fixed numbers). Results are views: nothing is read, converted or copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tinydiff_weights.name_tables import (
    CLIP_FIXED,
    CLIP_LAYER,
    CLIP_PROJECTION,
    ITSELF,
    OPEN_CLIP_FIXED,
    OPEN_CLIP_LAYER,
    OPEN_CLIP_PROJECTION,
    TRANSFORMER,
    TRANSFORMER_BLOCK,
    UNET_FIXED,
    UNET_RESNET,
    VAE_ATTENTION,
    VAE_FIXED,
    VAE_HALF,
    VAE_RESNET,
    Rule,
)
from tinydiff_weights.safetensors import StoredTensor


class Module(NamedTuple):
    """A layer found in the file: where it is, where it belongs, and the table of its leaves."""

    source: str
    target: str
    rules: tuple[Rule, ...]


class Mapped(NamedTuple):
    """The outcome of a mapping. `unmatched` and `missing` are names as the file has (or should have) them."""

    tensors: dict[str, StoredTensor]  # by diffusers name
    unmatched: tuple[str, ...]  # no rule knows them
    missing: tuple[str, ...]  # the layers that are present demand them


# --------------------------------------------------------------------------------------------- the networks


def map_unet(tensors: Mapping[str, StoredTensor]) -> Mapped:
    """A UNet's tensors by their names without `model.diffusion_model.`."""
    tree = _tree(tensors)
    modules = [Module("", "", UNET_FIXED), *_down_modules(tree), *_middle_modules(tree), *_up_modules(tree)]
    return _apply(tensors, modules)


def map_vae(tensors: Mapping[str, StoredTensor]) -> Mapped:
    """An AutoencoderKL's tensors by their names without `first_stage_model.`."""
    tree = _tree(tensors)
    modules = [Module("", "", VAE_FIXED)]
    for half, levels, target in (("encoder", "down", "down_blocks"), ("decoder", "up", "up_blocks")):
        node = _at(tree, half)
        modules += [Module(half, half, VAE_HALF)]
        numbers = _numbers(_at(node, levels))
        for number in numbers:
            # The decoder counts its levels from the image inwards, diffusers in the order of execution.
            stage = number if half == "encoder" else numbers[-1] - number
            source, to = f"{half}.{levels}.{number}", f"{half}.{target}.{stage}"
            blocks = _numbers(_at(node, levels, str(number), "block"))
            modules += [Module(f"{source}.block.{j}", f"{to}.resnets.{j}", VAE_RESNET) for j in blocks]
            for resample in ("downsample", "upsample"):
                if resample in _at(node, levels, str(number)):
                    modules += [Module(f"{source}.{resample}.conv", f"{to}.{resample}rs.0.conv", ITSELF)]
        modules += [Module(f"{half}.mid.block_{j + 1}", f"{half}.mid_block.resnets.{j}", VAE_RESNET) for j in (0, 1)]
        if "attn_1" in _at(node, "mid"):
            modules += [Module(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0", VAE_ATTENTION)]
    return _apply(tensors, modules)


def map_clip(tensors: Mapping[str, StoredTensor], *, projection: bool) -> Mapped:
    """A CLIP text model in transformers' names, with or without the leading `text_model.`."""
    return _map_text(tensors, CLIP_FIXED, "encoder.layers", CLIP_LAYER, CLIP_PROJECTION if projection else (), None)


def map_open_clip(tensors: Mapping[str, StoredTensor], *, projection: bool, drop_last: bool = False) -> Mapped:
    """A text model in open_clip's names.

    `drop_last` leaves out the last layer: Stable Diffusion 2 reads the penultimate hidden state, so diffusers
    stores the encoder without it. What is left out this way counts as unmatched.
    """
    layers = _numbers(_at(_tree(tensors), "transformer", "resblocks"))
    keep = layers[:-1] if drop_last else None
    fixed, leaves = OPEN_CLIP_FIXED, OPEN_CLIP_LAYER
    return _map_text(tensors, fixed, "transformer.resblocks", leaves, OPEN_CLIP_PROJECTION if projection else (), keep)


def _map_text(
    tensors: Mapping[str, StoredTensor],
    fixed: tuple[Rule, ...],
    layers: str,
    leaves: tuple[Rule, ...],
    projection: tuple[Rule, ...],
    keep: list[int] | None,
) -> Mapped:
    wrapped = any(name.startswith("text_model.") for name in tensors)
    inside = "text_model" if wrapped else ""
    numbers = _numbers(_at(_tree(tensors), *inside.split("."), *layers.split("."))) if keep is None else keep
    modules = [Module(inside, "text_model", fixed), Module("", "", projection)]
    modules += [Module(_join(inside, layers, str(n)), f"text_model.encoder.layers.{n}", leaves) for n in numbers]
    return _apply(tensors, modules)


# ---------------------------------------------------------------------------------------- the UNet's blocks


def _down_modules(tree: Mapping[str, Any]) -> Iterator[Module]:
    """input_blocks: a stage is a run of resnets (child 0) and attention (child 1), then a downsampler."""
    stage = layer = 0
    for number in _numbers(_at(tree, "input_blocks")):
        source, block = f"input_blocks.{number}", _at(tree, "input_blocks", str(number))
        if number == 0:
            continue  # conv_in
        if "op" in _at(block, "0"):
            yield Module(f"{source}.0.op", f"down_blocks.{stage}.downsamplers.0.conv", ITSELF)
            stage, layer = stage + 1, 0
            continue
        yield Module(f"{source}.0", f"down_blocks.{stage}.resnets.{layer}", UNET_RESNET)
        if "1" in block:
            yield from _transformer(block["1"], f"{source}.1", f"down_blocks.{stage}.attentions.{layer}")
        layer += 1


def _middle_modules(tree: Mapping[str, Any]) -> Iterator[Module]:
    """middle_block: resnet, attention, resnet; one resnet (SSD-1B); or nothing (BK-SDM small)."""
    middle = _at(tree, "middle_block")
    for child, target in (("0", "resnets.0"), ("2", "resnets.1")):
        if child in middle:
            yield Module(f"middle_block.{child}", f"mid_block.{target}", UNET_RESNET)
    if "1" in middle:
        yield from _transformer(middle["1"], "middle_block.1", "mid_block.attentions.0")


def _up_modules(tree: Mapping[str, Any]) -> Iterator[Module]:
    """output_blocks: the same, but a stage's upsampler is one more child of its last block."""
    stage = layer = 0
    for number in _numbers(_at(tree, "output_blocks")):
        source, block = f"output_blocks.{number}", _at(tree, "output_blocks", str(number))
        upsampler = next((child for child in block if "conv" in _node(block[child])), None)
        layers = set(block) - {upsampler}
        if layers:  # a pruned UNet in SD 1's numbering can have the upsampler in a block of its own
            yield Module(f"{source}.0", f"up_blocks.{stage}.resnets.{layer}", UNET_RESNET)
            if "1" in layers:
                yield from _transformer(block["1"], f"{source}.1", f"up_blocks.{stage}.attentions.{layer}")
            layer += 1
        if upsampler is not None:
            yield Module(f"{source}.{upsampler}.conv", f"up_blocks.{stage}.upsamplers.0.conv", ITSELF)
            stage, layer = stage + 1, 0


def _transformer(node: Any, source: str, target: str) -> Iterator[Module]:
    yield Module(source, target, TRANSFORMER)
    for k in _numbers(_at(_node(node), "transformer_blocks")) or [0]:
        inner = f"transformer_blocks.{k}"
        yield Module(f"{source}.{inner}", f"{target}.{inner}", TRANSFORMER_BLOCK)


# ---------------------------------------------------------------------------------------------------- parts


def _apply(tensors: Mapping[str, StoredTensor], modules: Iterable[Module]) -> Mapped:
    mapped: dict[str, StoredTensor] = {}
    used: set[str] = set()
    missing: list[str] = []
    for module in modules:
        for rule in module.rules:
            pairs = [
                (_join(module.source, rule.source, p), _join(module.target, rule.target, p)) for p in rule.parameters
            ]
            if not rule.required and not any(source in tensors for source, _ in pairs):
                continue
            for source, target in pairs:
                tensor = tensors.get(source)
                if tensor is None:
                    missing.append(source)
                    continue
                used.add(source)
                mapped[target] = (tensor if rule.view is None else rule.view(tensor)).renamed(target)
    unmatched = tuple(name for name in tensors if name not in used)
    return Mapped(mapped, unmatched, tuple(dict.fromkeys(missing)))


def _tree(names: Iterable[str]) -> dict[str, Any]:
    """The dotted names as nested dicts; a leaf is an empty dict."""
    root: dict[str, Any] = {}
    for name in names:
        node = root
        for part in name.split("."):
            node = node.setdefault(part, {})
    return root


def _node(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _at(node: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for part in path:
        node = _node(node.get(part)) if part else node
    return node


def _numbers(node: Mapping[str, Any]) -> list[int]:
    """The children that are numbers, in order. At most three digits: no network has a thousand layers."""
    return sorted(int(k) for k in node if k.isascii() and k.isdigit() and len(k) <= 3 and str(int(k)) == k)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
