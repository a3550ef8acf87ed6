"""Where a setting comes from: flag, else environment, else config file, else the model's default.

    --clip-skip 2    TINYDIFF_CLIP_SKIP=2    clip-skip = 2 in $XDG_CONFIG_HOME/tinydiff/config.toml

The config file (default `~/.config/tinydiff/config.toml`) holds the long flags of `tinydiff generate` as keys,
without a table; a yes-or-no flag is `quiet = true`. A value that cannot be read is refused with its place.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinydiff.errors import InvalidArgumentError
from tinydiff.memory.limits import AUTO, size_of
from tinydiff.suggest import nearest

MAX_CONFIG_BYTES = 2**20


# ------------------------------------------------------------------------------------------------ readers
# Text -> value. ValueError says what the text should be.


def text(value: str) -> str:
    return value


def path(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("a path")
    return value


def whole(value: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,40}", value.strip()):
        raise ValueError("a whole number")
    return int(value)


def number(value: str) -> float:
    try:
        found = float(value) if len(value) < 40 else math.nan
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError("a finite number")
    return found


def size(value: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*[xX×]\s*([0-9]{1,9})\s*", value, re.ASCII)
    if match is None:
        raise ValueError("WIDTHxHEIGHT in pixels, such as 512x512")
    return int(match[1]), int(match[2])


def interval(value: str) -> tuple[float, float]:
    first, colon, last = value.partition(":")
    try:
        return number(first), number(last if colon else "")
    except ValueError:
        raise ValueError("two shares of the steps, such as 0.2:0.8") from None


def memory(value: str) -> int:
    return size_of(value)


def budget(value: str) -> int | str:
    return AUTO if value.strip().lower() == AUTO else size_of(value)


def journal(value: str) -> str:
    if value not in ("on", "off") and (not value.endswith(".journal") or "\0" in value):
        raise ValueError("on, off, or a name that ends in .journal (a prompt goes before the flag)")
    return value


def switch(value: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if value.strip().lower() not in known:
        raise ValueError("true or false")
    return known[value.strip().lower()]


Reader = Callable[[str], Any]
TEXTUAL: tuple[Reader, ...] = (
    text,
    path,
    size,
    interval,
    memory,
    budget,
    journal,
)  # in the config file these are strings
READERS: dict[str, Reader] = {
    "model": path,
    "vae": path,
    "negative": text,
    "steps": whole,
    "cfg": number,
    "size": size,
    "seed": whole,
    "sampler": text,
    "batch": whole,
    "clip_skip": whole,
    "prediction_type": text,
    "eta": number,
    "guidance_rescale": number,
    "guidance_interval": interval,
    "weights": text,
    "memory": budget,
    "backend": text,
    "threads": whole,
    "journal": journal,
    "timings": switch,
    "no_metadata": switch,
    "quiet": switch,
}
OTHER_VARIABLES = ("TINYDIFF_CHECK", "TINYDIFF_DEBUG", "TINYDIFF_NATIVE", "TINYDIFF_PATH")


# ------------------------------------------------------------------------------------------------ settling


class Settings:
    """Values by name, each with the place it came from. What nobody set is None."""

    def __init__(self, values: Mapping[str, Any], places: Mapping[str, str]) -> None:
        self._values, self._places = values, places

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def place(self, name: str) -> str:
        """How to name it in an error: `--steps`, `TINYDIFF_STEPS`, `'steps' in /.../config.toml`."""
        return self._places.get(name, flag_of(name))


def settle(flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Settings:
    """All settings. `flags` holds the texts given on the command line, None (or False) where none was."""
    sources: list[tuple[Callable[[str], str], Mapping[str, Any]]] = [
        (flag_of, {name: value for name, value in flags.items() if value not in (None, False)}),
        (variable_of, {name: environment[variable_of(name)] for name in READERS if environment.get(variable_of(name))}),
    ]
    file = config_file(environment)
    table = read_config(file)
    sources.append((lambda name: f"{name.replace('_', '-')!r} in {str(file)!r}", table))
    values: dict[str, Any] = dict.fromkeys(READERS)
    places: dict[str, str] = {}
    for place_of, given in reversed(sources):
        for name in given.keys() & READERS.keys():
            places[name] = place_of(name)
            values[name] = read(name, given[name], places[name])
    return Settings(values, places)


def read(name: str, value: object, place: str) -> Any:
    """A value from its text (or from TOML). Raises InvalidArgumentError that names the place."""
    reader = READERS[name]
    try:
        if isinstance(value, str):
            return reader(value)
        if isinstance(value, bool):
            if reader is not switch:
                reader("")  # says what it wants
                raise ValueError("text")
            return value
        if isinstance(value, (int, float)) and reader not in TEXTUAL and reader is not switch:
            return reader(str(value))
        raise ValueError("text in quotes" if reader in TEXTUAL else "a plain value")
    except ValueError as error:
        shown = repr(value)
        raise InvalidArgumentError(f"{place} must be {error}, not {shown[:60]}") from None


def written(value: Any) -> str:
    """A value as the text that its reader gives back: for a later run with the same settings."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        first, last = value
        return f"{first}x{last}" if isinstance(first, int) else f"{first!r}:{last!r}"
    return str(value)


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def variable_of(name: str) -> str:
    return f"TINYDIFF_{name.upper()}"


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Complaints about TINYDIFF_ variables that look like misspelt settings."""
    known = [*map(variable_of, READERS), *OTHER_VARIABLES]
    found = sorted(name for name in environment if name.startswith("TINYDIFF_") and name not in known)
    return [f"{name} is no setting; did you mean {like}?" for name in found if (like := nearest(name, known))]


# ------------------------------------------------------------------------------------------------ the file


def config_file(environment: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_CONFIG_HOME/tinydiff/config.toml`; the standard has relative values ignored."""
    base = environment.get("XDG_CONFIG_HOME", "")
    folder = base if os.path.isabs(base) else os.path.join(os.path.expanduser("~"), ".config")
    return Path(folder) / "tinydiff" / "config.toml"


def read_config(file: Path) -> dict[str, Any]:
    """The keys of the config file under the names of READERS; {} where there is no file."""
    import tomllib

    try:
        with open(file, "rb") as stream:
            data = stream.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise InvalidArgumentError(f"config file {str(file)!r} is larger than 1 MB")
        table = tomllib.loads(data.decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InvalidArgumentError(f"config file {str(file)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"config file {str(file)!r} is not UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidArgumentError(f"config file {str(file)!r} is not valid TOML: {error}") from None
    named = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in READERS:
            like = nearest(key, [n.replace("_", "-") for n in READERS])
            hint = f"; did you mean {like!r}?" if like else ""
            raise InvalidArgumentError(f"config file {str(file)!r}: unknown key {key!r:.60}{hint}")
        named[name] = value
    return named
