"""The embedded model before it is packed: a diffusers folder in fp16. For comparisons in float32; no part of the wheel.

The package has what `tinydiff quantize` makes of it (weights/train/README.md), which no tolerance of floats fits.
"""

from __future__ import annotations

from pathlib import Path

MASTER = Path(__file__).resolve().parents[1] / "weights" / "train" / "master"
