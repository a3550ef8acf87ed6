"""How a picture was made, as texts inside its PNG file.

Two chunks: `parameters`, the text that A1111's web UI writes and other tools read, and `tinydiff`, a JSON object with
everything, exact (A1111's form loses blanks at line ends, for instance).

    a lighthouse at night
    Negative prompt: blurry
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 1, Size: 512x512, ...

Texts read back are a stranger's: they are capped in size, and never more than text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tinydiff._version import __version__
from tinydiff.png_text import read_texts

PARAMETERS, RECORD = "parameters", "tinydiff"  # the keywords of the two chunks
NEGATIVE = "Negative prompt:"
MAX_PARAMETERS = 2**20  # characters of a text that is parsed
MAX_FIELDS_LINE = 2**16  # characters of its last line
# A name, a colon, a value in quotes or up to the next comma. The limit on names keeps a hostile text linear.
FIELD = re.compile(r'(\w[\w \-/]{1,63}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
SIZE = re.compile(r"(\d{1,9})x(\d{1,9})", re.ASCII)
# What A1111 takes where a text does not say.
DEFAULTS = {"Clip skip": "1", "RNG": "GPU", "Schedule type": "Automatic"}


@dataclass(frozen=True)
class Record:
    """How one picture was made. `sampler` and `schedule_type` are A1111's names; `clip_skip` counts as A1111 does."""

    prompt: str
    steps: int
    sampler: str
    guidance_scale: float
    seed: int  # of this picture: of image i of a batch, seed + i
    width: int
    height: int
    negative_prompt: str = ""
    schedule_type: str = "Automatic"
    model: str = ""  # file or folder name without extension
    model_hash: str = ""  # sha256 of the file, hexadecimal; "" if unknown
    vae: str = ""  # name of a VAE given separately
    clip_skip: int = 1
    timings: Mapping[str, Any] = field(default_factory=dict)  # seconds
    extra: Mapping[str, Any] = field(default_factory=dict)  # further settings, for the JSON chunk only


@dataclass(frozen=True)
class PngMetadata:
    """What a PNG file says of its making."""

    texts: dict[str, str]  # all text chunks
    parameters: dict[str, str]  # the fields of A1111's text; empty if there is none
    record: dict[str, Any]  # the `tinydiff` chunk; empty if there is none or it is damaged


def png_texts(record: Record) -> dict[str, str]:
    """The text chunks for `tinydiff.image.save_png`: keyword -> text."""
    return {PARAMETERS: parameters_text(record), RECORD: record_text(record)}


def read_png(path: str | os.PathLike[str]) -> PngMetadata:
    """The metadata of a PNG file. InvalidArgumentError if it is not one; damaged texts count as missing."""
    texts = read_texts(path)
    return PngMetadata(texts, parse_parameters(texts.get(PARAMETERS, "")), parse_record(texts.get(RECORD, "")))


# --------------------------------------------------------------------------------------- A1111's parameters text


def parameters_text(record: Record) -> str:
    """A1111's text (`create_infotext` in its processing.py). Its "RNG: CPU" says that the seed is torch's on a CPU."""
    fields: dict[str, object] = {
        "Steps": record.steps,
        "Sampler": record.sampler,
        "Schedule type": record.schedule_type,
        "CFG scale": _short(record.guidance_scale),
        "Seed": record.seed,
        "Size": f"{record.width}x{record.height}",
        "Model hash": record.model_hash[:10] or None,
        "Model": record.model or None,
        "VAE": record.vae or None,
        "Clip skip": record.clip_skip if record.clip_skip > 1 else None,
        "RNG": "CPU",
        "Version": f"tinydiff {__version__}",
    }
    last = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in fields.items() if value is not None)
    negative = f"\n{NEGATIVE} {record.negative_prompt}" if record.negative_prompt else ""
    return f"{record.prompt}{negative}\n{last}".strip()


def parse_parameters(text: str) -> dict[str, str]:
    """The fields of an A1111 text, read as A1111 reads it: "Prompt", "Negative prompt", "Steps", ...

    A value like 512x768 becomes two fields, "Size-1" and "Size-2". The last line counts as fields only if it has
    three. A text that is empty or longer than a mebibyte gives {}.
    """
    if not text or len(text) > MAX_PARAMETERS:
        return {}
    *lines, last = text.strip().split("\n")
    found = FIELD.findall(last) if len(last) <= MAX_FIELDS_LINE else []
    if len(found) < 3:
        lines.append(last)
        found = []
    prompt: list[str] = []
    negative: list[str] | None = None
    for line in (line.strip() for line in lines):
        if line.startswith(NEGATIVE):
            negative = [] if negative is None else negative
            line = line.removeprefix(NEGATIVE).strip()
        part = prompt if negative is None else negative
        if part or line:  # empty lines in front are lost
            part.append(line)
    fields = {"Prompt": "\n".join(prompt), "Negative prompt": "\n".join(negative or [])}
    for name, value in found:
        value = _unquoted(value)
        size = SIZE.fullmatch(value)
        if size is None:
            fields[name] = value
        else:
            fields[f"{name}-1"], fields[f"{name}-2"] = size.groups()
    return (DEFAULTS | fields) if found else fields


def _short(value: float) -> str:
    """7.5 -> "7.5", 7.0 -> "7"."""
    return repr(float(value)).removesuffix(".0")


def _quoted(value: str) -> str:
    """A value as JSON if it holds what separates fields, or what A1111's reader would take off at its ends."""
    plain = not re.search(r"[,\n:]", value) and value == value.strip() and not value.startswith('"')
    return value if plain else json.dumps(value, ensure_ascii=False)


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        decoded = json.loads(value)
    except ValueError:
        return value
    return decoded if isinstance(decoded, str) else value


# ------------------------------------------------------------------------------------------------ the JSON chunk


def record_text(record: Record) -> str:
    """The record as JSON, in ASCII. ValueError if it holds NaN, infinity or what is no JSON: that is our mistake."""
    content = {"version": __version__, **asdict(record)}
    return json.dumps(content, allow_nan=False)


def parse_record(text: str) -> dict[str, Any]:
    """The JSON object in a `tinydiff` chunk, with no promise of what is in it; {} if it is not a JSON object."""
    if not text or len(text) > MAX_PARAMETERS:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
