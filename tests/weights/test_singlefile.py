"""Single-file checkpoints as a whole: what opens, with what settings, what is counted, and what is refused as what."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import CHECKPOINTS, Arrays, components, single_file, write
from miniatures import VAES, declared_shapes

from tinydiff_weights.errors import ModelFileError, TinyDiffError, UnsupportedModelError
from tinydiff_weights.safetensors import StoredTensor
from tinydiff_weights.singlefile import open_single_file, open_vae_file
from tinydiff_weights.source import Component, ModelSource

UNET = "model.diffusion_model."
ONE = np.zeros(1, np.float32)


@cache
def arrays_of(kind: str) -> Arrays:
    return single_file(kind)


def opened(folder: Path, kind: str, *, metadata: dict[str, str] | None = None, **more: Any) -> ModelSource:
    """A miniature with some tensors more; `None` leaves one out."""
    arrays = {**arrays_of(kind), **more.pop("tensors", {})}
    path = write(folder / "model.safetensors", {n: a for n, a in arrays.items() if a is not None}, metadata)
    return open_single_file(path, **more)


def without(kind: str, *prefixes: str) -> Arrays:
    return {n: a for n, a in arrays_of(kind).items() if not n.startswith(prefixes)}


# ------------------------------------------------------------------------------------------------- what opens


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_every_family_opens_with_the_bytes_of_its_tensors(kind: str, tmp_path: Path) -> None:
    source = opened(tmp_path, kind)
    wanted = components(kind)
    assert source.kind == "single_file"
    assert source.family == CHECKPOINTS[kind].family
    assert source.components.keys() == wanted.keys()
    assert source.unused == ()
    for part, arrays in wanted.items():
        found = source.components[part].tensors
        assert {n: t.shape for n, t in found.items()} == {n: a.shape for n, a in arrays.items()}
        assert all(found[n].raw.tobytes() == a.tobytes() for n, a in arrays.items())


@pytest.mark.parametrize(
    ("kind", "pipeline"),
    [
        ("sd1", "StableDiffusionPipeline"),
        ("sd2_inpainting", "StableDiffusionInpaintPipeline"),
        ("sdxl", "StableDiffusionXLPipeline"),
        ("sdxl_inpainting", "StableDiffusionXLInpaintPipeline"),
    ],
)
def test_pipeline_classes_and_index(kind: str, pipeline: str, tmp_path: Path) -> None:
    source = opened(tmp_path, kind)
    assert source.pipeline_class == source.index["_class_name"] == pipeline
    assert source.index.get("force_zeros_for_empty_prompt") == (True if "sdxl" in kind else None)


@pytest.mark.parametrize(
    ("kind", "activations", "pads"),
    [
        ("sd1", ["quick_gelu"], ["<|endoftext|>"]),
        ("sd2", ["gelu"], ["!"]),
        ("sd2_hf_names", ["gelu"], ["!"]),
        ("sdxl", ["quick_gelu", "gelu"], ["<|endoftext|>", "!"]),
    ],
)
def test_text_encoders_and_tokenizers(kind: str, activations: list[str], pads: list[str], tmp_path: Path) -> None:
    source = opened(tmp_path, kind)
    encoders = [c for n, c in source.components.items() if n.startswith("text_encoder")]
    assert [c.config["hidden_act"] for c in encoders] == activations
    assert [t.pad_token for t in source.tokenizers.values()] == pads
    assert list(source.tokenizers) == ["tokenizer", "tokenizer_2"][: len(pads)]
    assert all(t.vocab is None and t.tokenizer_json is None for t in source.tokenizers.values())
    assert encoders[-1].config["architectures"] == [
        "CLIPTextModelWithProjection" if kind == "sdxl" else "CLIPTextModel"
    ]


def test_sd2_is_stored_without_its_last_layer(tmp_path: Path) -> None:
    source = opened(tmp_path, "sd2")
    assert source.components["text_encoder"].config["num_hidden_layers"] == 3  # the file has four
    assert source.leftovers == {"last text layer": 12, "text projection": 1, "logit_scale": 1}


def test_the_vae_may_have_the_short_prefix_and_diffusers_names(tmp_path: Path) -> None:
    wanted = components("sd1")["vae"]
    for named in ({f"vae.{n}": a for n, a in wanted.items()}, _old_names(wanted)):
        arrays = without("sd1", "first_stage_model.") | named
        source = open_single_file(write(tmp_path / "m.safetensors", arrays))
        assert {n: t.raw.tobytes() for n, t in source.components["vae"].tensors.items()} == {
            n: a.tobytes() for n, a in wanted.items()
        }
        assert source.unused == ()


def _old_names(vae: Arrays) -> Arrays:
    """As diffusers named the VAE's attention at first."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    named = {}
    for name, array in vae.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        named[f"vae.{name}"] = array[:, :, None, None] if "attentions" in name and array.ndim == 2 else array
    return named


