"""Configs of miniatures: the real block structure of every family in tiny widths, as diffusers writes them."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_CROSS, _PLAIN, _UP_CROSS, _UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"

_SD1: Json = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.30.0",
    "act_fn": "silu",
    "attention_head_dim": 4,
    "block_out_channels": [16, 24, 32, 32],
    "center_input_sample": False,
    "cross_attention_dim": 24,
    "down_block_types": [_CROSS, _CROSS, _CROSS, _PLAIN],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 8,
    "out_channels": 4,
    "sample_size": 8,
    "up_block_types": [_UP, _UP_CROSS, _UP_CROSS, _UP_CROSS],
}
_SDXL: Json = {
    **_SD1,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "attention_head_dim": [2, 4, 8],
    "block_out_channels": [16, 32, 32],
    "cross_attention_dim": 56,
    "down_block_types": [_PLAIN, _CROSS, _CROSS],
    "projection_class_embeddings_input_dim": 6 * 8 + 20,
    "transformer_layers_per_block": [1, 2, 3],
    "up_block_types": [_UP_CROSS, _UP_CROSS, _UP],
    "use_linear_projection": True,
}
UNETS: dict[str, Json] = {
    "sd1": _SD1,
    "sd2": {**_SD1, "attention_head_dim": [2, 3, 4, 4], "use_linear_projection": True, "upcast_attention": True},
    "sdxl": _SDXL,
    "bk_small": {**_SD1, "layers_per_block": 1, "mid_block_type": None},
    "bk_tiny": {
        **_SD1,
        "block_out_channels": [16, 24, 32],
        "down_block_types": [_CROSS] * 3,
        "layers_per_block": 1,
        "mid_block_type": None,
        "up_block_types": [_UP_CROSS] * 3,
    },
    "ssd1b": {
        **_SDXL,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 5], [2, 1, 1], 1],
    },
    "lcm": {**_SD1, "time_cond_proj_dim": 12},
    "inpainting": {**_SD1, "in_channels": 9},
    "scale_shift": {**_SD1, "resnet_time_scale_shift": "scale_shift"},
    "no_attention_above": {
        **_SD1,
        "block_out_channels": [16, 32],
        "conv_in_kernel": 5,
        "conv_out_kernel": 1,
        "down_block_types": [_PLAIN, _CROSS],
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "layers_per_block": [1, 3],
        "norm_num_groups": 4,
        "time_embedding_dim": 40,
        "up_block_types": [_UP_CROSS, _UP],
    },
    "one_level": {
        **_SD1,
        "block_out_channels": [16],
        "down_block_types": [_CROSS],
        "out_channels": 3,
        "up_block_types": [_UP_CROSS],
    },
}

_KL: Json = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.30.0",
    "act_fn": "silu",
    "block_out_channels": [16, 16, 24, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "out_channels": 3,
    "sample_size": 64,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def _levels(n: int, **changes: Any) -> Json:
    lists = {k: _KL[k][-n:] for k in ("block_out_channels", "down_block_types", "up_block_types")}
    return {**_KL, **lists, **changes}


_TINY: Json = {
    "_class_name": "AutoencoderTiny",
    "_diffusers_version": "0.30.0",
    "act_fn": "relu",
    "decoder_block_out_channels": [8] * 4,
    "encoder_block_out_channels": [8] * 4,
    "force_upcast": False,
    "in_channels": 3,
    "latent_channels": 4,
    "num_decoder_blocks": [3, 3, 3, 1],
    "num_encoder_blocks": [1, 3, 3, 3],
    "out_channels": 3,
    "scaling_factor": 1.0,
    "upsampling_scaling_factor": 2,
}
VAES: dict[str, Json] = {
    "kl": _KL,
    "kl_sdxl": {**_KL, "scaling_factor": 0.13025, "force_upcast": True, "layers_per_block": 2},
    "kl_no_quant": _levels(3, use_quant_conv=False, use_post_quant_conv=False, latent_channels=3),
    "kl_no_attention": _levels(2, mid_block_add_attention=False, shift_factor=0.1),
    "taesd": _TINY,
    "taesd_three": {
        **_TINY,
        "decoder_block_out_channels": [12] * 3,
        "encoder_block_out_channels": [8] * 3,
        "num_decoder_blocks": [2, 1, 2],
        "num_encoder_blocks": [1, 2, 1],
    },
}

# A byte-level vocabulary in CLIP's file format: 256 letters, the same at the end of a word, merges, two marks.
MERGES = ["c a", "ca t</w>", "d o", "do g</w>", "a p", "ap p", "l e</w>", "app le</w>", "r e", "re d</w>"]
VOCAB_SIZE = 512 + len(MERGES) + 2
EOS = VOCAB_SIZE - 1

_CLIP: Json = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 2,  # what the published configs say; it stands for the largest id
    "hidden_act": "quick_gelu",
    "hidden_size": 24,
    "intermediate_size": 48,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "pad_token_id": 1,
    "projection_dim": 24,
    "vocab_size": VOCAB_SIZE,
}
TEXT_ENCODERS: dict[str, Json] = {
    "clip_l": _CLIP,
    "open_clip_h": {**_CLIP, "hidden_act": "gelu", "num_hidden_layers": 4, "projection_dim": 16},
    "open_clip_g": {
        **_CLIP,
        "architectures": ["CLIPTextModelWithProjection"],
        "eos_token_id": EOS,
        "hidden_act": "gelu",
        "hidden_size": 32,
        "intermediate_size": 80,
        "projection_dim": 20,
    },
}

_TRAINED: Json = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
_PNDM: Json = {**_TRAINED, "_class_name": "PNDMScheduler", "set_alpha_to_one": False, "skip_prk_steps": True}
_V: Json = {**_TRAINED, "_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False}
_EULER: Json = {**_TRAINED, "_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear"}
_LCM: Json = {**_TRAINED, "_class_name": "LCMScheduler", "original_inference_steps": 50, "set_alpha_to_one": True}
del _LCM["steps_offset"]

_SD, _XL = ("StableDiffusionPipeline", "clip_l", None), ("StableDiffusionXLPipeline", "clip_l", "open_clip_g")
# family: pipeline class, text encoder, second text encoder, VAE, scheduler; the UNet has the family's name
FAMILIES: dict[str, tuple[str, str, str | None, str, Json]] = {
    "sd1": (*_SD, "kl", _PNDM),
    "sd2": ("StableDiffusionPipeline", "open_clip_h", None, "kl", {**_V, "prediction_type": "v_prediction"}),
    "sdxl": (*_XL, "kl_sdxl", _EULER),
    "bk_small": (*_SD, "kl", _PNDM),
    "bk_tiny": (*_SD, "kl", _PNDM),
    "ssd1b": (*_XL, "kl_sdxl", _EULER),
    "lcm": ("LatentConsistencyModelPipeline", "clip_l", None, "kl", _LCM),
    "inpainting": ("StableDiffusionInpaintPipeline", "clip_l", None, "kl", _PNDM),
}
