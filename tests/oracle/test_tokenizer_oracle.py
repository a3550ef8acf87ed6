"""Our tokenizer against transformers' CLIPTokenizer: a table of odd texts, 20,000 made by hypothesis, and folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from tinydiff.tokenizer import Tokenizer
from tinydiff_weights.clip_bpe import clip_vocabulary
from tinydiff_weights.source import TokenizerSource

EXAMPLES, PER_EXAMPLE = 1000, 20

OBJECT = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
BOS = {**OBJECT, "content": "<|startoftext|>"}
EOS = {**OBJECT, "content": "<|endoftext|>"}
PLAIN_BOS = {key: value for key, value in BOS.items() if key != "__type"}
PLAIN_EOS = {key: value for key, value in EOS.items() if key != "__type"}
# As the folder of Stable Diffusion 1.5 has them, and as that of 2.1 does.
SD1 = {
    "tokenizer_config.json": {
        "add_prefix_space": False,
        "bos_token": BOS,
        "do_lower_case": True,
        "eos_token": EOS,
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": "<|endoftext|>",
        "unk_token": EOS,
    },
    "special_tokens_map.json": {
        "bos_token": PLAIN_BOS,
        "eos_token": PLAIN_EOS,
        "pad_token": "<|endoftext|>",
        "unk_token": PLAIN_EOS,
    },
}
SD2 = {
    "tokenizer_config.json": SD1["tokenizer_config.json"],
    "special_tokens_map.json": {**SD1["special_tokens_map.json"], "pad_token": "!"},
}
# As transformers 4.4x and 5 save them: the modern form.
MODERN = {
    "tokenizer_config.json": {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "!",
        "model_max_length": 77,
        "added_tokens_decoder": {
            "0": {**PLAIN_BOS, "content": "!", "normalized": False, "special": True},
            "49406": {**PLAIN_BOS, "special": True},
            "49407": {**PLAIN_EOS, "normalized": False, "special": True},
        },
    },
    "special_tokens_map.json": {"pad_token": "<|endoftext|>"},
}
LEARNED = {
    "tokenizer_config.json": {**MODERN["tokenizer_config.json"], "pad_token": "<|endoftext|>"},
    "special_tokens_map.json": {},
}
LEARNED["tokenizer_config.json"]["added_tokens_decoder"] = {
    **MODERN["tokenizer_config.json"]["added_tokens_decoder"],
    "49408": {"content": "<cat-toy>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False},
}
ADDED_FILE = {
    "tokenizer_config.json": {"model_max_length": 77},
    "added_tokens.json": {"<cat-toy>": 49408, "<|startoftext|>": 49406},
}
FOLDERS: dict[str, tuple[dict[str, Any], str]] = {
    "no settings": ({"tokenizer_config.json": {"model_max_length": 77}}, "<|endoftext|>"),
    "SD 1": (SD1, "<|endoftext|>"),
    "SD 2": (SD2, "!"),
    "modern": (MODERN, "!"),
    "learned token": (LEARNED, "<|endoftext|>"),
    "added_tokens.json": (ADDED_FILE, "<|endoftext|>"),
}


def _write_folder(folder: Path, files: dict[str, Any]) -> Path:
    vocab, merges = clip_vocabulary()
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    text = "".join(f"{a} {b}\n" for a, b in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{text}", encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def _theirs(tokenizer: CLIPTokenizer, texts: list[str]) -> np.ndarray:
    """As diffusers' `encode_prompt` calls it."""
    batch = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
    return np.array(batch["input_ids"], np.int64)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, CLIPTokenizer]]:
    root = tmp_path_factory.mktemp("tokenizers")
    made = {}
    for name, (files, pad) in FOLDERS.items():
        folder = _write_folder(root / name, files)
        source = TokenizerSource(folder / "vocab.json", folder / "merges.txt", None, pad)
        made[name] = Tokenizer(source), CLIPTokenizer.from_pretrained(folder)
    # The package's own vocabulary, with what the reader says of single files, against the folders of those models.
    made["package, SD 1"] = Tokenizer(TokenizerSource()), made["no settings"][1]
    made["package, SD 2"] = (
        Tokenizer(TokenizerSource(pad_token="!")),
        CLIPTokenizer.from_pretrained(root / "no settings", pad_token="!"),
    )
    # A tokenizer.json, as transformers writes it.
    for name in ("SD 2", "learned token"):
        folder = root / f"saved {name}"
        made[name][1].save_pretrained(folder)
        loaded = CLIPTokenizer.from_pretrained(folder)
        assert (folder / "tokenizer.json").is_file()
        source = TokenizerSource(tokenizer_json=folder / "tokenizer.json", pad_token=FOLDERS[name][1])
        made[f"tokenizer.json, {name}"] = Tokenizer(source), loaded
    return made


CONFIGURATIONS = [*FOLDERS, "package, SD 1", "package, SD 2", "tokenizer.json, SD 2", "tokenizer.json, learned token"]

