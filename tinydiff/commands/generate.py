"""`tinydiff generate PROMPT`: arguments are checked, the target too, then one pipeline call, then PNG files."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydiff.commands.console import Console
from tinydiff.commands.interrupts import Interrupts
from tinydiff.commands.progress import StepProgress, duration
from tinydiff.commands.settings import Settings, settle, unknown_variables
from tinydiff.commands.warmup import compile_kernels
from tinydiff.errors import InvalidArgumentError

if TYPE_CHECKING:  # what loads NumPy is imported after `limit_threads`
    from tinydiff.api import Pipeline
    from tinydiff.commands.targets import Targets
    from tinydiff.memory.plan import MemoryPlan
    from tinydiff.pipeline import Output, Watcher
    from tinydiff.schedulers import Scheduler

MAX_PROMPT_BYTES = 2**20
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# Arguments of the Python interface as they begin its messages -> the setting that the user knows.
SETTING_OF = {
    "width": "size",
    "height": "size",
    "num_inference_steps": "steps",
    "guidance_scale": "cfg",
    "num_images_per_prompt": "batch",
    "guidance_rescale": "guidance_rescale",
    "guidance_interval": "guidance_interval",
    "eta": "eta",
    "memory=": "memory",
    "memory must": "memory",
    "weights=": "weights",
    "unknown scheduler": "sampler",
    "unknown backend": "backend",
    "unknown weights": "weights",
    "unknown prediction_type": "prediction_type",
}


def run(args: argparse.Namespace, console: Console, interrupts: Interrupts) -> int:
    settings = settle(vars(args))
    console.quiet = bool(settings["quiet"])
    for complaint in unknown_variables():
        console.warning(complaint)
    if settings["sampler"] == "list":
        console.result(sampler_list())
        return 0
    prompt = read_prompt(args.prompt)
    limit_threads(settings)
    from tinydiff.commands.run_record import record
    from tinydiff.commands.targets import Targets
    from tinydiff.commands.watching import journal_path, make_journal_folder, watched
    from tinydiff.memory.report import words

    with shown_warnings(console), in_users_words(settings), watched(console, interrupts) as watcher:
        seed = check(settings, prompt)
        targets = Targets(args.output, seed, settings["batch"] or 1, force=args.force)
        journal, asked = journal_path(settings["journal"])
        interrupts.check()
        pipe, scheduler = load(settings, console)
        plan = plan_of(pipe, settings)
        watcher.crumb.planned_mib = None if plan is None else plan.peak.total >> 20
        if journal is not None:
            made = "" if plan is None else words(plan)
            run_record = record(pipe, settings, prompt, seed, args.output, force=args.force, plan=made)
            watcher.keep(journal, run_record, optional=not asked)
            make_journal_folder(journal)
        out = draw(pipe, scheduler, prompt, seed, settings, console, interrupts, watcher)
        save(out, targets, pipe, scheduler, prompt, settings, console, interrupts)
        watcher.complete()
    summary(out, console)
    if settings["timings"]:
        from tinydiff.memory.report import timing_lines

        for line in timing_lines(out.timings, out.memory):
            console.note(line)
    return 0


def plan_of(pipe: Pipeline, settings: Settings) -> MemoryPlan | None:
    """The memory plan of a run. Raises MemoryBudgetError."""
    width, height = settings["size"] or (None, None)
    return pipe.plan_memory(
        width=width, height=height, num_inference_steps=settings["steps"], guidance_scale=settings["cfg"],
        num_images_per_prompt=settings["batch"] or 1, clip_skip=_clip_skip(pipe, settings),
    )  # fmt: skip


def summary(out: Output, console: Console) -> None:
    seconds = out.timings["steps"]
    pace = f"{sum(seconds) / max(len(seconds), 1):.2f} s/step"
    console.note(f"seed {out.seed}, {len(seconds)} steps, {pace}, {duration(out.timings['total'])} in all")


def sampler_list() -> str:
    from tinydiff.schedulers import names

    rows = [(s.name, s.short, s.class_name) for s in names()]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {short:<{widths[1]}}  {cls}" for name, short, cls in rows)


def read_prompt(given: str | None) -> str:
    """The argument, or standard input where it is `-`."""
    if given is None:
        raise InvalidArgumentError('a prompt is missing: tinydiff generate "a red apple"')
    if given != "-":
        return given
    data = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    if len(data) > MAX_PROMPT_BYTES:
        raise InvalidArgumentError("the prompt on standard input is larger than 1 MB")
    try:
        return data.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"the prompt on standard input is not UTF-8 (byte {error.start})") from None


def limit_threads(settings: Settings) -> None:
    """NumPy's library reads its number of threads from the environment once, when it is loaded."""
    if settings["threads"] is not None and 0 < settings["threads"] <= 1024:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(settings["threads"])))


