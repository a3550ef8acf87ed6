"""The tokenizer folder of a model: where its vocabulary lies and what it pads with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.jsonfile import read_json
from tinydiff_weights.source import TokenizerSource

CLIP_LENGTH = 77
_MAX_LENGTH = 1000  # above it `model_max_length` is transformers' "no limit" (1e30)


def open_tokenizer(folder: Path, pad_token: str) -> TokenizerSource:
    """What `folder` has; `pad_token` where it does not say. A folder that is not there means CLIP's own vocabulary.

    The pad token follows transformers: tokenizer_config.json has it, but in folders of the time before
    `added_tokens_decoder` special_tokens_map.json overrides it (Stable Diffusion 2: "!").
    """
    vocab, merges = _present(folder / "vocab.json"), _present(folder / "merges.txt")
    tokenizer_json = _present(folder / "tokenizer.json")
    if (vocab is None) != (merges is None) and tokenizer_json is None:
        have, lack = ("vocab.json", "merges.txt") if merges is None else ("merges.txt", "vocab.json")
        raise ModelFileError(folder, f"has {have} but no {lack}")
    if vocab is None or merges is None:
        vocab = merges = None
    config = _settings(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config |= _settings(folder / "special_tokens_map.json")
    length = config.get("model_max_length")
    if type(length) is not int or not 0 < length <= _MAX_LENGTH:
        length = CLIP_LENGTH
    return TokenizerSource(vocab, merges, tokenizer_json, _pad(config, folder) or pad_token, length)


def _present(path: Path) -> Path | None:
    return path if path.is_file() else None


def _settings(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _pad(config: dict[str, Any], folder: Path) -> str | None:
    token = config.get("pad_token")
    if isinstance(token, dict):  # an AddedToken: {"content": "!", "lstrip": false, ...}
        token = token.get("content")
    if token is not None and not isinstance(token, str):
        raise ModelFileError(folder, f"has a pad_token that is no text: {token!r:.60}")
    return token
