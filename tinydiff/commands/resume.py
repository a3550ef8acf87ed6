"""`tinydiff resume [JOURNAL]`: go on with a picture that was interrupted, to the pixels it would have had."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinydiff._version import __version__
from tinydiff.commands.console import Console
from tinydiff.commands.generate import draw, in_users_words, load, save, shown_warnings, summary
from tinydiff.commands.interrupts import Interrupts
from tinydiff.errors import JournalError


def run(args: argparse.Namespace, console: Console, interrupts: Interrupts) -> int:
    from tinydiff.commands.generate import check
    from tinydiff.commands.run_record import read_record, record
    from tinydiff.commands.targets import Targets
    from tinydiff.commands.watching import watched
    from tinydiff.journal import read_journal
    from tinydiff_weights.fingerprint import what_changed

    console.quiet = args.quiet
    with shown_warnings(console), watched(console, interrupts) as watcher:
        path = latest() if args.journal is None else Path(args.journal).absolute()
        saved = read_journal(path)
        wanted = read_record(path, saved.run)
        settings = wanted.settings
        if wanted.process.busy_elsewhere:
            raise JournalError(path, f"process {wanted.process.pid} is still at this picture", hint="Wait for it")
        with in_users_words(settings):
            seed = check(settings, wanted.prompt)
            output, force = args.output or wanted.output, args.force or (wanted.force and args.output is None)
            targets = Targets(output, seed, settings["batch"] or 1, force=force, resumed=True)
            pipe, scheduler = load(settings, console)
            if (change := what_changed(wanted.model, pipe.model.source)) is not None:
                hint = "Put the model back as it was, or begin the picture again"
                raise JournalError(path, f"the model is not the one of this picture: {change}", hint=hint)
            if wanted.version != __version__:
                what = f"begun by version {wanted.version}, this is {__version__}"
                console.warning(f"the picture was {what}: it may differ in its last bits")
            if pipe.model.keeper is not None:
                pipe.model.keeper.follow(wanted.plan)
            again = record(pipe, settings, wanted.prompt, seed, output, force=force, plan=wanted.plan)
            watcher.keep(path, again, saved=saved)
            console.note(f"going on after step {saved.index} of {len(scheduler.timesteps)}")
            out = draw(pipe, scheduler, wanted.prompt, seed, settings, console, interrupts, watcher, saved.index)
            save(out, targets, pipe, scheduler, wanted.prompt, settings, console, interrupts)
            watcher.complete()
    summary(out, console)
    return 0


def latest() -> Path:
    """The newest journal of no running process in the folder of journals. Raises JournalError."""
    from tinydiff.breadcrumb import Process
    from tinydiff.commands.watching import journal_folder, journals
    from tinydiff.journal import read_journal

    busy = False
    for path in journals():
        process = Process.from_json(read_journal(path).run)
        if process is None or not process.busy_elsewhere:
            return path
        busy = True
    what = "every picture in it is still being made" if busy else "no interrupted picture is here"
    hint = "Journals are written with generate --journal; one with a name of its own: tinydiff resume NAME.journal"
    raise JournalError(journal_folder(), what, hint=hint)
