"""How the leaves of each kind of layer are called in single files and in diffusers: one row per leaf.

Read together with `names.py`, which finds the layers. A row says which parameters it moves, and through
which view where the two sides store them differently; a view never copies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.safetensors import StoredTensor

View = Callable[[StoredTensor], StoredTensor]
WEIGHT_BIAS = ("weight", "bias")
WEIGHT = ("weight",)
WHOLE = ("",)  # the rule's source is a complete name


class Rule(NamedTuple):
    """One row of a table: the parameters of `source` become those of `target`, seen through `view`."""

    source: str
    target: str
    parameters: tuple[str, ...] = WEIGHT_BIAS
    view: View | None = None
    required: bool = True


# ---------------------------------------------------------------------------------------------------- views


def as_linear(tensor: StoredTensor) -> StoredTensor:
    """The weight of a 1x1 convolution, (out, in, 1, 1), as a matrix (out, in). Vectors and matrices pass."""
    shape = tensor.shape
    if len(shape) <= 2:
        return tensor
    if any(extent != 1 for extent in shape[2:]):
        raise ModelFileError(tensor.file, f"shape {shape} is not a 1x1 convolution", tensor=tensor.name)
    return tensor.reshaped(*shape[:2])


def as_transposed(tensor: StoredTensor) -> StoredTensor:
    """open_clip multiplies from the left (x @ P), transformers' Linear from the right (x @ W.T): W = P.T."""
    if len(tensor.shape) != 2:
        raise ModelFileError(tensor.file, f"shape {tensor.shape} is not a matrix", tensor=tensor.name)
    return tensor.transposed()


def third(index: int) -> View:
    """Query (0), key (1) or value (2) of open_clip's `in_proj`, which stacks the three along axis 0."""

    def view(tensor: StoredTensor) -> StoredTensor:
        rows = tensor.shape[0] if tensor.shape else 0
        if rows == 0 or rows % 3:
            reason = f"shape {tensor.shape} is not query, key and value stacked"
            raise ModelFileError(tensor.file, reason, tensor=tensor.name)
        return tensor.sliced(index * rows // 3, (index + 1) * rows // 3)

    return view


# --------------------------------------------------------------------------------------------------- tables

ITSELF = (Rule("", ""),)  # a layer that is a single convolution or matrix with bias

UNET_FIXED = (
    Rule("time_embed.0", "time_embedding.linear_1"),
    Rule("time_embed.2", "time_embedding.linear_2"),
    # Latent consistency models add the embedded guidance scale to the time; converters differ in the name.
    Rule("time_embed.cond_proj", "time_embedding.cond_proj", WEIGHT, required=False),
    Rule("time_embedding.cond_proj", "time_embedding.cond_proj", WEIGHT, required=False),
    Rule("label_emb.0.0", "add_embedding.linear_1", required=False),
    Rule("label_emb.0.2", "add_embedding.linear_2", required=False),
    Rule("input_blocks.0.0", "conv_in"),
    Rule("out.0", "conv_norm_out"),
    Rule("out.2", "conv_out"),
)
UNET_RESNET = (
    Rule("in_layers.0", "norm1"),
    Rule("in_layers.2", "conv1"),
    Rule("emb_layers.1", "time_emb_proj"),
    Rule("out_layers.0", "norm2"),
    Rule("out_layers.3", "conv2"),
    Rule("skip_connection", "conv_shortcut", required=False),
)
TRANSFORMER = tuple(Rule(leaf, leaf) for leaf in ("norm", "proj_in", "proj_out"))
TRANSFORMER_BLOCK = (
    *(Rule(leaf, leaf) for leaf in ("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2")),
    *(Rule(f"{a}.{leaf}", f"{a}.{leaf}", WEIGHT) for a in ("attn1", "attn2") for leaf in ("to_q", "to_k", "to_v")),
    *(Rule(f"{a}.to_out.0", f"{a}.to_out.0") for a in ("attn1", "attn2")),
)
VAE_HALF = (Rule("conv_in", "conv_in"), Rule("norm_out", "conv_norm_out"), Rule("conv_out", "conv_out"))
VAE_FIXED = (
    Rule("quant_conv", "quant_conv", required=False),
    Rule("post_quant_conv", "post_quant_conv", required=False),
)
VAE_RESNET = (
    *(Rule(leaf, leaf) for leaf in ("norm1", "conv1", "norm2", "conv2")),
    Rule("nin_shortcut", "conv_shortcut", required=False),
)
VAE_ATTENTION = (
    Rule("norm", "group_norm"),
    Rule("q", "to_q", view=as_linear),
    Rule("k", "to_k", view=as_linear),
    Rule("v", "to_v", view=as_linear),
    Rule("proj_out", "to_out.0", view=as_linear),
)

CLIP_FIXED = (
    Rule("embeddings.token_embedding", "embeddings.token_embedding", WEIGHT),
    Rule("embeddings.position_embedding", "embeddings.position_embedding", WEIGHT),
    Rule("final_layer_norm", "final_layer_norm"),
)
CLIP_LAYER = tuple(
    Rule(leaf, leaf)
    for leaf in (
        *("layer_norm1", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        *("layer_norm2", "mlp.fc1", "mlp.fc2"),
    )
)
OPEN_CLIP_FIXED = (
    Rule("token_embedding", "embeddings.token_embedding", WEIGHT),
    Rule("positional_embedding", "embeddings.position_embedding.weight", WHOLE),
    Rule("ln_final", "final_layer_norm"),
)
OPEN_CLIP_LAYER = (
    Rule("ln_1", "layer_norm1"),
    *(
        Rule(f"attn.in_proj_{p}", f"self_attn.{letter}_proj.{p}", WHOLE, third(i))
        for i, letter in enumerate("qkv")
        for p in WEIGHT_BIAS
    ),
    Rule("attn.out_proj", "self_attn.out_proj"),
    Rule("ln_2", "layer_norm2"),
    Rule("mlp.c_fc", "mlp.fc1"),
    Rule("mlp.c_proj", "mlp.fc2"),
)
OPEN_CLIP_PROJECTION = (
    Rule("text_projection", "text_projection.weight", WHOLE, as_transposed, required=False),
    Rule("text_projection", "text_projection", WEIGHT, required=False),  # converted from transformers: as is
)
CLIP_PROJECTION = (Rule("text_projection", "text_projection", WEIGHT, required=False),)
