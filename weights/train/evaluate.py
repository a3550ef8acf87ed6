"""All figures of the model card, from an exported folder: figures.json, a table on the screen, grids as PNG.

    python evaluate.py FOLDER --icons DIR --run default --output OUT

The judge (judge.py) is trained first when the run has none. `--quick` takes a fifth of the samples.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from captions import with_article
from dataset import MOST_SCENES, Dataset, Item
from device import DEVICE, prepare
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from few_steps import attach
from judge import Icons, Judge, accuracy, train_judge
from measures import (
    agreement,
    decibels,
    nearest_table,
    resized,
    scene_agreement,
    sharpness,
    through_vae,
    tinydiff_picture,
)
from nearest_words import open_nearest_words
from paths import Log, work_folder
from samples import PROMPTS, draw_pictures, lay_out, load_pipeline, save_small, to_array
from tiny_autoencoder import tiny_psnr
from vae import psnr

GUIDED = {"steps": 20, "guidance": 3.0}
FEW = {"steps": 4, "guidance": 1.0}
SEEDS = (0, 1, 2, 3)
SCENE_WORDS = {"left": "{x} left of {y}", "above": "{x} above {y}", "big": "a big {x0} and a small {y0}"}
MORE_PROMPTS = (
    "a pear, noto", "a crocodile, flat", "a violin", "a butterfly, fluent", "a tornado, twemoji", "a shark",
    "a burger, fluent", "an alarm clock, noto", "a lemon", "a ghost on a purple background", "a crown, flat",
    "a carrot, twemoji", "a hen", "a robot", "a tulip, noto", "a moon on black", "a spider, flat", "a cup of coffee",
    "a tree above a frog", "a penguin and a fish, noto", "a big duck and a small bell", "a laughing face",
    "a police car light", "a guitar, fluent",
)  # fmt: skip


class Bench:
    """The model, the data and the judge, with a sampler that takes prompts and gives arrays."""

    def __init__(
        self, model: Path, dataset: Dataset, judge: Judge, share: float, setting: dict[str, Any], folder: Path
    ) -> None:
        self.folder = folder  # the run's
        self.model, self.dataset, self.judge, self.share, self.setting = model, dataset, judge, share, setting
        self.pipeline: StableDiffusionPipeline = load_pipeline(model)
        self.size = int(self.pipeline.unet.config.sample_size) * 8  # pixels of the model's pictures
        if setting == FEW:
            attach(self.pipeline.unet, model / "few_steps.safetensors")

    def draw(self, prompts: list[str], first_seed: int = 0) -> np.ndarray:
        seeds = list(range(first_seed, first_seed + len(prompts)))
        return to_array(draw_pictures(self.pipeline, prompts, seeds, **self.setting))

    def some(self, items: list[Any], most: int) -> list[Any]:
        """At most `most` (times the share), evenly spaced."""
        count = max(1, min(len(items), round(most * self.share)))
        return [items[int(i * len(items) / count)] for i in range(count)]

    def prompt(self, item: Item, word: str | None = None) -> str:
        name = with_article(word or self.dataset.concepts[item.concept].names[-1])
        return f"{name}, {self.dataset.styles[item.style]}"


def retrieval(bench: Bench) -> dict[str, float]:
    """Every trained concept once, the styles by turns; and how its last 200 compare with training pictures."""
    shown = set(bench.dataset.shown)
    items = [Item(c, (c + k) % 4) for c in range(len(bench.dataset.concepts)) for k in (0,) if (c, c % 4) in shown]
    items = bench.some(items, 400)
    pictures = bench.draw([bench.prompt(item) for item in items])
    found = agreement(bench.judge, pictures, items)
    real = resized(np.stack([bench.dataset.draw(item) for item in items]), pictures.shape[1])
    sharp = sharpness(pictures) / sharpness(through_vae(bench.pipeline.vae, real))
    return {"concept": found["concept"], "style": found["style"], "pictures": len(items), "sharpness": sharp}


def held_out_pairs(bench: Bench) -> dict[str, float]:
    items = [Item(c, s) for c, s in bench.dataset.hidden]
    if not items:
        return {"concept": 0.0, "style": 0.0, "pictures": 0}
    pictures = bench.draw([bench.prompt(item) for item in items], 1000)
    return agreement(bench.judge, pictures, items) | {"pictures": len(items)}


def held_out_synonyms(bench: Bench) -> dict[str, float]:
    """Unseen words beside the known name of the same concept, same seeds."""
    known = [(c, word) for c, concept in enumerate(bench.dataset.concepts) for word in concept.held_out]
    items, words = [Item(c, k % 4) for k, (c, _) in enumerate(known)], [word for _, word in known]
    if not items:
        return {"synonym": 0.0, "name": 0.0, "pictures": 0}
    unseen = bench.draw([bench.prompt(item, word) for item, word in zip(items, words, strict=True)], 2000)
    named = bench.draw([bench.prompt(item) for item in items], 2000)
    return {
        "synonym": agreement(bench.judge, unseen, items)["concept"],
        "name": agreement(bench.judge, named, items)["concept"],
        "pictures": len(items),
    }


def plain_words(bench: Bench) -> dict[str, float]:
    """Words of no caption, held-out synonyms apart, by the concept that the sentence model says they mean."""
    nearest = open_nearest_words(bench.dataset.packages, bench.dataset.concepts, bench.folder) or {}
    rows = {concept.icon: row for row, concept in enumerate(bench.dataset.concepts)}
    told = {word for concept in bench.dataset.concepts for word in (*concept.synonyms, *concept.held_out)}
    means = [(rows[icon], word) for word, icon in nearest.items() if icon in rows and word not in told]
    if not means:
        return {"concept": 0.0, "pictures": 0}
    found = bench.some(means, 200)
    items = [Item(row, k % 4) for k, (row, _) in enumerate(found)]
    pictures = bench.draw([bench.prompt(item, word) for item, (_, word) in zip(items, found, strict=True)], 6000)
    return {"concept": agreement(bench.judge, pictures, items)["concept"], "pictures": len(items)}


def scenes(bench: Bench) -> dict[str, float]:
    """New pairings on white, not among the training scenes."""
    kept = bench.dataset.kept_scenes[:96]
    if not kept:  # of a few concepts all pairs are trained
        return {"both": 0.0, "each": 0.0, "pictures": 0}
    items = bench.some(kept, 96)
    prompts = []
    for item in items:
        x, y = (bench.dataset.concepts[row].names[-1] for row in (item.concept, item.second))
        base = SCENE_WORDS[item.scene.layout].format(x=with_article(x), y=with_article(y), x0=x, y0=y)
        prompts.append(f"{base}, {bench.dataset.styles[item.style]}")
    pictures = bench.draw(prompts, 3000)
    real = np.stack([bench.dataset.draw(item) for item in items])
    found = scene_agreement(bench.judge, pictures, items)
    ceiling = scene_agreement(bench.judge, real, items)
    return found | {"both, real scenes": ceiling["both"], "pictures": len(items)}


def copies(bench: Bench) -> dict[str, float]:
    """Concepts without a style word, two seeds each."""
    concepts = bench.some(list(bench.dataset.concepts), 64)
    prompts = [with_article(concept.names[-1]) for concept in concepts]
    return nearest_table(bench.judge, bench.draw(prompts, 4000), bench.draw(prompts, 5000), bench.dataset)


def autoencoders(bench: Bench) -> dict[str, float]:
    tiny = None
    if (bench.model / "taesd").exists():
        tiny = AutoencoderTiny.from_pretrained(bench.model / "taesd").float().to(DEVICE)
    found = {}
    for name, pictures in bench.dataset.probes().items():
        pictures = resized(pictures, bench.size)
        found[f"vae, {name}"] = psnr(bench.pipeline.vae, pictures)
        if tiny is not None:
            found[f"taesd, {name}"] = tiny_psnr(tiny, pictures)
    return found


def parity(bench: Bench) -> dict[str, float]:
    """tinydiff against diffusers, same files, seed and scheduler; and tinydiff's seconds for one picture."""
    prompt, seed = "a red apple", 7
    start = time.perf_counter()
    ours = tinydiff_picture(bench.model, prompt, seed, **bench.setting)
    seconds = time.perf_counter() - start
    theirs = to_array(draw_pictures(bench.pipeline, [prompt], [seed], **bench.setting))[0]
    return {"decibels": decibels(ours, theirs), "seconds with tinydiff, opening included": seconds}


