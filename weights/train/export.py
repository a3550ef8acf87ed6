"""Write the trained model as a diffusers folder in fp16, with its model card, licences and defaults.

    python export.py --run first_light        # from the checkpoints in the cache to ../tinydiff_weights/default

Works on any checkpoint, finished or not. Nothing else is needed to load it:
`StableDiffusionPipeline.from_pretrained(folder).to(torch.float32)`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from denoiser import DenoiserTraining
from diffusers import AutoencoderKL, StableDiffusionPipeline
from paths import DEFAULT_MODEL, HERE, work_folder
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer
from vae import make_vae

MAX_BYTES = 12_000_000  # of the whole folder
DEFAULTS: dict[str, Any] = {  # what the pipeline uses when the caller says nothing
    "num_inference_steps": 20,
    "guidance_scale": 2.0,
    "width": 128,
    "height": 128,
    "prompt_examples": ["a red apple", "fish, noto", "a cat, flat", "a rocket"],
}


def finished_vae(folder: Path) -> AutoencoderKL:
    """The autoencoder after training with its latents normalised (written by first_light.py)."""
    state = torch.load(folder / "vae_final.pt", weights_only=True)
    vae = make_vae()
    vae.load_state_dict(state["vae"])
    vae.register_to_config(scaling_factor=state["scaling_factor"])
    return vae.eval()


def make_pipeline(vae: AutoencoderKL, training: DenoiserTraining) -> StableDiffusionPipeline:
    """diffusers' own pipeline around our networks, without the safety checker (there is nothing it could check)."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=training.text_encoder,
        tokenizer=training.tokenizer,
        unet=training.unet,
        scheduler=training.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def use_published_names(path: Path) -> None:
    """Put back the leading `text_model.` that every published Stable Diffusion folder has and transformers 5 drops."""
    tensors = load_file(path)
    renamed = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in tensors.items()}
    save_file(renamed, path, {"format": "pt"})


def write_folder(pipeline: StableDiffusionPipeline, tokenizer_files: Path, target: Path) -> None:
    """The diffusers layout, every tensor fp16; the tokenizer in CLIP's original two files."""
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(target / part, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(target, safe_serialization=True)
    use_published_names(target / "text_encoder" / "model.safetensors")
    shutil.rmtree(target / "tokenizer")
    shutil.copytree(tokenizer_files, target / "tokenizer")
    (target / "tinydiff.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n")
    for name in ("MODEL_CARD.md", "LICENSES.md"):
        shutil.copyfile(HERE / "ship" / name, target / name)
    for path in target.rglob("*.safetensors"):
        path.chmod(0o644)  # the library writes them for the owner alone
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    if total > MAX_BYTES:
        raise SystemExit(f"{target}: {total:,} bytes, more than the {MAX_BYTES:,} allowed")
    print(f"{target}: {total:,} bytes")


def export(run: str, target: Path) -> None:
    folder = work_folder(run)
    if not (folder / "denoiser.pt").exists():
        raise SystemExit(f"{folder}: no denoiser.pt yet; run first_light.py first")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    training = DenoiserTraining(tokenizer, folder)
    training.average.swap()
    write_folder(make_pipeline(finished_vae(folder), training), folder / "tokenizer", target)
    print(f"after {training.step} steps, {training.spent / 60:.0f} minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="first_light", help="name of the run's folder in the cache")
    parser.add_argument("--to", type=Path, default=DEFAULT_MODEL, help="the folder to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    export(arguments.run, arguments.to)


if __name__ == "__main__":
    main()
