"""What a folder is that has no model_index.json, so that the refusal can say it."""

from __future__ import annotations

from pathlib import Path

from tinydiff_weights.errors import ModelFileError, TinyDiffError, UnsupportedModelError
from tinydiff_weights.jsonfile import read_json
from tinydiff_weights.sniff import CONVERT_HINT, PICKLE_SUFFIXES
from tinydiff_weights.weight_files import list_folder

# File names that only one kind of folder has.
_TELLING = {
    "pytorch_lora_weights.safetensors": "a LoRA, which changes a model and is none by itself",
    "pytorch_lora_weights.bin": "a LoRA, which changes a model and is none by itself",
    "adapter_config.json": "a LoRA (PEFT), which changes a model and is none by itself",
    "learned_embeds.safetensors": "a textual inversion, which adds words to a model",
    "learned_embeds.bin": "a textual inversion, which adds words to a model",
    "modular_model_index.json": "a modular pipeline of diffusers, which tinydiff does not read",
}
_PARTS = {
    "AutoencoderKL": "a VAE alone; open a whole model and give this one with --vae",
    "AutoencoderTiny": "a VAE alone (TAESD); open a whole model and give this one with --vae",
    "UNet2DConditionModel": "a UNet alone; open the folder above it, which has model_index.json",
    "ControlNetModel": "a ControlNet, which steers a model and is none by itself",
    "CLIPTextModel": "a text encoder alone; open the folder above it, which has model_index.json",
}


def explain_folder(folder: Path) -> TinyDiffError:
    """The error for a folder without model_index.json. Itself raises ModelFileError if it cannot be listed."""
    names = list_folder(folder)
    if not names:
        return ModelFileError(folder, "is an empty folder", hint="Fetch the model again")
    for name, what in _TELLING.items():
        if name in names:
            return UnsupportedModelError(f"'{folder}': is {what}")
    if "config.json" in names:
        config = read_json(folder / "config.json")
        listed = config.get("architectures")
        kind = config.get("_class_name") or (listed[0] if isinstance(listed, list) and listed else None)
        if isinstance(kind, str):
            what = _PARTS.get(kind, f"a single {kind[:60]!r}, not a whole Stable Diffusion model")
            return UnsupportedModelError(f"'{folder}': is {what}")
    files = [n for n in names if n.endswith(".safetensors")]
    if files:
        hint = f"Open one of its files: {', '.join(files[:5])}"
        return ModelFileError(folder, "has no model_index.json, so it is no diffusers folder", hint=hint)
    pickles = [n for n in names if Path(n).suffix.lower() in PICKLE_SUFFIXES]
    if pickles:
        return ModelFileError(folder, f"has no model but the pickle {pickles[0]!r}", hint=CONVERT_HINT)
    return ModelFileError(folder, "has no model_index.json, so it is no diffusers folder")
