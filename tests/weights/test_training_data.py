"""What the default model learns from: lists of what is held out, captions, scenes, and the vocabulary learner.

Made-up icons and concepts stand in for the packages, which are not part of the tests.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

TRAIN = Path(__file__).resolve().parents[2] / "weights" / "train"
STYLES = ("noto", "fluent", "flat", "twemoji")


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The modules of weights/train that need no torch, imported from their folder and forgotten afterwards."""
    monkeypatch.syspath_prepend(str(TRAIN))
    names = ("icons", "compose", "captions", "vocab")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    modules = {name: __import__(name) for name in names}
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    return modules


def held_out() -> dict[str, Any]:
    return json.loads((TRAIN / "held_out.json").read_text())


def icon(colour: tuple[int, int, int], side: int) -> np.ndarray:
    """A filled square that leaves a transparent border of a quarter."""
    picture = np.zeros((side, side, 4), np.uint8)
    picture[side // 4 : -side // 4, side // 4 : -side // 4] = (*colour, 255)
    return picture


def test_held_out_lists_name_known_concepts_and_leave_the_rest_to_training(train: dict[str, ModuleType]) -> None:
    names, lists = train["captions"].read_names(), held_out()
    assert len(names) == 1486
    assert len(lists["pairs"]) == len({tuple(pair) for pair in lists["pairs"]}) == 40
    assert len(lists["synonyms"]) == len({tuple(pair) for pair in lists["synonyms"]}) == 60
    assert {concept for concept, _ in lists["pairs"] + lists["synonyms"]} <= names.keys()
    assert Counter(style for _, style in lists["pairs"]) == dict.fromkeys(STYLES, 10)
    assert not set(lists["autoencoder"]) & names.keys()


def test_no_held_out_synonym_is_a_name(train: dict[str, ModuleType]) -> None:
    known = {word for names in train["captions"].read_names().values() for name in names for word in name.split()}
    assert not {word for _, word in held_out()["synonyms"]} & known


def test_a_name_belongs_to_one_concept(train: dict[str, ModuleType]) -> None:
    concepts = train["captions"].read_names()
    owners = Counter(name for names in concepts.values() for name in names)
    twice = {"cat", "dog", "pig", "rabbit"}  # the whole animal and its face: either picture is right
    assert {name for name, count in owners.items() if count > 1} == twice
    assert not twice & {names[-1] for names in concepts.values()}  # the name that the evaluation types


def test_held_out_words_stay_held_out_when_other_concepts_carry_them(
    train: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = train["captions"]
    tags = {"axe": ["hatchet", "woodcutter"], "hammer": ["hatchet", "blacksmith"], "old-man": ["died"]}
    monkeypatch.setattr(captions, "read_tags", lambda packages: tags)
    concepts = {concept.icon: concept for concept in captions.read_concepts(Path(), more=False)}
    assert concepts["axe"].held_out == ("hatchet",)
    assert concepts["axe"].synonyms == ("woodcutter",)
    assert concepts["hammer"].held_out == ()
    assert concepts["hammer"].synonyms == ("blacksmith",)
    assert concepts["old-man"].synonyms == ()
    assert sum(len(concept.held_out) for concept in concepts.values()) == 60


@pytest.mark.parametrize(
    ("name", "spoken"),
    [("axe", "an axe"), ("unicorn", "a unicorn"), ("hourglass", "an hourglass"), ("red grapes", "red grapes")],
)
def test_names_take_the_article_that_their_sound_asks_for(train: dict[str, ModuleType], name: str, spoken: str) -> None:
    assert train["captions"].with_article(name) == spoken


def test_captions_name_the_concept_and_never_a_held_out_word(train: dict[str, ModuleType]) -> None:
    captions = train["captions"]
    concept = captions.Concept("axe", ("axe",), ("tool",), ("hatchet",))
    rng = np.random.default_rng(0)
    texts = [captions.caption(concept, "flat", colour, rng) for colour in (None, "red") for _ in range(200)]
    assert all(("axe" in text or "tool" in text) and "hatchet" not in text for text in texts)
    assert any("tool" in text for text in texts)
    assert all("red" in text for text in texts[200:])
    assert not any("red" in text for text in texts[:200])
    styled = sum("flat" in text for text in texts)
    assert 0.6 < styled / len(texts) < 0.8
    assert "an axe, flat" in texts
    assert not any("  " in text for text in texts)


def test_more_synonyms_belong_to_concepts_and_never_give_a_held_out_word_away(train: dict[str, ModuleType]) -> None:
    captions = train["captions"]
    near = json.loads((captions.HERE / "more_synonyms.json").read_text())
    assert set(near) <= set(captions.read_names())
    words = [word for found in near.values() for word in found]
    assert len(words) == len(set(words)) > 1000
    for _, hidden in held_out()["synonyms"]:
        assert not [word for word in words if word in hidden or hidden in word]


@pytest.mark.parametrize("layout", ["left", "above", "big"])
def test_scenes_put_both_icons_where_the_caption_says(train: dict[str, ModuleType], layout: str) -> None:
    compose, captions, side = train["compose"], train["captions"], train["icons"].SIZE
    sizes = (19 * side // 32, 11 * side // 32) if layout == "big" else (7 * side // 16, 7 * side // 16)
    scene = compose.Scene(layout, sizes, (255, 255, 255))
    picture = compose.draw_scene(icon((255, 0, 0), side), icon((0, 0, 255), side), scene)
    for (x, y), size, colour in zip(compose.centres(scene), sizes, [(255, 0, 0), (0, 0, 255)], strict=True):
        assert min(x, y) >= size // 2
        assert max(x, y) + size // 2 <= side
        assert tuple(picture[y, x]) == colour
    (x1, y1), (x2, y2) = compose.centres(scene)
    assert (y1 < y2) if layout == "above" else (x1 < x2)
    red, blue = (captions.Concept(name, (name,), ()) for name in ("ruby", "sapphire"))
    text = captions.scene_caption(red, blue, scene, None, "noto", np.random.default_rng(1))
    assert "ruby" in text
    assert "sapphire" in text


def test_background_shows_where_the_icon_is_clear(train: dict[str, ModuleType]) -> None:
    side = train["icons"].SIZE
    picture = train["compose"].on_background(icon((10, 20, 30), side), (200, 100, 50))
    assert tuple(picture[0, 0]) == (200, 100, 50)
    assert tuple(picture[side // 2, side // 2]) == (10, 20, 30)


def test_random_scenes_fit_into_the_picture(train: dict[str, ModuleType]) -> None:
    compose, rng = train["compose"], np.random.default_rng(3)
    for _ in range(200):
        scene = compose.random_scene(rng)
        for (x, y), size in zip(compose.centres(scene), scene.sizes, strict=True):
            assert min(x, y) - size // 2 >= 0
            assert max(x, y) - size // 2 + size <= train["icons"].SIZE


def test_merges_are_the_most_frequent_pairs_in_turn(train: dict[str, ModuleType]) -> None:
    vocab = train["vocab"]
    texts = ["low low low lower lowest", "new newer newest", "wide wider widest"]
    assert vocab.learn_merges(texts, 8) == slow_merges(vocab, texts, 8)
    assert len(vocab.learn_merges(texts, 8)) == 8
    assert len(vocab.learn_merges(texts, 100)) == len(slow_merges(vocab, texts, 100)) < 100  # no pair is left twice


def slow_merges(vocab: ModuleType, texts: list[str], count: int) -> list[tuple[str, str]]:
    """The same by counting everything anew after every merge."""
    table = vocab.byte_table()
    words = [vocab.spell(word, table) for text in texts for word in text.split()]
    merges = []
    for _ in range(count):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        merges.append(best)
        words = [vocab.join(word, best) for word in words]
    return merges
