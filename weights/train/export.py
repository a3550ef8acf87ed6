"""Write the trained model as a diffusers folder in fp16, with its sibling, model card, licences and defaults.

    python export.py --run default --to FOLDER        # from the checkpoints in the cache, finished or not

Nothing else is needed to load it: `StableDiffusionPipeline.from_pretrained(FOLDER).to(torch.float32)`. Weights larger
than SHARD are split with an index, as diffusers does.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from denoiser import DenoiserTraining, make_scheduler
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline
from icons import SIZE
from paths import HERE
from safetensors.torch import load_file, save_file

MAX_BYTES = 56_000_000  # of the whole folder
SHARD = "15MB"  # of one file
DEFAULTS: dict[str, Any] = {  # what the pipeline uses when the caller says nothing
    "num_inference_steps": 20,
    "guidance_scale": 3.0,
    "width": SIZE,
    "height": SIZE,
    "prompt_examples": ["a red apple", "fish, noto", "a cat, flat", "a cat left of a dog"],
}


def make_pipeline(vae: AutoencoderKL, training: DenoiserTraining) -> StableDiffusionPipeline:
    """diffusers' own pipeline around our networks, without the safety checker (there is nothing it could check)."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=training.text_encoder,
        tokenizer=training.tokenizer,
        unet=training.unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def use_published_names(path: Path) -> None:
    """Put back the leading `text_model.` that every published Stable Diffusion folder has and transformers 5 drops."""
    tensors = load_file(path)
    renamed = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in tensors.items()}
    save_file(renamed, path, {"format": "pt"})


def forget_origin(target: Path) -> None:
    """Take the path of an earlier export, which diffusers notes, out of the networks' configs."""
    for path in target.glob("*/config.json"):
        config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_folder(
    pipeline: StableDiffusionPipeline, tiny: AutoencoderTiny | None, tokenizer_files: Path, target: Path
) -> None:
    """The diffusers layout, every tensor fp16; the tokenizer in CLIP's original two files; the sibling in `taesd`."""
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler", "taesd"):
        shutil.rmtree(target / part, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    pipeline.to(dtype=torch.float16)
    for network in (pipeline.unet, pipeline.vae, *([tiny] if tiny is not None else [])):
        network.to(memory_format=torch.contiguous_format)  # a file has no other
    pipeline.save_pretrained(target, safe_serialization=True)
    shutil.rmtree(target / "unet")
    pipeline.unet.save_pretrained(target / "unet", max_shard_size=SHARD)
    use_published_names(target / "text_encoder" / "model.safetensors")
    shutil.rmtree(target / "tokenizer")
    shutil.copytree(tokenizer_files, target / "tokenizer")
    if tiny is not None:
        tiny.to(dtype=torch.float16).save_pretrained(target / "taesd")
    forget_origin(target)
    (target / "tinydiff.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n")
    for name in ("MODEL_CARD.md", "LICENSES.md"):
        shutil.copyfile(HERE / "ship" / name, target / name)
    for path in target.rglob("*.safetensors"):
        path.chmod(0o644)  # the library writes them for the owner alone
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    if total > MAX_BYTES:
        raise SystemExit(f"{target}: {total:,} bytes, more than the {MAX_BYTES:,} allowed")
    print(f"{target}: {total:,} bytes")


def export(
    training: DenoiserTraining, vae: AutoencoderKL, tiny: AutoencoderTiny | None, tokenizer_files: Path, target: Path
) -> None:
    """Write the averaged weights; the networks are fp16 afterwards, so this comes last."""
    training.average.swap()
    write_folder(make_pipeline(vae, training), tiny, tokenizer_files, target)
    print(f"after {training.step} steps, {training.spent / 60:.0f} minutes")


def main() -> None:
    from train import open_run

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="default", help="name of the run's folder in the cache")
    parser.add_argument("--to", type=Path, required=True, help="the folder to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    training, vae, tiny, tokenizer_files = open_run(options.run)
    export(training, vae, tiny, tokenizer_files, options.to)


if __name__ == "__main__":
    main()
