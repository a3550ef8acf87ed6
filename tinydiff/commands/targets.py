"""The names of the files that `tinydiff generate` writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from tinydiff.errors import InvalidArgumentError, OutputError
from tinydiff.output import check_output

SUFFIX = ".png"


class Targets:
    """One name per picture. With `output`: that name, numbered if there are several pictures. Else `SEED-N.png` in
    the current folder, N counting from 1 and passing over names that are taken.
    """

    def __init__(self, output: str | None, seed: int, pictures: int, *, force: bool, resumed: bool = False) -> None:
        self._resumed = resumed  # a name may be taken by the very picture that the killed run could still write
        self._fixed = None if output is None else numbered(output, pictures)
        self._force = force and output is not None
        unnamed = default_names(seed) if resumed else free_names(seed)
        self._names = iter(self._fixed) if self._fixed is not None else unnamed
        for path in self._fixed or [next(free_names(seed))]:
            check_output(path, force=self._force or resumed)  # raises OutputError for what could not be written later

    def write(self, save: Callable[[Path, bool], object], holds: Callable[[Path], bool]) -> Path:
        """Call `save(path, force)` with the next name. A free name that was taken meanwhile is passed over.

        Of an interrupted run, a file that `holds` the picture already is it.
        """
        while True:
            path = next(self._names)
            if self._resumed and os.path.lexists(path):
                if holds(path):
                    return path
                if self._fixed is None:
                    continue
            try:
                save(path, self._force)
            except OutputError as error:
                if self._fixed is not None or not isinstance(error.__cause__, FileExistsError):
                    raise
            else:
                return path


def default_names(seed: int) -> Iterator[Path]:
    for number in count(1):
        yield Path(f"{seed}-{number}{SUFFIX}")


def free_names(seed: int) -> Iterator[Path]:
    return (path for path in default_names(seed) if not os.path.lexists(path))


def numbered(output: str, pictures: int) -> list[Path]:
    """`cat.png`, or `cat-1.png`, `cat-2.png` ... for several pictures."""
    if not output or "\0" in output or output.endswith(os.sep) or os.path.isdir(output):
        check_output(output)  # raises with the reason
    path = Path(output)
    if path.suffix.lower() != SUFFIX:
        raise InvalidArgumentError(f"-o {output!r:.200}: pictures are PNG files, so the name must end in {SUFFIX}")
    if pictures == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, pictures + 1)]
