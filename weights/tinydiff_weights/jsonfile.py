"""Small JSON files from strangers: configs, indexes, tokenizer settings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.mapping import open_regular

MAX_JSON_BYTES = 16 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises ModelFileError for anything else, with the place that is wrong."""
    with open_regular(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > MAX_JSON_BYTES:
            raise ModelFileError(path, f"{size} bytes are too many for a JSON file (cap {MAX_JSON_BYTES})")
        with open(descriptor, "rb", closefd=False) as stream:
            text = stream.read(MAX_JSON_BYTES)
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelFileError(path, f"is not UTF-8 (byte {error.start})") from None
    return parse_object(decoded, path)


def parse_object(text: str, path: Path, what: str = "") -> dict[str, Any]:
    """The JSON object that `text` is; `what` begins the errors that name `path`."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ModelFileError(path, f"{what}is nested too deeply") from None
    except ValueError as error:
        raise ModelFileError(path, f"{what}is not valid JSON: {str(error)[:120]}") from None
    if not isinstance(value, dict):
        raise ModelFileError(path, f"{what}holds a JSON {type(value).__name__}, expected an object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
