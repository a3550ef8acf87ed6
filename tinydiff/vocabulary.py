"""What a CLIP tokenizer is made of, read from the files of a model: vocabulary, merges, special tokens.

A tokenizer folder has `tokenizer.json`, or `vocab.json` and `merges.txt`; beside them `tokenizer_config.json`,
`special_tokens_map.json` and `added_tokens.json` say which tokens are special. The files are strangers' input: what
is wrong with them ends in ModelFileError. Which file wins follows transformers 5 (`_from_pretrained`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tinydiff.errors import ModelFileError, UnsupportedModelError
from tinydiff_weights.clip_bpe import MERGES_FILE, clip_vocabulary
from tinydiff_weights.jsonfile import read_json
from tinydiff_weights.mapping import open_regular
from tinydiff_weights.source import TokenizerSource

MAX_MERGES_BYTES = 16 * 2**20
MAX_ID = 2**24  # more rows than any embedding table has

# In the order in which transformers registers them.
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
DEFAULT_TOKENS = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
# Settings that would change the ids; published CLIP tokenizers have these values or none.
ONLY_VALUES = {"padding_side": "right", "truncation_side": "right", "split_special_tokens": False}
TOKEN_FIELDS = ("single_word", "lstrip", "rstrip", "normalized", "special")

Merges: TypeAlias = list[tuple[str, str]]


@dataclass(frozen=True)
class SpecialToken:
    """A token that is matched in the text as a whole: its text and how it is matched (fields of AddedToken)."""

    content: str
    options: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Vocabulary:
    """Everything that decides which ids a text gets."""

    path: Path  # named in errors
    ids: dict[str, int]
    merges: Merges  # first to apply first
    special: list[SpecialToken]  # in the order of registration; one text may occur twice, the first counts
    named: dict[str, str]  # "bos_token", "eos_token", "unk_token", "pad_token" -> text


def read_vocabulary(source: TokenizerSource) -> Vocabulary:
    """The vocabulary that `source` names. Raises ModelFileError, UnsupportedModelError."""
    model: dict[str, Any] = {}
    if source.tokenizer_json is not None:
        path = source.tokenizer_json
        model = read_json(path)
        ids, merges = _model_of(path, model)
    elif source.vocab is not None and source.merges is not None:
        path = source.vocab
        ids, merges = checked_ids(path, read_json(path)), _merges_of(source.merges)
    elif source.vocab is None and source.merges is None:
        ids, merges = clip_vocabulary()
        path = MERGES_FILE
    else:
        have, lack = ("vocab.json", "merges.txt") if source.merges is None else ("merges.txt", "vocab.json")
        raise ModelFileError(source.vocab or source.merges or "", f"a tokenizer with {have} needs {lack} too")
    settings, added = ({}, {}) if path == MERGES_FILE else _settings(path.parent, path, model)
    special, named = _special_tokens(path, settings, added, source.pad_token)
    known = {token.content for token in added.values()}
    for key, token in named.items():
        if token not in ids and token not in known:
            raise ModelFileError(path, f"the vocabulary lacks the {key} {token!r:.40}")
    return Vocabulary(path, ids, merges, special, named)


def _model_of(path: Path, content: dict[str, Any]) -> tuple[dict[str, int], Merges]:
    """Vocabulary and merges in a `tokenizer.json`. The rest of it is fixed for CLIP and not read."""
    model = content.get("model")
    if not isinstance(model, dict):
        raise ModelFileError(path, "has no 'model' with a vocabulary")
    if model.get("type", "BPE") != "BPE":
        raise UnsupportedModelError(f"{str(path)!r}: a {model['type']!r:.40} tokenizer; CLIP's is 'BPE'")
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise ModelFileError(path, "its 'model' needs a 'vocab' object and a 'merges' list")
    return checked_ids(path, vocab), checked_merges(path, merges)


def checked_merges(path: Path, merges: list[Any]) -> Merges:
    """Pairs of tokens, each as a list of two or as one text with a space between."""
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else merge for merge in merges]
    return [_pair(path, f"merge {i}", pair) for i, pair in enumerate(pairs)]


def _pair(path: Path, where: str, pair: object) -> tuple[str, str]:
    if isinstance(pair, (list, tuple)) and len(pair) == 2:
        first, second = pair
        if isinstance(first, str) and isinstance(second, str):
            return first, second
    raise ModelFileError(path, f"{where} is not a pair of tokens: {pair!r:.60}")


def _merges_of(path: Path) -> Merges:
    """`merges.txt`: a version line, then a pair of tokens a line, separated by one space."""
    with open_regular(path) as descriptor, open(descriptor, "rb", closefd=False) as stream:
        content = stream.read(MAX_MERGES_BYTES + 1)
    if len(content) > MAX_MERGES_BYTES:
        raise ModelFileError(path, f"is larger than {MAX_MERGES_BYTES} bytes")
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ModelFileError(path, f"is not UTF-8 (byte {error.start})") from None
    if lines[-1] == "":
        lines.pop()
    merges = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#version") or (number == 1 and "#version" in line):
            continue
        merges.append(_pair(path, f"line {number}", line.removesuffix("\r").split(" ")))
    return merges


def checked_ids(path: Path, vocab: dict[str, Any]) -> dict[str, int]:
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index < MAX_ID:
            raise ModelFileError(path, f"token {token!r:.40} has no valid id: {index!r:.40}")
    return vocab


def _settings(folder: Path, path: Path, model: dict[str, Any]) -> tuple[dict[str, Any], dict[int, SpecialToken]]:
    """Settings of the tokenizer, and the added tokens by id, from the JSON files in its folder.

    `added_tokens_decoder` in tokenizer_config.json is the modern form and rules out the older files.
    """
    config_path = folder / "tokenizer_config.json"
    settings = read_json(config_path) if config_path.is_file() else {}
    for key, value in ONLY_VALUES.items():
        if settings.get(key, value) != value:
            raise UnsupportedModelError(f"{str(config_path)!r}: {key} is {settings[key]!r:.40}, not {value!r}")
    added: dict[int, SpecialToken] = {}
    if "added_tokens_decoder" in settings:
        decoder = settings["added_tokens_decoder"]
        if not isinstance(decoder, dict):
            raise ModelFileError(config_path, "its 'added_tokens_decoder' is not an object")
        for index, token in decoder.items():
            added[_index(config_path, index)] = checked_token(config_path, token)
        return settings, added

    map_path, added_path = folder / "special_tokens_map.json", folder / "added_tokens.json"
    if map_path.is_file():
        for key, value in read_json(map_path).items():
            settings[key] = {**value, "special": True} if isinstance(value, dict) else value
    names = [_content(settings.get(key)) for key in NAMED_TOKENS]
    if added_path.is_file():
        for content, index in read_json(added_path).items():
            is_special = content in names
            options = {"normalized": not is_special, "special": is_special}
            added[_index(added_path, index)] = SpecialToken(content, options)
    listed = model.get("added_tokens", [])
    if not isinstance(listed, list):
        raise ModelFileError(path, "its 'added_tokens' is not a list")
    for token in listed:
        index = token.get("id") if isinstance(token, dict) else None
        added[_index(path, index)] = checked_token(path, token)
    return settings, added


def _index(path: Path, value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 9:
        value = int(value)
    if type(value) is not int or not 0 <= value < MAX_ID:
        raise ModelFileError(path, f"an added token has no valid id: {value!r:.40}")
    return value


def _content(value: object) -> object:
    return value.get("content") if isinstance(value, dict) else value


def checked_token(path: Path, value: object) -> SpecialToken:
    """A special token as the files have it: its text, or an object with its text and how it is matched."""
    if isinstance(value, str):
        return SpecialToken(value, {"special": True})
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        options = {key: value[key] for key in TOKEN_FIELDS if key in value}
        if all(isinstance(option, bool) for option in options.values()):
            return SpecialToken(value["content"], options)
    raise ModelFileError(path, f"a special token is neither text nor an object with 'content': {value!r:.60}")


def _special_tokens(
    path: Path, settings: dict[str, Any], added: Mapping[int, SpecialToken], pad_token: str
) -> tuple[list[SpecialToken], dict[str, str]]:
    """All special tokens in transformers' order: those added by id, then the named ones, then the extra ones."""
    tokens = [added[index] for index in sorted(added)]
    known = {token.content: token for token in tokens}
    named: dict[str, str] = {}
    for key in NAMED_TOKENS:
        value = settings.get(key, DEFAULT_TOKENS.get(key))
        if key == "pad_token" and _content(value) != pad_token:
            value = pad_token
        if value is None:
            continue
        token = checked_token(path, value)
        named[key] = token.content
        if token.content not in known:
            # One text may come as an object and again as plain text: the backend keeps the first.
            tokens.append(SpecialToken(token.content, {**token.options, "special": True}))
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    if not isinstance(extra, list):
        raise ModelFileError(path, "the extra special tokens beside it are not a list")
    tokens += [token for token in (checked_token(path, value) for value in extra) if token.content not in known]
    return tokens, named
