"""Checkpoints that are not a Stable Diffusion to run: recognised by their tensors' names, to say what they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

UNET = "model.diffusion_model."
VAE = ("first_stage_model.", "vae.")


class Kind(NamedTuple):
    """A kind of file: a pattern that one of its names matches (from the start), what it is, what to do."""

    pattern: re.Pattern[str]
    what: str
    hint: str = ""


def _kinds(*rows: tuple[str, ...]) -> tuple[Kind, ...]:
    return tuple(Kind(re.compile(pattern), *rest) for pattern, *rest in rows)


TAKE_SD = "tinydiff runs Stable Diffusion 1, 2 and SDXL base"
WITH_MODEL = "it changes a model and is none by itself; open the model it was made for"
ROOT = r"(model\.diffusion_model\.|model\.|diffusion_model\.|unet\.|transformer\.)?"

# What no Stable Diffusion has, even where a file otherwise looks like one. First match wins.
FOREIGN = _kinds(
    (r"edm_vpred\.sigma_max$", "an EDM v-prediction model (CosXL: edm_vpred.sigma_max)", TAKE_SD),
    (r"edm_(mean|std)$", "Playground v2.5 (edm_mean: EDM latents)", TAKE_SD),
    (ROOT + r".*\b(scaled_fp8|scale_weight|weight_scale)$", "a scaled fp8 file of ComfyUI", "Take the fp16 version"),
    (r".*\.weight\.(absmax|quant_map|quant_state\b)", "a bitsandbytes 4-bit file", "Take the fp16 version"),
    (ROOT + r"(input_blocks|middle_block|output_blocks)\..*time_(stack|mixer)\b", "Stable Video Diffusion", TAKE_SD),
    (ROOT + r".*\bmotion_modules?\.", "an AnimateDiff motion module, or a model with one merged in", WITH_MODEL),
    (r"cc_projection\.", "Zero123 (novel views of an object)", TAKE_SD),
    (ROOT + r"encoder_hid_proj\.", "Kolors (a UNet that reads ChatGLM)", TAKE_SD),
    (r"conditioner\.embedders\.0\.model\.", "the SDXL refiner", "Take the SDXL base checkpoint instead"),
    (r"(embedder|noise_augmentor)\.", "Stable unCLIP (SD 2 with an added image embedding)", TAKE_SD),
    (r"(model\.diffusion_model\.label_emb\.weight|low_res_scheduler\.)", "the x4 upscaler", TAKE_SD),
    (r"control_model\.", "a ControlNet", "it steers a model and is none by itself; open that model"),
)

# What a file without Stability's UNet may be.
OTHERS = _kinds(
    (r".*(lora_(down|up|mid|A|B)\b|lora_[AB]\.|_lora\.|lora_linear_layer|lora\.(down|up)\b)", "a LoRA", WITH_MODEL),
    (r".*\.(hada_|lokr_|oft_|boft_|on_input$|dora_scale|diff(_b)?$)", "a LyCORIS adapter", WITH_MODEL),
    (ROOT + r"joint_blocks\.", "Stable Diffusion 3", TAKE_SD),
    (ROOT + r"distilled_guidance_layer\.", "Chroma", TAKE_SD),
    (ROOT + r"(double|single)_stream_modulation", "Flux.2", TAKE_SD),
    (ROOT + r"txt_in\.individual_token_refiner\.", "HunyuanVideo", TAKE_SD),
    (ROOT + r"(double_blocks\.\d+\.img_attn|single_transformer_blocks\.|single_blocks\.)", "Flux", TAKE_SD),
    (ROOT + r"double_layers\.", "AuraFlow", TAKE_SD),
    (ROOT + r"(cap_embedder|layers\.0\.adaLN_modulation)", "Lumina or Z-Image", TAKE_SD),
    (ROOT + r"transformer_blocks\.0\.img_mod\.", "Qwen-Image", TAKE_SD),
    (ROOT + r"(patchify_proj\.|scale_shift_table|adaln_single\.)", "PixArt, Sana or LTX-Video", TAKE_SD),
    (ROOT + r"(head\.modulation|blocks\.0\.cross_attn\.)", "Wan, Sana or another diffusion transformer", TAKE_SD),
    (ROOT + r"(clip_txt_mapper\.|down_blocks\.\d+\.\d+\.channelwise)", "Stable Cascade", TAKE_SD),
    (ROOT + r"(double_stream_blocks|x_embedder)\.", "another diffusion transformer (HiDream, Cosmos)", TAKE_SD),
    (
        r"(controlnet_cond_embedding|input_hint_block|zero_convs|controlnet_(down|mid)_block)",
        "a ControlNet",
        "it steers a model and is none by itself; open that model",
    ),
    (r"(ip_adapter|image_proj)\.", "an IP-Adapter", WITH_MODEL),
    (r"(adapter\.)?body\.\d+\.(in_conv|block1)\.", "a T2I-Adapter", WITH_MODEL),
    (r"(model\.\d+\.(sub\.|weight)|RRDB_trunk|body\.\d+\.rdb1|conv_first\.)", "an image upscaler (ESRGAN)", TAKE_SD),
    (r"model_ema\.", "a checkpoint with nothing but EMA weights", "Take the version with plain weights"),
    (
        r"(input_blocks|output_blocks)\.\d+\.",
        "a UNet alone",
        "it lacks the VAE and the text encoder; take the whole checkpoint, or a diffusers folder",
    ),
    (
        r"(unet\.)?(down_blocks\.\d+\.(resnets|attentions)|time_embedding\.linear_1)\.",
        "a UNet alone, in diffusers' names",
        "it lacks the VAE and the text encoder; open its whole diffusers folder",
    ),
    (
        r"((first_stage_model|vae)\.)?(encoder\.(down|down_blocks)|decoder\.(up|up_blocks))\.\d+\.",
        "a VAE alone",
        "Open a whole model and give this file with --vae",
    ),
    (
        r"((encoder|decoder)\.layers\.\d+\.(conv|weight|bias|skip)|\d{1,2}\.(conv\.0\.)?weight$)",
        "a TAESD autoencoder alone",
        "Open a whole model and give this file with --vae",
    ),
    (
        r"(.*\.)?(text_model\.encoder\.layers|transformer\.resblocks)\.\d+\.",
        "a CLIP model alone",
        "Take a whole checkpoint, or a diffusers folder",
    ),
    (r"(.*\.)?encoder\.block\.\d+\.layer\.\d+\.SelfAttention\.", "a T5 text encoder alone", TAKE_SD),
)
EMBEDDING = Kind(re.compile(""), "a textual inversion", "it adds words to a model and is none by itself")
EMBEDDING_WIDTHS = (768, 1024, 1280, 2048)


def foreign(names: Iterable[str]) -> Kind | None:
    """The kind that a file with Stability's UNet is nevertheless; None for a Stable Diffusion."""
    return _first(FOREIGN, list(names))