# --------------------------------------------------------------------------------------- scheduler, prediction

V, EPS = "v_prediction", "epsilon"
SPEC = "modelspec.prediction_type"


@pytest.mark.parametrize(
    ("kind", "marks", "metadata", "wanted"),
    [
        ("sd1", (), {}, EPS),
        ("sd1", ("v_pred",), {}, V),
        ("sd1", (), {SPEC: "v"}, V),
        ("sd2", (), {}, None),
        ("sd2", ("v_pred",), {}, V),
        ("sd2", (), {SPEC: "epsilon"}, EPS),
        ("sd2", (), {SPEC: " V-Prediction "}, V),
        ("sd2", (), {SPEC: "unheard of"}, None),
        ("sd2", ("v_pred",), {SPEC: "epsilon"}, V),
        ("sd2", (), {"modelspec.architecture": "stable-diffusion-v2-768-v"}, V),
        ("sd2", (), {"modelspec.architecture": "stable-diffusion-v2-512/lora"}, EPS),
        ("sd2", (), {"modelspec.architecture": "stable-diffusion-xl-v1-base"}, None),
        ("sd2_inpainting", (), {}, EPS),
        ("sdxl", (), {}, EPS),
        ("sdxl", ("v_pred",), {}, V),
        ("sdxl", (), {SPEC: "v_prediction"}, V),
    ],
)
def test_what_the_unet_predicts(
    kind: str, marks: tuple[str, ...], metadata: dict[str, str], wanted: str | None, tmp_path: Path
) -> None:
    source = opened(tmp_path, kind, tensors=dict.fromkeys(marks, ONE), metadata=metadata)
    assert source.scheduler["prediction_type"] == wanted
    assert source.unused == ()
    assert any("unheard of" in hint for hint in source.hints) == ("unheard of" in metadata.values())


TRAINED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}


