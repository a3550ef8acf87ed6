"""Keeps a picture to its plan: sets weight streams and strips, and lets a stage go when the next begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tinydiff.arguments import Settings
from tinydiff.loading import Model
from tinydiff.memory import stages
from tinydiff.memory.plan import MemoryPlan, plan
from tinydiff.memory.process import trim
from tinydiff_kernels.compiled.strips import StripPolicy
from tinydiff_kernels.matmul.geometry import forget_geometry
from tinydiff_weights import residency

PLANS = 4  # kept, for calls alike


class Keeper:
    """Of one model under a budget in bytes."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.plan: MemoryPlan | None = None  # of the latest call
        self.strips: StripPolicy | Literal["any"] | None = "any"
        self._plans: dict[Any, MemoryPlan] = {}
        self._stage = ""

    def follow(self, words: str) -> None:
        """Decode as an earlier plan did, in the words of `report.words`. Raises StripPolicyError."""
        policy = words.rpartition(" VAE ")[2]
        if policy:
            self.strips = None if policy == "whole" else StripPolicy.parse(policy)

    def prepare(self, model: Model, s: Settings) -> MemoryPlan:
        """Plan a call, before any work. Raises MemoryBudgetError."""
        key = s.width, s.height, s.images, s.steps, s.guidance_scale > 1, s.clip_skip, s.few_steps
        if key not in self._plans:
            while len(self._plans) >= PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = plan(model, s, self.budget, strips=self.strips)
            forget_geometry()  # what planning left behind
            trim()
        self.plan = made = self._plans[key]
        unet: Any = model.unet.backend
        unet.stream.keep = made.of(stages.DENOISING).resident
        return made

    def stage(self, model: Model, name: str) -> None:
        """A stage begins (see `pipeline.STAGES`, "" after the last): what the one before it used is let go."""
        if self._stage and self._stage != name:
            for network, component in networks(model, self._stage):
                leave(network, component)
            unet: Any = model.unet.backend  # whose arena is everybody's
            unet.arena.release()
            trim()
        self._stage = name
        vae: Any = model.vae.backend
        vae.strips = self.plan.of(name).stage.strips if name == stages.DECODING and self.plan is not None else None


def networks(model: Model, stage: str) -> Sequence[tuple[Any, Any]]:
    """(network, component of the file) of a stage."""
    parts = model.source.components
    if stage == stages.TEXT:
        names = [name for name in ("text_encoder", "text_encoder_2") if name in parts]
        return [(encoder, parts[name]) for name, (_, encoder) in zip(names, model.text.pairs, strict=True)]
    return [(model.unet, parts["unet"])] if stage == stages.DENOISING else [(model.vae, parts["vae"])]


def leave(network: Any, component: Any) -> None:
    """Give back programs and packed weights, and the pages of the component's file."""
    network.backend.forget()
    network.backend.stream.forget()
    for region in residency.regions(raw for tensor in component.tensors.values() for raw in raws(tensor)):
        residency.let_go(region)


def raws(tensor: Any) -> list[Any]:
    """The stored arrays of a tensor; a packed weight has several."""
    parts = getattr(tensor, "parts", None)
    if parts is not None:
        return [part.raw for part in parts.values()]
    return [tensor.raw]