def other(shapes: Mapping[str, tuple[int, ...]]) -> Kind | None:
    """The kind of a file that has no UNet in Stability's names; None if it is none that is known."""
    names = list(shapes)
    found = _first(FOREIGN, names) or _first(OTHERS, names)
    if found is None and _is_embedding(shapes):
        return EMBEDDING
    return found


def _first(kinds: Iterable[Kind], names: list[str]) -> Kind | None:
    return next((kind for kind in kinds if any(kind.pattern.match(name) for name in names)), None)


def _is_embedding(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """A few vectors of a text encoder's width: `emb_params`, `clip_l` and `clip_g`, or the new word itself."""
    return 0 < len(shapes) <= 4 and all(
        1 <= len(shape) <= 2 and shape[-1] in EMBEDDING_WIDTHS for shape in shapes.values()
    )


# ---------------------------------------------------------------------------------------------------- leftovers

# What training and conversion leave in a checkpoint and no picture needs: counted, not listed.
LEFTOVERS = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"(.*\.)?model_ema\.", "EMA weights"),
        (r"(.*\.)?position_ids$", "position_ids"),
        (r"(.*\.)?logit_(scale|bias)$", "logit_scale"),
        (r"(.*\.)?attn_mask$", "attention masks"),
        (
            r"(.*\.)?(betas|alphas_cumprod(_prev)?|(sqrt|log)_\w*alphas_cumprod|posterior_\w+|lvlb_weights|logvar"
            r"|(log_)?sigmas|scale_factor)$",
            "noise schedule",
        ),
        (r"(.*\.)?(visual|vision_model)\.|(.*\.)?(visual_projection|visual\.proj)\b", "image encoder"),
        (r"(first_stage_model\.|vae\.)?loss\.", "VAE training loss"),
        (r"optimizer|lr_schedulers|callbacks|loops\.|(global_step|epoch|pytorch-lightning_version)$", "training state"),
        (r"(model\.)?(v_pred|ztsnr)$", "prediction markers"),
        (r"(alphas|model_sampling\.\w+|embedding_manager\..*|denoiser\.\w+)$", "noise schedule"),
    )
)


def leftover(name: str) -> str | None:
    """What kind of training leftover a tensor is, or None."""
    return next((kind for pattern, kind in LEFTOVERS if pattern.match(name)), None)