@pytest.mark.parametrize(
    ("kind", "marks", "wanted"),
    [
        ("sd1", (), {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **TRAINED, **LEADING}),
        ("sd2", (), {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **TRAINED, **LEADING}),
        ("sdxl", (), {"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": False, **TRAINED, **LEADING}),
        ("sdxl", ("v_pred", "ztsnr"), {"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True}),
        ("sdxl", ("ztsnr",), {"prediction_type": EPS, "rescale_betas_zero_snr": False}),
        ("sd1", ("v_pred", "ztsnr"), {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True, **TRAINED}),
        ("sd1_lcm", (), {"_class_name": "LCMScheduler", "original_inference_steps": 50, **TRAINED}),
        ("sdxl_lcm", (), {"_class_name": "LCMScheduler", "set_alpha_to_one": True, **TRAINED}),
    ],
)
def test_schedulers(kind: str, marks: tuple[str, ...], wanted: dict[str, Any], tmp_path: Path) -> None:
    source = opened(tmp_path, kind, tensors=dict.fromkeys(marks, ONE))
    assert {k: source.scheduler[k] for k in wanted} == wanted
    assert any("ztsnr" in hint for hint in source.hints) == (marks == ("ztsnr",))


@pytest.mark.parametrize(
    ("kind", "metadata", "size", "steps", "guidance"),
    [
        ("sd1", {}, 512, 50, 7.5),
        ("sd2", {SPEC: "epsilon"}, 512, 50, 7.5),
        ("sd2", {SPEC: "v"}, 768, 50, 7.5),
        ("sdxl", {}, 1024, 50, 5.0),
        ("sd1_lcm", {}, 512, 4, 8.5),
    ],
)
def test_defaults(kind: str, metadata: dict[str, str], size: int, steps: int, guidance: float, tmp_path: Path) -> None:
    source = opened(tmp_path, kind, metadata=metadata)
    assert source.defaults == {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "width": size,
        "height": size,
    }
    assert source.components["unet"].config["sample_size"] == size // 8


def test_defaults_for_either_outcome_of_a_trial(tmp_path: Path) -> None:
    defaults = opened(tmp_path, "sd2").defaults
    assert "width" not in defaults
    assert defaults["by_prediction_type"] == {EPS: {"width": 512, "height": 512}, V: {"width": 768, "height": 768}}


@pytest.mark.parametrize(
    ("kind", "says"), [("sd1", ""), ("sd2", "Turbo"), ("sdxl", "Lightning"), ("sd1_lcm", "latent consistency")]
)
def test_hints(kind: str, says: str, tmp_path: Path) -> None:
    hints = opened(tmp_path, kind).hints
    assert len(hints) == (1 if says else 0)
    assert all(says in hint for hint in hints)


# ---------------------------------------------------------------------------------- leftovers, unused, missing


def test_leftovers_are_counted_by_kind(tmp_path: Path) -> None:
    ema = {f"model_ema.diffusion_model{i}": ONE for i in range(7)} | {"model_ema.decay": ONE}
    schedule = dict.fromkeys(["betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_one_minus_alphas_cumprod"], ONE)
    schedule |= dict.fromkeys(["posterior_mean_coef1", "log_one_minus_alphas_cumprod", "denoiser.sigmas"], ONE)
    text = "cond_stage_model.transformer."
    more = {f"{text}text_model.embeddings.position_ids": np.arange(77)[None], "cond_stage_model.logit_scale": ONE}
    more |= {f"{text}vision_model.post_layernorm.weight": ONE, "first_stage_model.loss.logvar": ONE, "global_step": ONE}
    source = opened(tmp_path, "sd1", tensors={**ema, **schedule, **more})
    assert source.leftovers == {
        "EMA weights": 8,
        "noise schedule": 8,
        "position_ids": 1,
        "logit_scale": 1,
        "image encoder": 1,
        "training state": 1,
    }
    assert source.unused == ()


def test_unused_tensors_are_named_most_telling_first(tmp_path: Path) -> None:
    more = {
        "stray": np.zeros(1000, np.float32),
        "first_stage_model.extra": ONE,
        f"{UNET}small": ONE,
        f"{UNET}large": np.zeros(9, np.float32),
    }
    source = opened(tmp_path, "sd1", tensors=more)
    assert source.unused == (f"{UNET}large", f"{UNET}small", "first_stage_model.extra", "stray")


@pytest.mark.parametrize(
    ("kind", "gone", "part"),
    [
        ("sd1", f"{UNET}middle_block.0.in_layers.0.weight", "UNet"),
        ("sd1", "first_stage_model.decoder.up.3.block.0.norm1.weight", "VAE"),
        ("sd1", "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.bias", "text encoder"),
        ("sd2", "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight", "text encoder"),
        ("sdxl", "conditioner.embedders.1.model.text_projection", "text encoder 2"),
        ("sdxl", f"{UNET}label_emb.0.2.weight", "UNet"),
    ],
)
def test_a_missing_tensor_is_named(kind: str, gone: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=rf"model\.safetensors.*its {part} lacks 1 tensor: {gone}\. The file"):
        opened(tmp_path, kind, tensors={gone: None})


def test_many_missing_tensors_are_counted(tmp_path: Path) -> None:
    gone = [n for n in arrays_of("sd1") if "emb_layers" in n]
    with pytest.raises(ModelFileError, match=rf"lacks {len(gone)} tensors: .*, \.\.\.\. The file"):
        opened(tmp_path, "sd1", tensors=dict.fromkeys(gone))


def test_a_fused_matrix_of_the_wrong_shape_is_named(tmp_path: Path) -> None:
    name = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"
    with pytest.raises(ModelFileError, match=f"tensor '{name}'.*query, key and value"):
        opened(tmp_path, "sd2", tensors={name: np.zeros((7, 24), np.float16)})


# ---------------------------------------------------------------------------------------------- another VAE


@pytest.mark.parametrize(("kind", "factor"), [("sd1", 0.18215), ("sdxl", 0.13025)])
@pytest.mark.parametrize("form", ["ldm", "diffusers", "bare ldm", "whole checkpoint", "component"])
def test_a_vae_from_another_file(kind: str, factor: float, form: str, tmp_path: Path) -> None:
    wanted = {n: a + 1 for n, a in components("sd1")["vae"].items()}
    checkpoint = single_file("sd1", {**components("sd1"), "vae": wanted})
    named = {
        "ldm": {n: a for n, a in checkpoint.items() if n.startswith("first_stage_model.")},
        "bare ldm": {
            n.removeprefix("first_stage_model."): a for n, a in checkpoint.items() if n.startswith("first_stage_model.")
        },
        "whole checkpoint": checkpoint,
    }.get(form, wanted)
    file = write(tmp_path / "vae.safetensors", named)
    vae: Path | Component = open_vae_file(file) if form == "component" else file
    assert "scaling_factor" not in open_vae_file(file).config
    source = opened(tmp_path, kind, vae=vae)
    found = source.components["vae"]
    assert found.config["scaling_factor"] == factor
    assert found.path == file
    assert {n: t.raw.tobytes() for n, t in found.tensors.items()} == {n: a.tobytes() for n, a in wanted.items()}
    assert source.leftovers["VAE (replaced)"] == len(wanted)


def test_a_vae_from_a_folder_and_instead_of_a_missing_one(tmp_path: Path) -> None:
    import json

    folder = tmp_path / "vae"
    folder.mkdir()
    config = {**VAES["taesd"]}
    (folder / "config.json").write_text(json.dumps(config))
    tiny = {n: np.zeros(s, np.float16) for n, s in declared_shapes("AutoencoderTiny", config).items()}
    write(folder / "diffusion_pytorch_model.safetensors", tiny)
    path = write(tmp_path / "model.safetensors", without("sd1", "first_stage_model."))
    source = open_single_file(path, vae=folder)
    assert source.components["vae"].config["_class_name"] == "AutoencoderTiny"
    assert source.components["vae"].tensors.keys() == tiny.keys()
    assert source.defaults["width"] == 512
    assert "VAE (replaced)" not in source.leftovers


def test_unknown_tensors_of_the_other_vae_are_named(tmp_path: Path) -> None:
    vae = {n: a for n, a in arrays_of("sd1").items() if n.startswith("first_stage_model.")}
    vae |= {"first_stage_model.what": ONE, "first_stage_model.loss.logvar": ONE}
    file = write(tmp_path / "vae.safetensors", vae)
    assert opened(tmp_path, "sd1", vae=file).unused == ("first_stage_model.what",)


def tiny_halves(folder: Path, *, also: bool = True) -> tuple[Path, Arrays]:
    """TAESD as its author distributes it."""
    shapes = declared_shapes("AutoencoderTiny", VAES["taesd"])
    arrays = {n: np.full(s, i, np.float16) for i, (n, s) in enumerate(shapes.items())}
    files = {"encoder": {}, "decoder": {}}
    for name, array in arrays.items():
        half, _, number, leaf = name.split(".", 3)
        files[half][f"{int(number) + (half == 'decoder')}.{leaf}"] = array
    for half, named in files.items():
        if also or half == "decoder":
            write(folder / f"taesd_{half}.safetensors", named)
    return folder / "taesd_decoder.safetensors", arrays


def test_taesd_in_two_halves_and_in_one_file(tmp_path: Path) -> None:
    path, arrays = tiny_halves(tmp_path)
    whole = write(tmp_path / "diffusers.safetensors", arrays)
    for file in (path, tmp_path / "taesd_encoder.safetensors", whole):
        vae = open_vae_file(file)
        assert vae.config["_class_name"] == "AutoencoderTiny"
        assert vae.config["num_decoder_blocks"] == [3, 3, 3, 1]
        assert {n: t.raw.tobytes() for n, t in vae.tensors.items()} == {n: a.tobytes() for n, a in arrays.items()}


def test_half_a_taesd_names_the_file_that_lacks(tmp_path: Path) -> None:
    path, _ = tiny_halves(tmp_path, also=False)
    with pytest.raises(ModelFileError, match=r"decoder of a TAESD without its encoder.*taesd_encoder\.safetensors"):
        open_vae_file(path)


def test_a_sibling_that_is_no_half_is_refused(tmp_path: Path) -> None:
    path, _ = tiny_halves(tmp_path)
    write(tmp_path / "taesd_encoder.safetensors", {"other": ONE})
    with pytest.raises(ModelFileError, match=r"taesd_encoder\.safetensors.*is not the encoder"):
        open_vae_file(path)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"lora_unet_down_blocks_0.lora_down.weight": ONE}, "this is a LoRA, not a VAE"),
        ({"stray": ONE}, "no VAE that tinydiff knows"),
        ({}, "no VAE that tinydiff knows"),
    ],
)
def test_what_is_no_vae(tensors: Arrays, says: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"vae\.safetensors.*{says}.*--vae takes"):
        open_vae_file(write(tmp_path / "vae.safetensors", tensors))


