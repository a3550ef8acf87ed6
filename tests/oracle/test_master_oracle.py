"""The embedded model's fp16 master in float32, against diffusers' own pipeline on the same folder.

The packed int8 file in the package cannot come this near; tests/tinydiff/test_shipped_model.py ties it to the master.
"""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from master import MASTER

import tinydiff
from tinydiff.quality import psnr

LEAST = 45  # decibels on pictures in [0, 1]; 90 and more were seen


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
def test_the_master_draws_what_diffusers_draws() -> None:
    """In the size that each of the two takes the model's own to be."""
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    call: dict[str, Any] = {
        "prompt": "a red apple, noto", "num_inference_steps": 6, "guidance_scale": 3.0, "output_type": "np",
    }  # fmt: skip
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(MASTER, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    with torch.no_grad():
        wanted = theirs(**call, generator=torch.Generator().manual_seed(7)).images
    assert wanted.std() > 0.05
    for backend in ("reference", "numba"):
        pipe = tinydiff.Pipeline.from_pretrained(MASTER, backend=backend, weights="float32")
        assert psnr(wanted, np.asarray(pipe(**call, seed=7).images), peak=1.0) > LEAST