TABLE = [
    "",
    " ",
    "\n\t \r\n",
    "a photo of a cat",
    "A Photo  of\ta\nCAT",
    "\xa0nbsp\u2003em\u3000ideographic\u200bzero\u2028line\x85nel\x1cfs",
    "caf\u00e9 cafe\u0301 \u00c5 A\u030a \ufb01 \u1e9b\u0323",
    "ÀÉÎÕÜ ẞ ß İ I ı ſ Σ ς ΌΣΟΣ Ǆ ǅ",
    "日本語のテキスト 한국어 한국어 中文",
    "नमस्ते العربية עברית ไทย",
    "🐱 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ☃️ 🇩🇪",
    "\x00 \x01\x02 \x07\x1b[31m \x7f \x80\x9f",
    "\ufeffbom \ufffd \ufffe \U0010ffff \ue000",
    "<|endoftext|>",
    "<|startoftext|>",
    "a <|endoftext|> b",
    "a<|endoftext|>b<|startoftext|>c",
    "<|EndOfText|> <|STARTOFTEXT|>",
    "<|endoftext |> <| endoftext|> <|endoftext|",
    "<|endoftext|></w> </w> a</w>",
    "! !! a! !a a!b",
    "<cat-toy> a<cat-toy>b <CAT-TOY>",
    "it's I'M we'll they'd I've you're don't 'S 'tis",
    "1 12 123 1234567890 ½ ² Ⅷ ٣ 3.14 1,000",
    "(a:1.2) [b] {c|d} \\(e\\) <lora:x:1>",
    "#version: 0.2",
    "Ġ ġ Ċ Āā",
    "a\u0300\u0301\u0302\u0303" * 20,
    "ﷺ ﷽",
    "word " * 74,
    "word " * 75,
    "word " * 76,
    "word " * 77,
    "a" * 10_000,
    "ab " * 3_334,
    "é" * 10_000,
    "🐱" * 10_000,
    "<|endoftext|>" * 770,
    "\u0301" * 10_000,
    " " * 10_000,
]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_table(pairs: dict[str, tuple[Tokenizer, CLIPTokenizer]], name: str) -> None:
    ours, theirs = pairs[name]
    expected = _theirs(theirs, TABLE)
    for text, row in zip(TABLE, expected, strict=True):
        np.testing.assert_array_equal(ours(text), row[None], err_msg=repr(text)[:80])
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], repr(text)[:80]
    np.testing.assert_array_equal(ours(TABLE), expected)
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (
        theirs.bos_token_id,
        theirs.eos_token_id,
        theirs.pad_token_id,
    )
    assert ours.vocab_size == len(theirs)


PIECES = [
    *("a photo of", "CAT", "Ünïcödé", "<|endoftext|>", "<|startoftext|>", "<|EndOfText|>", "<|", "|>", "</w>", "!"),
    *("<cat-toy>", "'s", "'LL", "\n", "\t", "  ", "\u00a0", "\u2028", "\u0301", "\u200d", "🐱", "👍🏽", "日本", "한국"),
    *("(x:1.1)", "[y]", "BREAK", "\\", "123", "½", "\x00", "\x1b", "ﬁ", "İ", "ẞ", "Σ", "\ufeff", "\U0010ffff"),
]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=24)
MIXED = st.lists(st.one_of(st.sampled_from(PIECES), ANY_TEXT), max_size=8).map("".join)
WORDS = st.lists(st.text("abcdefghijklmnopqrstuvwxyzABCÉÄß'-,. 0123456789", max_size=12), max_size=30).map(" ".join)
TEXTS = st.lists(st.one_of(ANY_TEXT, MIXED, WORDS), min_size=PER_EXAMPLE, max_size=PER_EXAMPLE)

compared = {"texts": 0, "cut": 0, "special": 0}


@given(texts=TEXTS, modern=st.booleans())
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_texts_of_hypothesis(pairs: dict[str, tuple[Tokenizer, CLIPTokenizer]], texts: list[str], modern: bool) -> None:
    ours, theirs = pairs["modern" if modern else "SD 1"]
    got = ours(texts)
    np.testing.assert_array_equal(got, _theirs(theirs, texts))
    compared["texts"] += len(texts)
    compared["cut"] += int(sum(row[-1] == ours.eos_id and row[-2] != ours.pad_id for row in got))
    compared["special"] += sum("<|" in text for text in texts)


def test_enough_texts_were_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """Runs after the test above; the counts show that the texts were not all trivial."""
    with capsys.disabled():
        print(f"\ntokenizer parity: {compared['texts']} texts, {compared['cut']} cut, {compared['special']} with '<|'")
    assert compared["texts"] >= EXAMPLES * PER_EXAMPLE
    assert compared["cut"] > 100
    assert compared["special"] > 500


def test_dropped_is_what_transformers_cuts() -> None:
    """diffusers warns with the decoded ids past the 76th; our words, tokenized again, are those ids."""
    ours = Tokenizer(TokenizerSource())
    text = "a very long prompt about " + ", ".join(f"Thing{i} with É accent" for i in range(40))
    ids = ours.encode(text)
    kept = ids[:75]
    again = ours.encode(" ".join(ours.dropped(text)))
    assert ids[75:] == again[-len(ids[75:]) :]
    assert len(kept) + len(again) - len(ids) in (0, 1)  # the rest of a word that was cut may be tokenized anew