# ---------------------------------------------------------------------------------------------------- refusals


def rows(*names: str) -> Arrays:
    return dict.fromkeys(names, np.zeros((2, 2), np.float16))


VECTORS = np.zeros((2, 768), np.float16)
OTHER_KINDS: list[tuple[str, Arrays, str]] = [
    ("kohya lora", rows("lora_unet_mid_block.lora_down.weight", "lora_unet_mid_block.alpha"), "a LoRA"),
    ("peft lora", rows("unet.mid_block.attentions.0.to_q.lora_A.weight"), "a LoRA"),
    ("diffusers lora", rows("unet.mid_block.to_q_lora.down.weight"), "a LoRA"),
    ("text lora", rows("text_encoder.layers.0.k_proj.lora_linear_layer.up.weight"), "a LoRA"),
    ("flux lora", rows("transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight"), "a LoRA"),
    ("loha", rows("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a"), "a LyCORIS adapter"),
    ("lokr", rows("lycoris_unet_mid_block.lokr_w1"), "a LyCORIS adapter"),
    ("full difference", rows("lora_unet_conv_in.diff"), "a LyCORIS adapter"),
    ("textual inversion", {"emb_params": VECTORS}, "a textual inversion"),
    ("sdxl inversion", {"clip_l": VECTORS, "clip_g": np.zeros((2, 1280), np.float16)}, "a textual inversion"),
    ("diffusers inversion", {"<cat-toy>": VECTORS[0]}, "a textual inversion"),
    ("controlnet", rows("control_model.input_blocks.0.0.weight"), "a ControlNet"),
    ("diffusers controlnet", rows("controlnet_cond_embedding.conv_in.weight"), "a ControlNet"),
    ("ip-adapter", rows("ip_adapter.1.to_k_ip.weight", "image_proj.proj.weight"), "an IP-Adapter"),
    ("t2i-adapter", rows("adapter.body.0.in_conv.weight"), "a T2I-Adapter"),
    ("animatediff", rows("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"), "an AnimateDiff"),
    ("sd3", rows(f"{UNET}joint_blocks.0.context_block.adaLN_modulation.1.bias"), "Stable Diffusion 3"),
    ("sd3 bare", rows("joint_blocks.0.x_block.mlp.fc1.weight"), "Stable Diffusion 3"),
    ("flux", rows(f"{UNET}double_blocks.0.img_attn.norm.key_norm.scale"), "Flux"),
    ("flux bare", rows("double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"), "Flux"),
    ("flux diffusers", rows("single_transformer_blocks.0.attn.to_k.weight"), "Flux"),
    ("flux 2", rows("double_blocks.0.img_attn.qkv.weight", "single_stream_modulation.lin.weight"), r"Flux\.2"),
    ("chroma", rows("double_blocks.0.img_attn.qkv.weight", "distilled_guidance_layer.in_proj.bias"), "Chroma"),
    ("auraflow", rows("double_layers.0.attn.w2q.weight"), "AuraFlow"),
    ("hunyuan", rows("txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.bias"), "HunyuanVideo"),
    ("z-image", rows(f"{UNET}cap_embedder.0.weight"), "Lumina or Z-Image"),
    ("qwen", rows(f"{UNET}transformer_blocks.0.img_mod.1.weight"), "Qwen-Image"),
    ("ltx", rows(f"{UNET}patchify_proj.weight"), "PixArt, Sana or LTX-Video"),
    ("wan", rows("blocks.0.cross_attn.k.weight", "head.modulation"), "Wan, Sana"),
    ("cascade", rows("clip_txt_mapper.weight"), "Stable Cascade"),
    ("cosmos", rows("x_embedder.proj.1.weight"), "another diffusion transformer"),
    ("upscaler", rows("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"), "an image upscaler"),
    ("unet only", rows("input_blocks.0.0.weight", "out.2.bias"), "a UNet alone"),
    ("diffusers unet", rows("down_blocks.0.resnets.0.conv1.weight"), "a UNet alone, in diffusers' names"),
    ("vae only", rows("first_stage_model.encoder.down.0.block.0.conv1.weight"), "a VAE alone.*--vae"),
    ("vae bare", rows("decoder.up.0.block.0.conv1.weight"), "a VAE alone.*--vae"),
    ("diffusers vae", rows("decoder.up_blocks.0.resnets.0.conv1.weight"), "a VAE alone.*--vae"),
    ("taesd", rows("decoder.layers.0.weight", "decoder.layers.2.conv.0.weight"), "a TAESD autoencoder.*--vae"),
    ("taesd half", rows("1.weight", "3.conv.0.weight"), "a TAESD autoencoder.*--vae"),
    ("clip", rows("text_model.encoder.layers.0.mlp.fc1.weight"), "a CLIP model alone"),
    ("open_clip", rows("visual.conv1.weight", "transformer.resblocks.0.ln_1.weight"), "a CLIP model alone"),
    ("t5", rows("encoder.block.0.layer.0.SelfAttention.q.weight"), "a T5 text encoder"),
    ("ema only", rows("model_ema.diffusion_modelinput_blocks00weight"), "nothing but EMA"),
]
FOREIGN_TO_SD: list[tuple[str, str, str]] = [
    ("edm v-prediction", "edm_vpred.sigma_max", r"CosXL: edm_vpred\.sigma_max"),
    ("playground 2.5", "edm_mean", r"Playground v2\.5"),
    ("refiner", "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias", "SDXL refiner"),
    ("controlnet with sd", "control_model.time_embed.0.weight", "a ControlNet"),
    ("video", f"{UNET}input_blocks.8.0.time_mixer.mix_factor", "Stable Video Diffusion"),
    ("merged motion", f"{UNET}input_blocks.1.motion_modules.0.temporal_transformer.norm.weight", "AnimateDiff"),
    ("kolors", f"{UNET}encoder_hid_proj.weight", "Kolors"),
    ("zero123", "cc_projection.weight", "Zero123"),
    ("unclip", "embedder.model.visual.proj", "Stable unCLIP"),
    ("x4 upscaler", f"{UNET}label_emb.weight", "x4 upscaler"),
    ("scaled fp8", f"{UNET}out.2.scale_weight", "scaled fp8"),
    ("fp8 mark", "scaled_fp8", "scaled fp8"),
    ("bitsandbytes", f"{UNET}time_embed.0.weight.absmax", "bitsandbytes"),
]