def draw_grids(bench: Bench, output: Path) -> None:
    """48 prompts, a row a prompt pair, four seeds each, reduced to 96 pixels; one seed of 24 in full size; synonyms."""
    prompts = [*PROMPTS, *MORE_PROMPTS]
    repeated = [prompt for prompt in prompts for _ in SEEDS]
    pictures = draw_pictures(bench.pipeline, repeated, list(SEEDS) * len(prompts), **bench.setting)
    grid = lay_out(pictures, repeated, 16)
    save_small(grid.resize((grid.width * 3 // 4, grid.height * 3 // 4)), output / "grid.png")
    save_small(lay_out(pictures[: 24 * len(SEEDS) : len(SEEDS)], prompts[:24], 6), output / "samples.png", 300_000)
    words = [word for concept in bench.dataset.concepts for word in concept.held_out]
    if words:
        unseen = draw_pictures(
            bench.pipeline, [f"{with_article(word)}, fluent" for word in words], [1] * len(words), **bench.setting
        )
        save_small(lay_out(unseen, words, 10), output / "synonyms.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a diffusers folder")
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--concepts", type=int)
    parser.add_argument("--run", default="default", help="where the judge lies")
    parser.add_argument("--judge-minutes", type=float, default=8)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a fifth of the samples")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=GUIDED["steps"])
    parser.add_argument("--guidance", type=float, default=GUIDED["guidance"])
    parser.add_argument("--few", action="store_true", help="4 steps without guidance, with the additions")
    parser.add_argument("--only", nargs="*", help="names of the measures to take")
    options = parser.parse_args()
    prepare(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    folder = work_folder(options.run)
    dataset = Dataset(options.icons, work_folder("."), options.concepts, MOST_SCENES)
    icons = Icons(dataset)
    judge = train_judge(icons, options.judge_minutes, folder, Log(folder / "judge.log"))
    setting = FEW if options.few else {"steps": options.steps, "guidance": options.guidance}
    bench = Bench(options.model, dataset, judge, 0.2 if options.quick else 1.0, setting, folder)
    named, styled = accuracy(judge, icons)
    figures: dict[str, Any] = {"setting": setting, "judge": {"concept": named, "style": styled}}
    measures = (retrieval, held_out_pairs, held_out_synonyms, plain_words, scenes, copies, autoencoders, parity)
    for measure in measures:
        if options.only is None or measure.__name__ in options.only:
            figures[measure.__name__] = measure(bench)
            print(measure.__name__, json.dumps(figures[measure.__name__]), flush=True)
    if options.only is None or "grids" in options.only:
        draw_grids(bench, options.output)
    (options.output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
