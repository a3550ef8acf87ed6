"""Train the small default model from nothing to a diffusers folder with one command, on one CPU core:

    pip install "tinydiff[train]"
    npm pack @iconify-json/noto @iconify-json/fluent-emoji-flat emojibase-data     # in DIR; nothing is installed
    nice -n 10 python weights/train/first_light.py --icons DIR --vae-minutes 40 --minutes 115

`--minutes` is the budget of both stages together. Kill it whenever you like: the same command goes on from the last
checkpoint (every three minutes) in `$XDG_CACHE_HOME/tinydiff-train/RUN`, where log.txt and grid.png can be watched.
Stages: render pictures (data.py), learn a vocabulary (vocab.py), the autoencoder (vae.py), then text encoder and UNet
on its latents (denoiser.py); at the end export.py writes `weights/tinydiff_weights/default`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import vocab
from data import Dataset, corpus, load
from denoiser import DenoiserTraining, train_denoiser
from export import export, finished_vae, make_pipeline
from paths import DEFAULT_MODEL, Log, save_atomically, work_folder
from samples import draw_grid
from transformers import CLIPTokenizer
from vae import encode_all, normalise_latents, psnr, train_vae

VOCABULARY = 2048  # tokens: 512 single bytes, the merges, start and end


def tokenizer_stage(icons: Path, dataset: Dataset, folder: Path, log: Log) -> CLIPTokenizer:
    target = folder / "tokenizer"
    if not (target / "merges.txt").exists():
        merges = vocab.learn_merges(corpus(icons, dataset.concepts), VOCABULARY - 512 - 2)
        vocab.write_tokenizer(target, merges)
    tokenizer = CLIPTokenizer.from_pretrained(target)
    log(f"vocabulary: {len(tokenizer)} tokens")
    return tokenizer


def vae_stage(dataset: Dataset, minutes: float, folder: Path, log: Log) -> None:
    """Train the autoencoder unless its final file exists; the final file has normalised latents."""
    final = folder / "vae_final.pt"
    if final.exists():
        return
    pictures = dataset.flat_pictures()
    vae = train_vae(pictures, minutes, folder, log)
    scaling_factor = normalise_latents(vae, encode_all(vae, pictures))
    log(f"latents normalised: scaling factor {scaling_factor:.4f}, still {psnr(vae, pictures):.2f} dB")
    save_atomically({"vae": vae.state_dict(), "scaling_factor": scaling_factor}, final)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--icons", type=Path, required=True, help="folder with the .tgz files of npm pack")
    parser.add_argument("--minutes", type=float, default=115, help="training time of both stages together")
    parser.add_argument("--vae-minutes", type=float, help="share of the autoencoder (a third)")
    parser.add_argument("--run", default="first_light", help="name of the run's folder in the cache")
    parser.add_argument("--to", type=Path, default=DEFAULT_MODEL, help="the folder that export writes")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    folder = work_folder(arguments.run)
    log = Log(folder / "log.txt")
    vae_minutes = arguments.vae_minutes or arguments.minutes / 3

    dataset = load(arguments.icons)
    tokenizer = tokenizer_stage(arguments.icons, dataset, folder, log)
    vae_stage(dataset, vae_minutes, folder, log)
    vae = finished_vae(folder)
    latents = encode_all(vae, dataset.flat_pictures()) * vae.config.scaling_factor

    def save_grid(training: DenoiserTraining) -> None:
        draw_grid(make_pipeline(vae, training)).save(folder / "grid.png")

    training = DenoiserTraining(tokenizer, folder)
    train_denoiser(training, dataset, latents, arguments.minutes - vae_minutes, log, save_grid)
    export(arguments.run, arguments.to)


if __name__ == "__main__":
    main()