@pytest.mark.parametrize(("arrays", "says"), [r[1:] for r in OTHER_KINDS], ids=[r[0] for r in OTHER_KINDS])
def test_files_of_other_kinds_are_refused_by_name(arrays: Arrays, says: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", arrays)
    with pytest.raises(UnsupportedModelError, match=rf"model\.safetensors': this is .*{says}"):
        open_single_file(path)


@pytest.mark.parametrize(("name", "says"), [r[1:] for r in FOREIGN_TO_SD], ids=[r[0] for r in FOREIGN_TO_SD])
def test_relatives_of_stable_diffusion_are_refused_by_name(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"model\.safetensors': this is .*{says}"):
        opened(tmp_path, "sd1", tensors={name: ONE})


@pytest.mark.parametrize(
    ("kind", "gone", "error", "says"),
    [
        ("sd1", ("first_stage_model.",), ModelFileError, "has no VAE.*--vae.*diffusers folder"),
        ("sd1", ("cond_stage_model.",), ModelFileError, "has no text encoder.*diffusers folder"),
        ("sdxl", ("conditioner.embedders.1.",), ModelFileError, "has no text encoder 2.*diffusers folder"),
        ("sdxl", ("conditioner.",), ModelFileError, "has no text encoder and no text encoder 2"),
        ("sd1", ("first_stage_model.", "cond_stage_model."), UnsupportedModelError, r"a UNet alone \(sd1\)"),
        ("sd2", ("first_stage_model.", "cond_stage_model."), UnsupportedModelError, r"a UNet alone \(sd2\)"),
        ("sdxl", ("first_stage_model.", "conditioner."), UnsupportedModelError, r"a UNet alone \(sdxl\)"),
    ],
)
def test_missing_parts(kind: str, gone: tuple[str, ...], error: type[TinyDiffError], says: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", without(kind, *gone))
    with pytest.raises(error, match=rf"model\.safetensors.*{says}"):
        open_single_file(path)


@pytest.mark.parametrize("arrays", [{}, {"a": ONE, "b": ONE}, {"x.weight": np.zeros((3, 3, 3), np.int64)}])
def test_files_of_no_known_kind(arrays: Arrays, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no checkpoint that tinydiff knows"):
        open_single_file(write(tmp_path / "model.safetensors", arrays))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"gone\.safetensors"):
        open_single_file(tmp_path / "gone.safetensors")


def test_storage_types_pass_through(tmp_path: Path) -> None:
    parts = components("sd1_one_stage", dtype="float32")
    source = open_single_file(write(tmp_path / "m.safetensors", single_file("sd1_one_stage", parts)))
    tensor = source.components["unet"].tensors["conv_in.weight"]
    assert isinstance(tensor, StoredTensor)
    assert tensor.dtype == "F32"
    assert np.array_equal(tensor.float32(), parts["unet"]["conv_in.weight"])


def test_how_many_refusals_there_are() -> None:
    print(f"{len(OTHER_KINDS) + len(FOREIGN_TO_SD)} kinds of other files, each refused by name")
    names = [row[0] for row in (*OTHER_KINDS, *FOREIGN_TO_SD)]
    assert len(set(names)) == len(names) >= 50
