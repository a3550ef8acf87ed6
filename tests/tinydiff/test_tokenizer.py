"""The tokenizer without transformers: golden ids, rows of 77, what is dropped, and hostile vocabulary files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinydiff.errors import InvalidArgumentError, ModelFileError, TinyDiffError, UnsupportedModelError
from tinydiff.tokenizer import Tokenizer
from tinydiff_weights.source import TokenizerSource

GOLDEN = json.loads((Path(__file__).parent / "golden" / "tokens.json").read_text())
END, START = "<|endoftext|>", "<|startoftext|>"


@pytest.fixture(scope="module")
def clip() -> dict[str, Tokenizer]:
    return {pad: Tokenizer(TokenizerSource(pad_token=pad)) for pad in (END, "!")}


@pytest.mark.parametrize("row", GOLDEN["rows"], ids=lambda row: f"{row['pad_token']}-{row['text'][:12]!r}")
def test_golden(clip: dict[str, Tokenizer], row: dict[str, Any]) -> None:
    tokenizer = clip[row["pad_token"]]
    assert tokenizer.encode(row["text"]) == row["ids"]
    ids = tokenizer(row["text"])
    assert ids.shape == (1, 77)
    assert ids.dtype == np.int64
    expected = [49406, *row["ids"][:75], 49407]
    assert ids[0].tolist() == expected + [tokenizer.pad_id] * (77 - len(expected))


def test_published_ids(clip: dict[str, Tokenizer]) -> None:
    tokenizer = clip[END]
    assert tokenizer.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (49406, 49407, 49407)
    assert (tokenizer.vocab_size, tokenizer.max_length) == (49408, 77)
    assert clip["!"].pad_id == 0


def test_several_texts(clip: dict[str, Tokenizer]) -> None:
    tokenizer = clip[END]
    texts = ["a cat", "", "x " * 100]
    rows = tokenizer(texts)
    assert rows.shape == (3, 77)
    np.testing.assert_array_equal(rows, np.concatenate([tokenizer(text) for text in texts]))
    assert tokenizer([]).shape == (0, 77)


@pytest.mark.parametrize("words", [74, 75, 76, 100])
def test_dropped_words(clip: dict[str, Tokenizer], words: int) -> None:
    tokenizer = clip[END]
    text = " ".join(["cat"] * (words - 1) + ["DOG"])
    assert tokenizer.dropped(text) == ["cat"] * max(0, words - 76) + ["DOG"] * (words > 75)
    assert (tokenizer(text)[0, 76] == tokenizer.eos_id) == (words >= 75 or tokenizer.pad_id == tokenizer.eos_id)


def test_dropped_are_the_words_as_written(clip: dict[str, Tokenizer]) -> None:
    text = "cat " * 75 + "a Café-Noir,  É\u0301té (x:1.2)\n" + END + "!"
    assert clip[END].dropped(text) == ["a", "Café-Noir,", "É\u0301té", "(x:1.2)", END + "!"]
    cut = "cat " * 74 + "supercalifragilistic"
    assert len(clip[END].encode(cut)) > 75
    assert "supercalifragilistic".endswith(clip[END].dropped(cut)[0])


def test_long_text(clip: dict[str, Tokenizer]) -> None:
    assert clip[END]("a" * 10_000).shape == (1, 77)
    assert len(clip[END].encode("é " * 5_000)) == 5_000
    assert len(clip[END].dropped("🐱 " * 5_000)) == 4_925


@pytest.mark.parametrize("text", ["\ud800", "a \udcff b", "\udc80" * 10, "🐱"[:1] + "\udbff"])
def test_lone_surrogates_are_refused(clip: dict[str, Tokenizer], text: str) -> None:
    for call in (clip[END], clip[END].encode, clip[END].dropped):
        with pytest.raises(InvalidArgumentError, match=r"not valid Unicode: lone surrogate U\+D"):
            call(text)


@pytest.mark.parametrize("text", [b"bytes", 7, None, ["a", 7], [None]])
def test_what_is_no_text(clip: dict[str, Tokenizer], text: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="prompt must be text"):
        clip[END](text)


# ------------------------------------------------------------------------------------ vocabularies from strangers

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _small_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokens = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "ca", "cat</w>", START, END]
    return {token: index for index, token in enumerate(tokens)}, [("c", "a"), ("ca", "t</w>")]


def _write(folder: Path, change: Callable[[dict[str, Any]], None] = lambda files: None) -> TokenizerSource:
    """A small good tokenizer folder, after `change` to {file name: text, bytes or JSON content}."""
    vocab, merges = _small_vocabulary()
    lines = "".join(f"{a} {b}\n" for a, b in merges)
    files: dict[str, Any] = {"vocab.json": vocab, "merges.txt": f"#version: 0.2\n{lines}"}
    change(files)
    for name, content in files.items():
        data = content if isinstance(content, (str, bytes)) else json.dumps(content)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    found = {name: folder / name for name in ("vocab.json", "merges.txt", "tokenizer.json")}
    vocab_path, merges_path, json_path = (path if path.exists() else None for path in found.values())
    return TokenizerSource(vocab_path, merges_path, json_path)


def _as_tokenizer_json(files: dict[str, Any]) -> None:
    vocab, merges = _small_vocabulary()
    files.clear()
    model = {"type": "BPE", "vocab": vocab, "merges": [list(pair) for pair in merges]}
    files["tokenizer.json"] = {"model": model, "added_tokens": [{"id": 55, "content": END, "special": True}]}


def test_small_folder(tmp_path: Path) -> None:
    tokenizer = Tokenizer(_write(tmp_path))
    assert tokenizer.encode("a Cat") == [26, 53]
    assert (tokenizer.vocab_size, tokenizer.largest_id) == (56, 55)
    assert tokenizer("cat")[0, :4].tolist() == [54, 53, 55, 55]
    assert tokenizer.encode("é") == [55, 55]  # bytes that the vocabulary lacks


@pytest.mark.parametrize("index", [0, 56, 900])
def test_the_largest_id_of_a_vocabulary_with_gaps(tmp_path: Path, index: int) -> None:
    source = _write(tmp_path, lambda files: files["vocab.json"].update({START: index}))
    assert Tokenizer(source).largest_id == max(55, index)


def test_the_largest_id_may_be_an_added_token(tmp_path: Path) -> None:
    added = {"<extra>": 7}  # the library numbers it anew
    tokenizer = Tokenizer(_write(tmp_path, _put("added_tokens.json", added)))
    assert tokenizer.encode("a <extra>") == [26, tokenizer.largest_id] == [26, 56]


@pytest.mark.parametrize("form", ["pairs", "strings"])
def test_small_tokenizer_json(tmp_path: Path, form: str) -> None:
    def change(files: dict[str, Any]) -> None:
        _as_tokenizer_json(files)
        if form == "strings":
            model = files["tokenizer.json"]["model"]
            model["merges"] = [" ".join(pair) for pair in model["merges"]]

    assert Tokenizer(_write(tmp_path, change)).encode("a Cat") == [26, 53]


def test_line_ends_and_old_header(tmp_path: Path) -> None:
    old = '"bpe_simple_vocab_16e6.txt#version: 0.2\r\nc a\r\nca t</w>\r\n'
    assert Tokenizer(_write(tmp_path, lambda files: files.update({"merges.txt": old}))).encode("cat") == [53]


def _put(name: str, content: Any) -> Callable[[dict[str, Any]], None]:
    return lambda files: files.update({name: content})


def _drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda files: files.pop(name)


def _vocab(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(files: dict[str, Any]) -> None:
        vocab, _ = _small_vocabulary()
        vocab.update(changes)
        files["vocab.json"] = {token: index for token, index in vocab.items() if index is not None}

    return change


def _json(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(files: dict[str, Any]) -> None:
        _as_tokenizer_json(files)
        files["tokenizer.json"]["model"].update(changes)

    return change


def _json_top(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(files: dict[str, Any]) -> None:
        _as_tokenizer_json(files)
        files["tokenizer.json"].update(changes)

    return change


def _config(**content: Any) -> Callable[[dict[str, Any]], None]:
    return _put("tokenizer_config.json", content)


def _json_bos_empty(files: dict[str, Any]) -> None:
    _json_top(added_tokens=[{"id": 3, "content": ""}])(files)
    files["tokenizer_config.json"] = {"bos_token": ""}


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "vocab empty file": (_put("vocab.json", b""), "not valid JSON"),
    "vocab cut": (_put("vocab.json", '{"a": 1, "b'), "not valid JSON"),
    "vocab not UTF-8": (_put("vocab.json", b'{"\xff": 1}'), "UTF-8"),
    "vocab a list": (_put("vocab.json", ["a", "b"]), "expected an object"),
    "vocab nested deeply": (_put("vocab.json", "[" * 100_000), "nested too deeply"),
    "vocab NaN": (_put("vocab.json", '{"a": NaN}'), "NaN"),
    "vocab huge number": (_put("vocab.json", '{"a": ' + "9" * 5000 + "}"), "not valid JSON"),
    "vocab too large": (_put("vocab.json", b" " * (16 * 2**20 + 1)), "too many"),
    "vocab id a text": (_vocab(a="0"), "no valid id"),
    "vocab id a float": (_vocab(a=1.0), "no valid id"),
    "vocab id a bool": (_vocab(a=True), "no valid id"),
    "vocab id null": (_put("vocab.json", {"a": None}), "no valid id"),
    "vocab id negative": (_vocab(a=-1), "no valid id"),
    "vocab id 2^32": (_vocab(a=2**32), "no valid id"),
    "vocab lone surrogate": (_put("vocab.json", b'{"\\ud800": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}'), "usable"),
    "vocab lacks start": (_vocab(**{START: None}), r"lacks the bos_token"),
    "vocab lacks end": (_vocab(**{END: None}), r"lacks the eos_token"),
    "vocab empty": (_put("vocab.json", {}), "lacks"),
    "vocab missing": (_drop("vocab.json"), "needs vocab.json"),
    "merges missing": (_drop("merges.txt"), "needs merges.txt"),
    "merges empty line": (_put("merges.txt", "#version: 0.2\n\nc a\n"), "line 2 is not a pair"),
    "merges one token": (_put("merges.txt", "#version: 0.2\nc\n"), "line 2 is not a pair"),
    "merges three tokens": (_put("merges.txt", "c a t\n"), "line 1 is not a pair"),
    "merges unknown token": (_put("merges.txt", "#version: 0.2\nc q7\n"), "usable"),
    "merges of unknown result": (_put("merges.txt", "#version: 0.2\nx y\n"), "usable"),
    "merges not UTF-8": (_put("merges.txt", b"#version: 0.2\n\xff a\n"), "not UTF-8"),
    "merges too large": (_put("merges.txt", b"c a\n" * (4 * 2**20 + 1)), "larger than"),
    "merges binary": (_put("merges.txt", bytes(range(256)) * 4), "UTF-8|pair"),
    "json empty": (_put("tokenizer.json", {}), "no 'model'"),
    "json model a list": (_put("tokenizer.json", {"model": []}), "no 'model'"),
    "json without merges": (_json(merges=None), "'merges' list"),
    "json vocab a list": (_json(vocab=[["a", -1.5]]), "'vocab' object"),
    "json merge of numbers": (_json(merges=[[1, 2]]), "merge 0 is not a pair"),
    "json merge of three": (_json(merges=["c a t"]), "merge 0 is not a pair"),
    "json merge unknown": (_json(merges=[["c", "q7"]]), "usable"),
    "json merge lone surrogate": (_json(merges=[["\ud800", "a"]]), "usable"),
    "json added tokens an object": (_json_top(added_tokens={}), "not a list"),
    "json added token a text": (_json_top(added_tokens=["x"]), "no valid id"),
    "json added token without content": (_json_top(added_tokens=[{"id": 3}]), "special token"),
    "json added token id": (_json_top(added_tokens=[{"id": -3, "content": "x"}]), "no valid id"),
    "json special token empty": (_json_bos_empty, "cannot be a special token"),
    "config a list": (_put("tokenizer_config.json", []), "expected an object"),
    "config token a number": (_config(bos_token=7), "special token"),
    "config token without content": (_config(eos_token={"lstrip": True}), "special token"),
    "config token option a text": (_config(eos_token={"content": END, "lstrip": "yes"}), "special token"),
    "config token unknown": (_config(bos_token="<s>"), "lacks the bos_token '<s>'"),
    "config unknown token unknown": (_config(unk_token="<unk>"), "lacks the unk_token '<unk>'"),
    "config decoder a list": (_config(added_tokens_decoder=[]), "not an object"),
    "config decoder id a word": (_config(added_tokens_decoder={"x": {"content": "y"}}), "no valid id"),
    "config decoder id huge": (_config(added_tokens_decoder={"9" * 30: {"content": "y"}}), "no valid id"),
    "config extra tokens an object": (_config(extra_special_tokens={"a": "b"}), "not a list"),
    "special map token a list": (_put("special_tokens_map.json", {"bos_token": [1]}), "special token"),
    "added tokens id a text": (_put("added_tokens.json", {"x": "y"}), "no valid id"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        Tokenizer(_write(tmp_path, change))
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 600


UNSUPPORTED: dict[str, Callable[[dict[str, Any]], None]] = {
    "T5's kind of model": _json(type="Unigram"),
    "a model type that is no text": _json(type=["BPE"]),
    "padding on the left": _config(padding_side="left"),
    "truncation on the left": _config(truncation_side="left"),
    "special tokens split": _config(split_special_tokens=True),
}


@pytest.mark.parametrize("change", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_unsupported_settings(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(UnsupportedModelError, match="json"):
        Tokenizer(_write(tmp_path, change))


def test_pad_token_must_be_known(tmp_path: Path) -> None:
    source = _write(tmp_path)
    with pytest.raises(ModelFileError, match="lacks the pad_token"):
        Tokenizer(TokenizerSource(source.vocab, source.merges, None, "<pad>"))


@pytest.mark.parametrize("length", [-1, 0, 2, 4097, 10**30])
def test_absurd_lengths(length: int) -> None:
    with pytest.raises(ModelFileError, match="model_max_length"):
        Tokenizer(TokenizerSource(model_max_length=length))


def test_missing_files_and_pipes(tmp_path: Path) -> None:
    source = _write(tmp_path)
    with pytest.raises(ModelFileError, match=r"gone\.txt"):
        Tokenizer(TokenizerSource(source.vocab, tmp_path / "gone.txt"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="pipe"):
        Tokenizer(TokenizerSource(source.vocab, tmp_path / "pipe"))


KEYS = st.sampled_from(["a", "b", "ab", "content", "id"])
ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**33) | st.text(max_size=3) | st.sampled_from([START, END, "a", "ab"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("vocab", "merges", "type"), ODD)), ODD, ODD)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_ends_in_our_error_or_works(tmp_path: Path, model: dict[str, Any], added: Any, special: Any) -> None:
    vocab, _ = _small_vocabulary()
    content = {"model": {"vocab": vocab, "merges": [], **model}, "added_tokens": added}
    path = tmp_path / "tokenizer.json"
    path.write_bytes(json.dumps(content).encode())
    (tmp_path / "tokenizer_config.json").write_bytes(json.dumps({"unk_token": special}).encode())
    try:
        tokenizer = Tokenizer(TokenizerSource(tokenizer_json=path))
    except TinyDiffError:
        return
    assert tokenizer("a cat, é").shape == (1, 77)