def check(settings: Settings, prompt: str) -> int:
    """What can be judged without the model. The seed, a new one if none is given."""
    from tinydiff import arguments
    from tinydiff.backends import BACKENDS
    from tinydiff.recipe import WEIGHTS
    from tinydiff.rng import check_seed, fresh_seed
    from tinydiff.suggest import unknown
    from tinydiff.text import check_prompt

    check_prompt("prompt", prompt)
    if settings["negative"] is not None:
        check_prompt("negative prompt", settings["negative"])
    for name, low, high in (
        ("steps", 1, arguments.MOST_STEPS),
        ("batch", 1, arguments.MOST_IMAGES),
        ("threads", 1, 1024),
        ("clip_skip", 1, 100),
    ):
        if settings[name] is not None:
            arguments.whole(settings.place(name), settings[name], low, high)
    for name in ("cfg", "eta", "guidance_rescale"):
        if settings[name] is not None:
            arguments.number(settings.place(name), settings[name])
    if settings["guidance_interval"] is not None:
        arguments.interval(settings.place("guidance_interval"), settings["guidance_interval"])
    for side, value in zip(("width", "height"), settings["size"] or (), strict=False):
        arguments.whole(f"{settings.place('size')}: {side}", value, 1, arguments.LARGEST_SIDE)
    for name, known in (("backend", BACKENDS), ("weights", WEIGHTS)):
        if settings[name] is not None and settings[name] not in known:
            raise unknown(settings.place(name), settings[name], known)
    if settings["seed"] is None:
        return fresh_seed()
    try:
        return check_seed(settings["seed"])
    except InvalidArgumentError as error:
        raise InvalidArgumentError(str(error).replace("seed", settings.place("seed"), 1)) from None


def load(settings: Settings, console: Console) -> tuple[Pipeline, Scheduler]:
    """The model and, on its noise schedule, the scheduler asked for, with its timesteps."""
    from tinydiff.api import Pipeline
    from tinydiff.arguments import settle_scheduler, steps_and_guidance

    chosen = {name: settings[name] for name in ("weights", "backend") if settings[name] is not None}
    make_packed_copy(settings, console)
    pipe = Pipeline.from_pretrained(
        settings["model"],
        memory=settings["memory"],
        threads=settings["threads"],
        vae=settings["vae"],
        prediction_type=settings["prediction_type"],
        **chosen,
    )
    if pipe.unet.backend.name == "numba":
        compile_kernels(console)
    for hint in pipe.model.hints:
        if not console.quiet:
            console.warning(hint)
    steps, _ = steps_and_guidance(pipe.model, settings["steps"], settings["cfg"])
    sampler = settings["sampler"] if settings["sampler"] is not None else pipe.scheduler
    return pipe, settle_scheduler(pipe.model, sampler, steps, settings["eta"], None, None)


def make_packed_copy(settings: Settings, console: Console) -> None:
    """Integer weights of a large model come from a packed file in the cache: made here, with progress, if need be."""
    from tinydiff.commands.quantize import bar
    from tinydiff.packed_cache import packed_source
    from tinydiff.recipe import INTEGERS
    from tinydiff_weights.open import open_model

    if settings["weights"] in INTEGERS:
        source = open_model(settings["model"], vae=settings["vae"])
        packed = packed_source(source, settings["weights"], settings["backend"] or "auto", bar(console))
        console.clear()
        if packed is not source:
            console.note(f"packed copy: {packed.path}")


