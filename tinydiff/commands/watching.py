"""What lies on disk while a picture is made: a breadcrumb for the next run, and a journal for `tinydiff resume`."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydiff.breadcrumb import Breadcrumb, KilledRun, killed_runs, state_folder
from tinydiff.commands.console import Console
from tinydiff.commands.interrupts import Interrupts
from tinydiff.errors import InvalidArgumentError, JournalError
from tinydiff.pipeline import Watcher

if TYPE_CHECKING:
    from tinydiff.denoise import Loop
    from tinydiff.journal import Journal
    from tinydiff.pipeline import F32

KEPT = 8  # unfinished pictures in the folder of journals
TRIES = {
    "text encoder": "--weights int8, or close other programs",
    "denoising": "--weights int8 or int4, a smaller --size or --batch 1",
    "VAE decode": "a TAESD as --vae, a smaller --size or --batch 1",
}


class RunWatcher(Watcher):
    """Follows one run of `generate` or `resume`. `optional`: a journal that nobody asked for may fail to be written."""

    def __init__(self, crumb: Breadcrumb, console: Console) -> None:
        self.crumb, self._console = crumb, console
        self._path: Path | None = None
        self._run: Mapping[str, Any] = {}
        self._optional = False
        self._saved: Journal | None = None

    def keep(self, path: Path, run: Mapping[str, Any], *, optional: bool = False, saved: Journal | None = None) -> None:
        """Write the loop to `path` after every step, with `run` (JSON); begin with what was `saved`."""
        self._path, self._run, self._optional, self._saved = path, run, optional, saved
        if saved is not None:
            self.crumb.journal = path

    @property
    def journal(self) -> Path | None:
        """The journal, if there is one on disk."""
        return self.crumb.journal

    def stage(self, name: str) -> None:
        self.crumb.stage(name)

    def finished(self, shape: tuple[int, ...], steps: int) -> tuple[F32, list[float]] | None:
        if self._saved is None:
            return None
        latents = self._saved.latents(shape, steps)
        return (latents, self._saved.seconds) if self._saved.index == steps else None

    def begin(self, loop: Loop) -> None:
        if self._saved is not None:
            self._saved.restore(loop)
        self.step(loop)

    def step(self, loop: Loop) -> None:
        if self._path is None:
            return
        from tinydiff.journal import write_journal

        try:
            write_journal(self._path, loop, self._run)
        except JournalError as error:
            if not self._optional:
                raise
            self._console.warning(f"{error.args[0]}; going on without")
            self._path = None
            return
        if self.crumb.journal is None:
            self.crumb.journal = self._path
            self.crumb.stage("denoising")

    def complete(self) -> None:
        """The pictures are on disk: nothing is left to go on with."""
        if self.journal is not None:
            remove_journal(self.journal)
            self.crumb.journal = None


@contextlib.contextmanager
def watched(console: Console, interrupts: Interrupts) -> Iterator[RunWatcher]:
    """A watcher for the run in this block. First says which runs were killed since the last start."""
    for run in killed_runs(_runs()):
        console.warning(told(run))
    crumb = Breadcrumb(_runs())
    watcher = RunWatcher(crumb, console)
    interrupts.noticed = crumb.remove
    crumb.stage("loading")
    try:
        yield watcher
    except BaseException as error:
        unfit = isinstance(error, (JournalError, InvalidArgumentError))
        if not unfit and watcher.journal is not None and watcher.journal.exists():
            console.note(f"tinydiff resume {str(watcher.journal)!r} goes on with this picture")
        raise
    finally:
        crumb.remove()


def told(run: KilledRun) -> str:
    """A silent kill in words, and what may help."""
    tries = TRIES.get(run.stage, "closing other programs")
    plan = ""
    if run.planned_mib is not None:
        plan = f" with a plan of {run.planned_mib} MB"
        tries = f"--memory {run.planned_mib * 4 // 5}MB, {tries}"
    again = f"; tinydiff resume {str(run.journal)!r} goes on with it" if run.journal and run.journal.exists() else ""
    return f"the last run was killed in {run.stage}{plan}: try {tries}{again}"


# ------------------------------------------------------------------------------------------------ journals


def journal_path(setting: str | None) -> tuple[Path | None, bool]:
    """Where the journal goes, and whether it was asked for. On phones there is one unless it is switched off."""
    if setting == "off" or (setting is None and not on_phone()):
        return None, False
    if setting not in (None, "on"):
        path = Path(setting)
        if os.path.lexists(path):
            hint = f"tinydiff resume {str(path)!r} finishes it; else remove the file or choose another name"
            raise JournalError(path, "holds an unfinished picture already", hint=hint)
        return path.absolute(), True
    return journal_folder() / f"{os.getpid()}-{secrets.token_hex(4)}.journal", setting == "on"


def on_phone(environment: Mapping[str, str] = os.environ) -> bool:
    """Android, as Termux or as any other Python there."""
    return hasattr(sys, "getandroidapilevel") or "TERMUX_VERSION" in environment or "ANDROID_ROOT" in environment


def journal_folder() -> Path:
    return state_folder() / "journals"


def make_journal_folder(path: Path) -> None:
    """Make the folder of journals that nobody named, and forget the oldest of them beyond KEPT."""
    if path.parent != journal_folder():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise JournalError(path, f"its folder cannot be made: {error.strerror}") from error
    for old in journals()[KEPT - 1 :]:
        remove_journal(old)


def journals() -> list[Path]:
    """The journals that nobody named, the latest first."""
    dated = []
    for path in journal_folder().glob("*.journal"):
        with contextlib.suppress(OSError):
            dated.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(dated, reverse=True)]


def remove_journal(path: Path) -> None:
    """The journal, and what a kill left of writing it."""
    for file in (path, *path.parent.glob(f".{glob.escape(path.name)}.*.tmp")):
        with contextlib.suppress(OSError):
            os.unlink(file)


def _runs() -> Path:
    return state_folder() / "runs"
