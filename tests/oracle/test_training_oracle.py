"""Training the UNet and the text encoder: a run that was stopped goes on as if it had not been, and Muon turns matrices
into nearly orthogonal ones. (Nothing is learned here: random latents, random ids.) And words that no caption shows:
each token is to say what the teacher's token in its place says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

TRAIN = Path(__file__).resolve().parents[2] / "weights" / "train"
MODULES = (
    "muon",
    "denoiser",
    "few_steps",
    "text_encoder",
    "profile_step",
    "captions",
    "unseen_captions",
    "unseen_words",
    "nearest_words",
    "compose",
    "dataset",
    "recombine",
)


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """Modules of weights/train, imported from their folder and forgotten afterwards."""
    monkeypatch.syspath_prepend(str(TRAIN))
    before = set(sys.modules)
    yield {name: __import__(name) for name in MODULES}
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(TRAIN)):
            del sys.modules[name]


def start(train: dict[str, ModuleType], folder: Path) -> Any:
    torch.manual_seed(0)
    ends = train["profile_step"].Ends()  # stands for a tokenizer
    networks = train["text_encoder"].make_text_encoder(ends), train["denoiser"].make_unet(4)
    return train["denoiser"].DenoiserTraining(ends, *networks, folder)


def step(training: Any) -> None:
    torch.manual_seed(training.step)
    training.set_rates(0.7)
    training.train_step(torch.randn(2, 4, 8, 8), torch.randint(0, 8000, (2, 77)))


def test_a_stopped_run_goes_on_as_if_it_had_not_been(train: dict[str, ModuleType], tmp_path: Path) -> None:
    whole = start(train, tmp_path)
    first = [parameter.detach().clone() for parameter in whole.parameters]
    step(whole)
    whole.save()
    stopped = start(train, tmp_path)
    assert (stopped.step, stopped.samples) == (1, 2)
    for training in (whole, stopped):
        step(training)
    for mine, other in zip(whole.parameters, stopped.parameters, strict=True):
        np.testing.assert_array_equal(mine.detach().numpy(), other.detach().numpy())
    for mine, other in zip(whole.average.values, stopped.average.values, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())
    moved = [bool((new != old).any()) for new, old in zip(whole.parameters, first, strict=True)]
    assert np.mean(moved) > 0.99  # but for words that no caption had


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 24, 24)])
def test_orthogonal_matrices(train: dict[str, ModuleType], shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(train["muon"].orthogonalise(torch.randn(shape)).float())
    assert 0.4 < float(values.min()) <= float(values.max()) < 1.3


def test_few_steps_go_on_from_the_additions_of_a_model(train: dict[str, ModuleType], tmp_path: Path) -> None:
    file = TRAIN / "master" / "few_steps.safetensors"
    for go_on in (file, None):
        train["few_steps"].FewSteps(TRAIN / "master", tmp_path, go_on=go_on).export(tmp_path / "same.safetensors")
        stored, found = load_file(file), load_file(tmp_path / "same.safetensors")
        assert stored.keys() == found.keys()
        assert all(torch.equal(stored[name], found[name]) for name in stored) == (go_on == file)


WORDS = {"woodcutter": "axe", "timepieces": "alarm-clock", "fir": "palm-tree", "sparklers": "sparkler"}


def unseen_words(train: dict[str, ModuleType], folder: Path) -> Any:
    torch.manual_seed(0)
    concept, tokenizer = train["captions"].Concept, CLIPTokenizer.from_pretrained(TRAIN / "master" / "tokenizer")
    concepts = [concept(icon, (icon.replace("-", " "),), ()) for icon in ("axe", "alarm-clock", "palm-tree", "fish")]
    encoder = CLIPTextModel.from_pretrained(TRAIN / "master" / "text_encoder").float()
    captions = train["unseen_captions"].Captions(tokenizer, tuple(concepts), WORDS)
    return train["unseen_words"].UnseenWords(encoder, captions, folder)


class MadeUpTeacher:
    """Every word and every frame around it is one of three directions; a word known to none lies between all."""

    MEANINGS = (
        {"axe", "chopper", "woodcutter", "hatchets"},
        {"clock", "timepiece", "tick"},
        {"fish", "carp", "finned"},
    )

    def words(self) -> list[str]:
        return ["chopper", "timepiece", "carp", "hatchets", "justice", "axe", "it"]

    def embed(self, texts: list[str]) -> torch.Tensor:
        near = [[float(text.removeprefix("a ") in meaning) for meaning in self.MEANINGS] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(near) + 0.3, dim=-1)


def test_nearest_words(train: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    nearest, concept = train["nearest_words"], train["captions"].Concept
    tags = {"axe": ["woodcutter", "hatchet"], "alarm-clock": ["tick"], "fish": ["finned"]}
    monkeypatch.setattr(nearest, "read_tags", lambda packages: tags)
    monkeypatch.setattr(nearest, "english", lambda packages: ["finned", "tick"])
    monkeypatch.setattr(nearest, "LEAST", 1.1)
    concepts = (
        concept("axe", ("axe",), ("carp",)),  # a synonym of its own, whatever the teacher says of it
        concept("alarm-clock", ("clock",), ()),
        concept("fish", ("fish",), ()),
    )
    found = nearest.nearest_words(concepts, Path(), MadeUpTeacher())
    # no names, nothing of two letters, nothing far from all
    wanted = {"chopper": "axe", "timepiece": "alarm-clock", "carp": "axe", "tick": "alarm-clock", "finned": "fish"}
    assert found == wanted | {"hatchets": "axe"}


def test_a_held_out_synonyms_tag_says_nothing(train: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    nearest, concept = train["nearest_words"], train["captions"].Concept
    concepts = tuple(concept(name, (name,), ()) for name in ("axe", "fish"))
    monkeypatch.setattr(nearest, "LEAST", 1.0)
    for tag, known in (
        ("hatchet", False),
        ("adze", True),
    ):  # both mean nothing to the teacher, but that of the tag is theirs
        monkeypatch.setattr(nearest, "read_tags", lambda packages, tag=tag: {"axe": [tag], "fish": ["finned"]})
        monkeypatch.setattr(nearest, "english", lambda packages, tag=tag: [tag])
        assert (tag in nearest.nearest_words(concepts, Path(), MadeUpTeacher())) == known


def test_counterparts_of_tokens(train: dict[str, ModuleType]) -> None:
    counterparts = train["unseen_captions"].counterparts
    assert counterparts(2, 2) == [0, 1]  # an article and a word for an article and a word
    assert counterparts(4, 2) == [0, 1, 1, 1]
    assert counterparts(2, 4) == [0, 3]
    assert counterparts(3, 4) == [0, 2, 3]
    assert counterparts(1, 3) == [2]
    assert counterparts(3, 1) == [0, 0, 0]


@pytest.mark.parametrize("length", [6, 24, 77])  # 6: cut within the caption
def test_captions_with_an_unseen_word_are_the_teachers_but_for_that_word(
    train: dict[str, ModuleType], tmp_path: Path, length: int
) -> None:
    captions = unseen_words(train, tmp_path).captions
    words = {token for word in WORDS for token in captions.tokens(word)}
    names = {token for concept in captions.concepts for token in captions.tokens(concept.names[0])}
    others, seen = {captions.tokens(article)[0] for article in ("a", "an")}, set()
    for _ in range(200):
        example = captions.unseen(length)
        assert len(example.pupil) == len(example.teacher) == len(example.places) == length
        assert example.pupil[0] == captions.start
        assert example.pupil[-1] == example.teacher[-1] == captions.end
        for token, place in zip(example.pupil[:-1], example.places, strict=False):
            there = example.teacher[min(place, length - 1)]
            if token in words:
                assert there in names or place >= length - 1
                seen.add(token)
            else:
                assert token == there or {token, there} <= others or place >= length - 1
        known = captions.known(length)
        assert known.pupil == known.teacher
        assert known.places == list(range(length))
    assert not seen & set(captions.tokens("sparklers"))  # not one of these concepts
    assert len(seen) >= 4


def test_unseen_words_stopped_goes_on_as_if_it_had_not_been(train: dict[str, ModuleType], tmp_path: Path) -> None:
    whole = unseen_words(train, tmp_path)
    teacher = [parameter.clone() for parameter in whole.teacher.parameters()]
    made = train["unseen_captions"].Batches(whole.captions, 8, 0)
    whole.train_step(made.batch(0))
    whole.save()
    stopped = unseen_words(train, tmp_path)
    assert stopped.step == 1
    batch = made.batch(1)
    for training in (whole, stopped):
        training.train_step(batch)
    for mine, other in zip(whole.pupil.parameters(), stopped.pupil.parameters(), strict=True):
        np.testing.assert_array_equal(mine.detach().numpy(), other.detach().numpy())
    for mine, other in zip(whole.teacher.parameters(), teacher, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())


def test_tokens_of_known_captions_stay_and_the_others_learn(train: dict[str, ModuleType], tmp_path: Path) -> None:
    training = unseen_words(train, tmp_path)
    known, captions = training.captions.known_tokens(), [training.captions.known(24) for _ in range(500)]
    assert {token for example in captions for token in example.pupil} <= known
    for step in range(3):
        training.train_step(train["unseen_captions"].Batches(training.captions, 8, 0).batch(step))
    before, after = (network.get_input_embeddings().weight for network in (training.teacher, training.pupil))
    moved = set(torch.nonzero((after != before).any(1)).flatten().tolist())
    new = {token for word in WORDS for token in training.captions.tokens(word)} - known
    assert moved
    assert moved <= new


def test_a_new_encoder_is_written_under_the_old_names(train: dict[str, ModuleType], tmp_path: Path) -> None:
    training, file = unseen_words(train, tmp_path), tmp_path / "model.safetensors"
    before = load_file(TRAIN / "master" / "text_encoder" / "model.safetensors")
    file.write_bytes((TRAIN / "master" / "text_encoder" / "model.safetensors").read_bytes())
    with torch.no_grad():
        for parameter in training.pupil.parameters():
            parameter.mul_(2)
    train["unseen_words"].write_encoder(training.pupil, file)
    after = load_file(file)
    assert after.keys() == before.keys()
    for name, value in after.items():
        assert value.dtype == torch.float16
        np.testing.assert_array_equal(value.numpy(), 2 * before[name].numpy(), err_msg=name)


def test_halves_of_two_scenes_make_a_new_one(train: dict[str, ModuleType]) -> None:
    """Latents that say which row they are of: each half comes from its own; kept pairings are never made."""
    compose, item, recombine = train["compose"], train["dataset"].Item, train["recombine"]

    items = [
        item(row, row % 2, None if row % 5 else "red", row + 1, compose.Scene(layout, (112, 112), compose.WHITE))
        for row, layout in enumerate(compose.LAYOUTS * 10)
    ]
    scenes = SimpleNamespace(items=items, bounds=[(0, 30)], kept_scenes=[item(1, 1, None, 8)])
    chooser, rng, side = recombine.Recombination(scenes), np.random.default_rng(0), 32
    mixed = recombine.Mixer(torch.arange(30.0).view(30, 1, 1, 1).expand(30, 1, side, side))
    new = 0
    for row in [*range(30)] * 20:
        seen, other, cut = chooser.choose(row, rng)
        first, second = items[row], items[other]
        assert seen.concept == first.concept
        assert seen.second == second.second
        assert (seen.concept, seen.second) != (1, 8)
        assert (first.style, first.scene.layout) == (second.style, second.scene.layout)
        if cut == recombine.WHOLE:
            assert other == row
        else:
            assert first.colour is None
            assert second.colour is None
            new += other != row
        picture = mixed(torch.tensor([[row, other, cut]]))[0, 0]
        assert float(picture[0, 0]) == row
        assert float(picture[-1, -1]) == other
        border = {"left": picture[0, 15:17], "above": picture[15:17, 0], "big": picture[0, 19:21]}
        assert border[first.scene.layout].tolist() == [row, other]
    assert new > 200
