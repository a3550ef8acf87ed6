"""Strips: a network whose activations do not fit is computed some lines at a time, with the same bits.

A convolution on a strip is the same convolution on a small image whose border is the lines above and below. Group norm
needs the statistics of its whole input first. So values are of two kinds: *kept* ones lie whole in the arena;
all others are *recomputed* from kept ones, strip by strip with the lines around it, whenever something needs them: once
for a norm's statistics, once more for what reads the norm. What to keep is the `StripPolicy`, and is data:

    policy = StripPolicy.parse("32:kk..k")        # lines of a strip, then one letter for each recorded operation
    backend.strips = policy                       # of `compiled.backend.Compiled`; None: the whole image
    vae.forward_decode(backend, latents)

    from tinydiff_kernels.compiled.strip_plan import ladder, plan_policy, plan_strips
    plans = ladder(forward, kind_of, threads=2)   # from the whole image to the smallest arena, each cheaper in memory
    plan = plan_strips(forward, kind_of, budget=200 << 20, threads=2)     # little work that fits, else the smallest
    plan = plan_policy(forward, kind_of, policy, threads=2)               # a policy that was stored; None: whole image
    plan.policy, plan.arena_bytes, plan.extra_work, plan.output_bytes, plan.offset_bytes, plan.launches

`forward(backend) -> Rows` calls the network on inputs of the size in question, whose values do not matter:
`lambda b: vae.forward_decode(b, Rows(Grid(1, 64, 64), 4, np.zeros((4096, 4), np.float32)))`. Nothing is computed and no
weight is read. `arena_bytes` is exact: `Compiled` places the same buffers. A policy holds for every batch (images are
computed one after the other) and size of the network that it was planned for. `strips` may be a tuple, of which the
policy with as many letters as the network has operations is taken: a VAE's two directions; a UNet's first step, which
also computes the keys and values of the prompt, and its later ones. Where none fits StripPolicyError is raised.

Statistics are taken of the same tiles of 128 pixels as those of the whole image and folded in the same order, and
every pixel of a convolution is a chain of its own. So keeping or recomputing, and the lines of a strip, change no bit.
Values kept in 16 bits, with a scale for every 16 channels of a pixel (`ref/sixteen.py`), cost 2.5e-5 of accuracy each
(random SD1.5 at 256x256: the nine of the smallest plan 0.76e-4 together, with a scale for all 128 to 512 channels of a
pixel 1.13e-4), but in int8 layers as much as int8 itself, as roundings fall otherwise: planning takes them only where
no convolution is quantised and exact plans would be slow.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinydiff_kernels.errors import KernelError

KEEP, SHORTEN, RECOMPUTE = "k", "h", "."


class StripPolicyError(KernelError, ValueError):
    """A policy that cannot be read, or one of another network."""


@dataclass(frozen=True, slots=True)
class StripPolicy:
    """Lines of a strip, an even number; for every operation whether its result is kept in float32 (`k`), kept in 16
    bits (`h`) or recomputed (`.`).

    What an operation needs whole (attention, for example), results of the network and single rows are kept in float32
    in any case; norms and concatenations never are, because whatever reads them makes them on the way.
    """

    lines: int
    modes: str

    def __post_init__(self) -> None:
        known = set(self.modes) <= {KEEP, SHORTEN, RECOMPUTE}
        if not (known and self.modes and 0 < self.lines <= 1 << 20 and self.lines % 2 == 0):
            raise StripPolicyError(
                f"not a strip policy: {self.lines} lines, {self.modes[:40]!r}; expected an even number of lines and a"
                f" letter of {KEEP}{SHORTEN}{RECOMPUTE} for each operation"
            )

    @property
    def exact(self) -> bool:
        """Whether the bits are those of the whole image."""
        return SHORTEN not in self.modes

    def __str__(self) -> str:
        return f"{self.lines}:{self.modes}"

    @classmethod
    def parse(cls, text: str) -> StripPolicy:
        """The inverse of `str`. Raises StripPolicyError."""
        lines, _, modes = text.partition(":")
        if not (lines.isascii() and lines.isdigit() and len(lines) < 8):
            raise StripPolicyError(f"not a strip policy: {text[:40]!r}; expected lines:letters, such as 32:kk..k")
        return cls(int(lines), modes)


def chosen(strips: StripPolicy | tuple[StripPolicy, ...] | None, count: int) -> StripPolicy | None:
    """The policy for a network of `count` operations. Raises StripPolicyError."""
    given = (strips,) if isinstance(strips, StripPolicy) else strips or ()
    fitting = next((policy for policy in given if len(policy.modes) == count), None)
    if given and fitting is None:
        lengths = " and ".join(str(len(policy.modes)) for policy in given)
        raise StripPolicyError(
            f"a strip policy of {lengths} operations was given to a network of {count}: plan strips for each network"
            " and direction, and set `strips` to its own before its call, or to None"
        )
    return fitting


@dataclass(frozen=True, slots=True)
class StripPlan:
    """What a policy costs; `policy` None is the whole image.

    `arena_bytes` is what the program will reserve, `output_bytes` its results outside the arena, `offset_bytes` the
    tables of rows that its launches keep; `launches` of them keep 1.5 KB of descriptors each. `extra_work`:
    multiply-adds beyond the whole image's, as a fraction of them.
    """

    policy: StripPolicy | None
    arena_bytes: int
    output_bytes: int
    offset_bytes: int
    launches: int
    extra_work: float