def draw(
    pipe: Pipeline,
    scheduler: Scheduler,
    prompt: str,
    seed: int,
    settings: Settings,
    console: Console,
    interrupts: Interrupts,
    watcher: Watcher,
    begin: int = 0,
) -> Output:
    """The pipeline call, with progress and a Ctrl-C that waits for one operation. `begin`: steps done before."""
    width, height = settings["size"] or (None, None)
    progress = StepProgress(console, len(scheduler.timesteps), begin=begin)

    def after_step(_: Any, index: int, timestep: float, kwargs: Mapping[str, Any]) -> None:
        progress.step(index + 1)
        if interrupts.count:  # a signal in the instant before the call cleared its cancel token
            pipe.cancel()

    with interrupts.gently(pipe.cancel):
        out = pipe(
            prompt,
            negative_prompt=settings["negative"],
            width=width,
            height=height,
            num_inference_steps=settings["steps"],
            guidance_scale=settings["cfg"],
            guidance_rescale=settings["guidance_rescale"] or 0.0,
            guidance_interval=settings["guidance_interval"] or (0.0, 1.0),
            seed=seed,
            scheduler=scheduler,
            clip_skip=_clip_skip(pipe, settings),
            num_images_per_prompt=settings["batch"] or 1,
            callback_on_step_end=after_step,
            watcher=watcher,
        )
    console.clear()
    return out


def _clip_skip(pipe: Pipeline, settings: Settings) -> int | None:
    """A1111 counts layers from 1, diffusers counts those left out."""
    given: int | None = settings["clip_skip"]
    if given is None:
        return None
    most = min(e.config.layers - (1 if e.penultimate else 0) for _, e in pipe.model.text.pairs)
    if given > most:
        raise InvalidArgumentError(f"{settings.place('clip_skip')} {given} is not possible: this model has 1 to {most}")
    return given - 1


def save(
    out: Output,
    targets: Targets,
    pipe: Pipeline,
    scheduler: Scheduler,
    prompt: str,
    settings: Settings,
    console: Console,
    interrupts: Interrupts,
) -> None:
    """Write the pictures and print their names. A name that was taken meanwhile is passed over or refused."""
    from tinydiff.commands.picture_text import describe_run, texts
    from tinydiff.image import holds_picture, save_png

    record = None if settings["no_metadata"] else describe_run(pipe, scheduler, out, prompt, settings)
    for index, picture in enumerate(out.images):
        text = None if record is None else texts(record, index)

        def write(path: Path, force: bool, picture: Any = picture, text: Mapping[str, str] | None = text) -> None:
            save_png(path, picture, text, force=force)

        def holds(path: Path, picture: Any = picture) -> bool:
            return holds_picture(path, picture)

        with interrupts.finishing():
            console.result(os.fspath(targets.write(write, holds)))
            console.flush()
        interrupts.check()


@contextmanager
def shown_warnings(console: Console) -> Iterator[None]:
    """Warnings as single lines on stderr, those of the prompt every time."""
    from tinydiff.text import PromptWarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        console.warning(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", PromptWarning)
        warnings.showwarning = show
        yield


@contextmanager
def in_users_words(settings: Settings) -> Iterator[None]:
    """Errors of the Python interface name its arguments; the user wrote flags, variables or a config file."""
    try:
        yield
    except (InvalidArgumentError, NotImplementedError) as error:
        message = str(error)
        for start, name in SETTING_OF.items():
            if message.startswith(start) and settings[name] is not None:
                place, rest = settings.place(name), message.removeprefix(start)
                own_word = start.startswith("unknown") or name == "size"
                raise type(error)(f"{place}: {message}" if own_word else f"{place} {rest.lstrip()}") from error
        raise
