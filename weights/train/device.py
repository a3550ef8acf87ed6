"""One place that knows the hardware: CUDA when there is one, else the CPU; bfloat16 where it pays.

On a CPU bfloat16 pays only with matrix units for it (AMX: an 11 M UNet trained 1.35 times as fast as in float32 on one
core, an autoencoder 1.8 times); without them it is emulated and slow, so float32 stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bfloat16_units() -> bool:
    if DEVICE.type == "cuda":
        return torch.cuda.is_bf16_supported()
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "amx_bf16" in flags.read_text()


USE_BFLOAT16 = has_bfloat16_units()


def autocast() -> torch.autocast:
    """Mixed precision: bfloat16 products with float32 master weights where the hardware has units for it."""
    return torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=USE_BFLOAT16)


def prepare(threads: int = 1) -> None:
    """Settings of the process: on a CPU the number of threads and no denormals; with CUDA the fast matrix units."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    if DEVICE.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True


def adamw(parameters: Any, rate: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW whose steps a CUDA graph can record (replay.py)."""
    return torch.optim.AdamW(
        parameters, lr=rate, betas=betas, weight_decay=weight_decay, capturable=DEVICE.type == "cuda"
    )


def set_rates(optimizers: Iterable[torch.optim.Optimizer], rate: float) -> None:
    """Learning rates, times each group's `relative`, in tensors that keep their place: a recorded step reads them."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if not isinstance(group["lr"], torch.Tensor):
                group["lr"] = torch.empty((), device=DEVICE)
            group["lr"].fill_(rate * group.get("relative", 1.0))


class NarrowGroupNorm(torch.nn.GroupNorm):
    """A group norm that writes what it reads, bfloat16 under autocast (which would have it write float32)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(DEVICE.type, enabled=False):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return torch.nn.functional.group_norm(x, self.num_groups, weight, bias, self.eps)


def keep_bfloat16(module: torch.nn.Module) -> torch.nn.Module:
    """On CUDA: group norms read and write half the bytes; their sums are float32 inside."""
    for part in module.modules():
        if type(part) is torch.nn.GroupNorm and DEVICE.type == "cuda" and USE_BFLOAT16:
            part.__class__ = NarrowGroupNorm
    return module


def memory_format() -> torch.memory_format:
    """How convolutions want their tensors: channels last on CUDA; NCHW on a CPU, faster there with few channels."""
    return torch.channels_last if DEVICE.type == "cuda" else torch.contiguous_format


def describe_device() -> str:
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    return f"{name}, {'bfloat16' if USE_BFLOAT16 else 'float32'}"
