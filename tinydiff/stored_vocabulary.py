"""A tokenizer's vocabulary as one piece of JSON, for packed files: all that decides the ids, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinydiff.errors import ModelFileError
from tinydiff.vocabulary import (
    NAMED_TOKENS,
    SpecialToken,
    Vocabulary,
    checked_ids,
    checked_merges,
    checked_token,
    read_vocabulary,
)
from tinydiff_weights.jsonfile import MAX_JSON_BYTES, parse_object
from tinydiff_weights.source import TokenizerSource


def vocabulary_of(source: TokenizerSource) -> Vocabulary:
    """From a packed file, or from files of its own. Raises ModelFileError, UnsupportedModelError."""
    if source.stored is None:
        return read_vocabulary(source)
    return from_json(source.stored.raw.tobytes(), Path(source.stored.file))


def to_json(vocabulary: Vocabulary) -> bytes:
    """UTF-8, the same bytes for the same vocabulary."""
    special = [{"content": token.content, **token.options} for token in vocabulary.special]
    table = {"ids": vocabulary.ids, "merges": vocabulary.merges, "special": special, "named": vocabulary.named}
    return json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()


def from_json(data: bytes, path: Path) -> Vocabulary:
    """The inverse, of bytes in the file `path`. Raises ModelFileError."""
    if len(data) > MAX_JSON_BYTES:
        raise ModelFileError(path, f"has a vocabulary of {len(data)} bytes (cap {MAX_JSON_BYTES})")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ModelFileError(path, f"has a vocabulary that is not UTF-8 (byte {error.start})") from None
    table = parse_object(text, path, "its vocabulary ")
    ids, merges, special, named = (_typed(table, key, kind, path) for key, kind in _SHAPE)
    tokens: list[SpecialToken] = [checked_token(path, token) for token in special]
    known = {token.content for token in tokens}
    for key, token in named.items():
        if key not in NAMED_TOKENS or not isinstance(token, str):
            raise ModelFileError(path, f"its vocabulary has an odd special token {key!r:.40}")
        if token not in ids and token not in known:
            raise ModelFileError(path, f"the vocabulary lacks the {key} {token!r:.40}")
    if not {"bos_token", "eos_token", "unk_token", "pad_token"} <= named.keys():
        raise ModelFileError(path, "its vocabulary does not name its special tokens")
    return Vocabulary(path, checked_ids(path, ids), checked_merges(path, merges), tokens, named)


_SHAPE = (("ids", dict), ("merges", list), ("special", list), ("named", dict))


def _typed(table: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    if not isinstance(table.get(key), kind):
        raise ModelFileError(path, f"its vocabulary has no {key}")
    return table[key]
