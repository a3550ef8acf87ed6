"""For each key of each network's config.json: honoured, without effect here, neutral at some values, or refused.

USED     read by `config.py`
IGNORED  bears on training, files or speed only: any value gives the same network
(a, b)   neutral: accepted at these values and refused at any other, by name
A key that is not listed is refused too, unless it is null or false (a switch that is off). Keys that start with
an underscore are bookkeeping.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinydiff.errors import ModelFileError, UnsupportedModelError

USED = "used"
IGNORED = "ignored"
Rule = str | tuple[object, ...]

UNET: dict[str, Rule] = {
    "sample_size": USED,
    "in_channels": USED,
    "out_channels": USED,
    "center_input_sample": (False,),
    "flip_sin_to_cos": USED,
    "freq_shift": USED,
    "down_block_types": USED,
    "mid_block_type": USED,
    "up_block_types": USED,
    "only_cross_attention": (False, None),
    "block_out_channels": USED,
    "layers_per_block": USED,
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "dropout": IGNORED,
    "act_fn": ("silu", "swish"),
    "norm_num_groups": USED,
    "norm_eps": USED,
    "cross_attention_dim": USED,
    "transformer_layers_per_block": USED,
    "reverse_transformer_layers_per_block": USED,
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "attention_head_dim": USED,
    "num_attention_heads": (None,),
    "dual_cross_attention": (False,),
    "use_linear_projection": USED,
    "class_embed_type": (None,),
    "addition_embed_type": USED,
    "addition_time_embed_dim": USED,
    "num_class_embeds": (None,),
    "upcast_attention": IGNORED,  # no attention is computed in half precision
    "resnet_time_scale_shift": USED,
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": USED,
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": USED,
    "conv_in_kernel": USED,
    "conv_out_kernel": USED,
    "projection_class_embeddings_input_dim": USED,
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None,),
    "addition_embed_type_num_heads": IGNORED,  # read for addition_embed_type "text" only, which is refused
}

AUTOENCODER_KL: dict[str, Rule] = {
    "in_channels": USED,
    "out_channels": USED,
    "down_block_types": USED,
    "up_block_types": USED,
    "block_out_channels": USED,
    "layers_per_block": USED,
    "act_fn": ("silu", "swish"),
    "latent_channels": USED,
    "norm_num_groups": USED,
    "sample_size": IGNORED,  # the UNet's decides the default size
    "scaling_factor": USED,
    "shift_factor": USED,
    "latents_mean": (None,),
    "latents_std": (None,),
    "force_upcast": IGNORED,  # decoded in fp32 in any case
    "use_quant_conv": USED,
    "use_post_quant_conv": USED,
    "mid_block_add_attention": USED,
}

AUTOENCODER_TINY: dict[str, Rule] = {
    "in_channels": USED,
    "out_channels": USED,
    "encoder_block_out_channels": USED,
    "decoder_block_out_channels": USED,
    "block_out_channels": IGNORED,  # diffusers repeats decoder_block_out_channels under this name
    "act_fn": ("relu",),
    "upsample_fn": ("nearest",),
    "latent_channels": USED,
    "upsampling_scaling_factor": (2,),
    "num_encoder_blocks": USED,
    "num_decoder_blocks": USED,
    "latent_magnitude": IGNORED,
    "latent_shift": IGNORED,  # both serve the 8-bit storage of latents only
    "force_upcast": IGNORED,
    "scaling_factor": USED,
    "shift_factor": USED,
}

_GENERATION = (
    "add_cross_attention architectures attention_dropout bad_words_ids begin_suppress_tokens bos_token_id "
    "chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dropout "
    "dtype early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task "
    "forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label initializer_factor initializer_range "
    "is_decoder is_encoder_decoder label2id length_penalty max_length min_length model_type no_repeat_ngram_size "
    "num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states output_scores "
    "pad_token_id prefix problem_type pruned_heads remove_invalid_values repetition_penalty return_dict "
    "return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss "
    "tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript transformers_version "
    "typical_p use_bfloat16 use_cache"
)
CLIP_TEXT: dict[str, Rule] = {
    "vocab_size": USED,
    "hidden_size": USED,
    "intermediate_size": USED,
    "projection_dim": USED,
    "num_hidden_layers": USED,
    "num_attention_heads": USED,
    "max_position_embeddings": USED,
    "hidden_act": USED,
    "layer_norm_eps": USED,
    "eos_token_id": USED,
    **dict.fromkeys(_GENERATION.split(), IGNORED),  # what transformers writes into every config
}

CLASSES: dict[str, dict[str, Rule]] = {
    "UNet2DConditionModel": UNET,
    "AutoencoderKL": AUTOENCODER_KL,
    "AutoencoderTiny": AUTOENCODER_TINY,
    "CLIPTextModel": CLIP_TEXT,
    "CLIPTextModelWithProjection": CLIP_TEXT,
}


def check_keys(class_name: str, config: Mapping[str, Any], path: str | Path) -> None:
    """Refuse, by name, whatever would make another network than the one that would be built."""
    if class_name not in CLASSES:
        known = ", ".join(CLASSES)
        raise UnsupportedModelError(f"{str(path)!r}: networks of class {class_name!r} are not supported (only {known})")
    rules = CLASSES[class_name]
    for key, value in config.items():
        if key.startswith("_"):
            continue
        rule = rules.get(key)
        if rule is None and value is not None and value is not False:
            raise UnsupportedModelError(
                f"{str(path)!r}: config key {key!r:.80} = {value!r:.80} of {class_name} is unknown to tinydiff; it may "
                "change the network, so it is not ignored. Remove the key if it has no effect"
            )
        if isinstance(rule, tuple) and not _neutral(value, rule):
            allowed = " or ".join(repr(v) for v in rule)
            raise UnsupportedModelError(
                f"{str(path)!r}: config key {key!r} = {value!r:.80} of {class_name} is not supported, only {allowed}"
            )


def _neutral(value: Any, allowed: tuple[object, ...]) -> bool:
    """JSON writes a per-block list where all blocks share a value; such a list is neutral if its items are."""
    items = value if isinstance(value, list) and value else [value]
    if any(isinstance(item, (list, dict)) for item in items):
        return False
    return all(any(item == v and isinstance(item, bool) == isinstance(v, bool) for v in allowed) for item in items)


def class_of(config: Mapping[str, Any], path: str | Path, *expected: str) -> str:
    """The class a config names, one of `expected`; the first of them where it names none.

    diffusers writes `_class_name`, transformers `architectures`.
    """
    listed = config.get("architectures") or [expected[0]]
    if not isinstance(listed, list):
        raise ModelFileError(path, f"config key 'architectures' is {listed!r:.80}, not a list of names")
    name = config.get("_class_name") or listed[0]
    if not isinstance(name, str):
        raise ModelFileError(path, f"the class name in the config is {name!r:.80}, not text")
    if name not in expected:
        raise UnsupportedModelError(f"{str(path)!r}: is a network of class {name!r:.80}, not {' or '.join(expected)}")
    return name
