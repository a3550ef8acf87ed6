"""How long a step of the denoiser's training takes on this machine, and which operations take the time.

    python profile_step.py [--batch 64]

Run it before a long training on a machine that is new to you: everything is random, no data is needed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from denoiser import BATCH, DenoiserTraining, make_unet
from device import DEVICE, describe_device, prepare
from icons import SIZE
from text_encoder import make_text_encoder
from torch.profiler import ProfilerActivity, profile
from vocab import POSITIONS

from train import VOCABULARY


class Ends:
    """What the networks ask of a tokenizer: its size and the numbers of its two special tokens."""

    bos_token_id, eos_token_id, pad_token_id = VOCABULARY - 2, VOCABULARY - 1, VOCABULARY - 1

    def __len__(self) -> int:
        return VOCABULARY


def seconds(work: Callable[[], object], count: int = 5) -> float:
    """Mean time of a call, after one to warm up; the device has finished in the end."""

    def wait() -> None:
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    work()
    wait()
    begin = time.perf_counter()
    for _ in range(count):
        work()
    wait()
    return (time.perf_counter() - begin) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    prepare(options.threads)
    with TemporaryDirectory() as empty:
        training = DenoiserTraining(Ends(), make_text_encoder(Ends()), make_unet(4), Path(empty))
    latents = torch.randn(options.batch, 4, SIZE // 8, SIZE // 8, device=DEVICE)
    ids = torch.randint(0, VOCABULARY, (options.batch, POSITIONS), device=DEVICE)
    step = seconds(lambda: training.train_step(latents, ids))
    print(f"{describe_device()}: {1e3 * step:.1f} ms a step, {options.batch / step:.1f} samples a second")
    print(f"of it the optimisers {1e3 * seconds(lambda: [o.step() for o in training.optimizers]):.1f} ms")
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if DEVICE.type == "cuda" else [])
    with profile(activities=kinds) as seen:
        training.train_step(latents, ids)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
    print(seen.key_averages().table(sort_by=f"self_{DEVICE.type}_time_total", row_limit=15, max_name_column_width=50))


if __name__ == "__main__":
    main()
