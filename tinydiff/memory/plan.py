"""The plan of a picture's memory: made before any work, kept while it runs, or a refusal.

What a process holds in a stage:

    anonymous   the process itself + tables of programs + weights that no file holds + the arena + results and pictures
    file        libraries + weights: those that stay (`resident`) and the window of those that pass (`window`)

Anonymous memory is a need. Of the file-backed part only the window is: clean pages can be dropped and read again, at
the price of time. So a budget is met first by strips in the VAE, then by keeping fewer weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tinydiff.arguments import Settings
from tinydiff.errors import MemoryBudgetError
from tinydiff.loading import Model
from tinydiff.memory import stages
from tinydiff.memory.limits import MB
from tinydiff.memory.process import Resident, resident, trim
from tinydiff.memory.stages import Stage
from tinydiff.memory.stream import AHEAD
from tinydiff_kernels import warm
from tinydiff_kernels.compiled.strips import StripPolicy

# What a process adds to itself once it computes: threads, words of tokenizers, Pillow, what allocators keep. Measured
# on two x86-64 machines with CPython 3.11: at most 13 MB.
GROWTH = Resident(16 * MB, 4 * MB)
STARTS_DIFFER = 2 * MB  # from one start of the process to the next: the smallest budget named must do for another one
TYPICAL = Resident(87 * MB, 96 * MB)  # of a process with its kernels loaded by Numba
READ_RATE = 1e9  # bytes a second that storage is taken to deliver; phones of 2020 and later have 1 to 2 GB/s
PICTURE_COPIES = 5  # float32 images beside the result: planes, 0 to 1, bytes, PNG
TRIES = 4  # to find strips for the room that is left: how much files need depends on them a little


@dataclass(frozen=True)
class StagePlan:
    """What a stage will take, in bytes; `window` and `resident` are parts of the weights in files."""

    stage: Stage
    anonymous: int
    file: int
    resident: int
    window: int

    @property
    def total(self) -> int:
        return self.anonymous + self.file

    @property
    def streamed(self) -> int:
        """Bytes that are read again at every run of the network."""
        return self.stage.mapped - self.resident


@dataclass(frozen=True)
class MemoryPlan:
    """`budget` None: no limit; weights that lie in files stay there, all others are packed once and kept."""

    budget: int | None
    base: Resident  # of the process when it was planned
    growth: Resident
    stages: tuple[StagePlan, ...]
    smallest: int | None  # budget that would do, where it was asked for
    extra_seconds: float  # reading weights again
    extra_work: float  # of the VAE's strips, as a share of its decoding

    @property
    def peak(self) -> StagePlan:
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def anonymous(self) -> int:
        """The highest of all stages."""
        return max(stage.anonymous for stage in self.stages)

    def of(self, name: str) -> StagePlan:
        return next(stage for stage in self.stages if stage.stage.name == name)


def plan(
    model: Model,
    s: Settings,
    budget: int | None,
    *,
    base: Resident | None = None,
    copied: bool = False,
    strips: StripPolicy | Literal["any"] | None = "any",
    smallest: bool = False,
) -> MemoryPlan:
    """The plan of a call. Raises MemoryBudgetError where the budget is too small for it.

    `base`: of the process when work starts, measured here if None. `copied`: integer weights will come from a packed
    copy. `strips`: how the VAE shall decode, whatever the budget (a picture that is gone on with). `smallest`: find the
    smallest budget too, which takes longer than planning for one that is ample.
    """
    base = process_now() if base is None else base
    keep = budget is None
    first = stages.text_stage(model, s, keep, copied), stages.unet_stage(model, s, keep, copied)
    fixed, libraries = base.anonymous + GROWTH.anonymous, base.file + GROWTH.file

    def planned(decoder: Stage, limit: int | None) -> tuple[StagePlan, ...]:
        return _planned(fixed, libraries, budget=limit, stages=(*first, decoder))

    whole = stages.vae_stage(model, s, keep, None, copied)
    if strips != "any":
        found = planned(stages.vae_stage(model, s, keep, strips, copied), budget)
        return MemoryPlan(budget, base, GROWTH, found, most(found), _again(found, s) if budget else 0.0, 0.0)
    if budget is None:
        found = planned(whole, None)
        return MemoryPlan(budget, base, GROWTH, found, max(x.total for x in found), 0.0, 0.0)
    planner = stages.strip_planner(model, s)

    def in_strips(nbytes: int) -> tuple[Stage, float]:
        """The decoder with the least work whose arena and tables take so many bytes, and its extra work."""
        made = planner.within(max(nbytes, 0))
        return stages.vae_stage(model, s, False, made.policy, copied), made.extra_work

    decoder, extra = whole, 0.0
    last = planned(whole, 0)[-1]
    room = budget - last.total + whole.arena + whole.tables
    for _ in range(TRIES):
        over = most(planned(decoder, budget)) - budget
        if over <= 0:
            break
        room -= 0 if decoder is whole else over
        decoder, extra = in_strips(room)
    fits, needed = most(planned(decoder, budget)) <= budget, None
    if smallest or not fits:
        least, least_work = in_strips(0)
        if most(planned(whole, 0)) <= most(planned(least, 0)):  # the decoder is not what binds, or strips gain nothing
            least, least_work = whole, 0.0
        needed = most(planned(least, 0))
        if budget < needed:
            raise _refusal(model, s, budget, needed + STARTS_DIFFER, planned(least, 0))
        decoder, extra = (decoder, extra) if fits else (least, least_work)
    found = planned(decoder, budget)
    return MemoryPlan(budget, base, GROWTH, found, needed, _again(found, s), extra)


def process_now() -> Resident:
    """This process with all kernels loaded, as it will be when work starts."""
    warm.load()
    trim()
    return resident()


def process_at_work() -> Resident:
    """The same; of a process that has not compiled its kernels yet, what is typical then."""
    return TYPICAL if warm.missing() else process_now()


def _again(found: tuple[StagePlan, ...], s: Settings) -> float:
    """Seconds of reading weights again at every step but the first."""
    return found[1].streamed * (s.steps - 1) / READ_RATE


def most(found: tuple[StagePlan, ...]) -> int:
    """Bytes of the stage that takes most."""
    return max(stage.total for stage in found)


def _planned(fixed: int, libraries: int, *, budget: int | None, stages: tuple[Stage, ...]) -> tuple[StagePlan, ...]:
    """Under a budget each stage gives back what it took; without one all of it stays."""
    made, arena, before, files = list[StagePlan](), 0, 0, 0
    for stage in stages:
        arena = stage.arena if budget is not None else max(arena, stage.arena)
        held = stage.tables + stage.kept
        anonymous = fixed + before + arena + held + stage.results
        if stage is stages[-1]:
            anonymous = max(anonymous + stage.results, fixed + (1 + PICTURE_COPIES) * stage.results)
        least = min(stage.largest, stage.mapped)
        if budget is None:
            window, stay = 0, stage.mapped
            before, files = before + held, files + stage.mapped
            anonymous += PICTURE_COPIES * stage.results if stage is stages[-1] else 0
        else:
            room = budget - anonymous - libraries
            window = min(stage.mapped, least + max(0, min(AHEAD, room - least)))
            stay = max(0, min(stage.mapped, room - window)) if len(made) == 1 else 0
            if stay + window >= stage.mapped and stay:
                stay, window = stage.mapped, 0
        made.append(StagePlan(stage, anonymous, libraries + (files or stay + window), stay, window))
    return tuple(made)


def _refusal(model: Model, s: Settings, budget: int, smallest: int, found: tuple[StagePlan, ...]) -> MemoryBudgetError:
    """Names the smallest budget that would do, and what lowers it."""
    worst = max(found, key=lambda stage: stage.total)
    needed = -(-smallest // MB)
    ways = []
    if worst.stage.name == stages.DECODING and hasattr(model.vae.config, "norm_num_groups"):
        ways.append("a TAESD as vae (--vae)")
    if worst.stage.name == stages.DENOISING and worst.window > 8 * MB:
        ways.append("int8 or int4 weights (--weights)")
    ways.append(
        "a smaller picture (--size)" if s.images == 1 else "fewer pictures at once (--batch) or smaller ones (--size)"
    )
    hint = f"memory={needed}MB is the least for {s.width}x{s.height}; it is lowered by {' or '.join(ways)}"
    reason = (
        f"{worst.stage.name} takes {worst.anonymous // MB} MB beside files and {worst.file // MB} MB of files, "
        f"the budget is {budget // MB} MB"
    )
    return MemoryBudgetError(f"memory={budget // MB}MB is too small: {reason}", needed=smallest, hint=hint)
