"""Weights that are packed when they are used: the same bits as packed once, and the same bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from miniatures import UNETS, VAES, class_name, network, random_tensors, stored

from tinydiff_kernels.compiled import scratch
from tinydiff_kernels.compiled.backend import Compiled
from tinydiff_kernels.compiled.dry import Dry
from tinydiff_kernels.compiled.program import Fill
from tinydiff_kernels.compiled.scratch import Unpacked
from tinydiff_kernels.handles import ConvWeight, LinearWeight, MatmulWeight
from tinydiff_kernels.matmul.geometry import upsample_weights
from tinydiff_kernels.matmul.packing import pack_float
from tinydiff_weights.safetensors import StoredTensor


def kind_of(weight: MatmulWeight) -> Any:
    return "f16" if getattr(weight.weight, "dtype", "F16") == "F16" else "f32"


def pair(name: str, dtype: str) -> tuple[Any, Any, Any]:
    """A network that keeps packed weights, one that packs as it goes, and one without weights."""
    config = UNETS[name] if name in UNETS else VAES[name]
    tensors = stored(random_tensors(class_name(config), config, 3), dtype)
    backends = (
        Compiled(kind_of, threads=2),
        Compiled(kind_of, threads=2, keep=False),
        Dry(kind_of, threads=2, keep=False),
    )
    return tuple(network(config, tensors, backend) for backend in backends)  # type: ignore[return-value]


@pytest.mark.parametrize(("name", "dtype"), [("sd1", "F16"), ("sdxl", "F32"), ("kl", "F16")])
def test_packing_in_use_changes_no_bit(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "SCRATCH", 1 << 12)  # several groups in most layers
    kept, used, dry = pair(name, dtype)
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((2, 4, 6, 8), np.float32)
    results = []
    for net in (kept, used, dry):
        if name in VAES:
            results.append(net.decode(sample))
        else:
            extra = {}
            if name == "sdxl":
                extra["added"] = {"text_embeds": np.ones((2, 20), np.float32), "time_ids": np.ones((2, 6), np.float32)}
            context = np.ones((2, 77, UNETS[name]["cross_attention_dim"]), np.float32)
            results.append(net(sample, 500.0, context, **extra))
    np.testing.assert_array_equal(results[0], results[1])
    program, planned = (next(iter(net.backend.programs.values())) for net in (used, dry))
    assert planned.arena_bytes == program.arena_bytes == used.backend.arena.nbytes
    assert sum(isinstance(action, Fill) for action in program.actions) > len(used.weights) / 3


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("shape", "use"), [
    ((37, 20, 3, 3), ""), ((16, 8), ""), ((2 * 21, 12), "gated"), ((24, 9, 3, 3), "upsampled"),
])  # fmt: skip
def test_groups_of_panels_are_those_of_the_whole(shape: tuple[int, ...], use: str, dtype: Any) -> None:
    values = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    tensor = StoredTensor.from_array("w", values)
    weight: MatmulWeight = LinearWeight("w", tensor) if len(shape) == 2 else ConvWeight("w", tensor)
    parity = (1, 0) if use == "upsampled" else None
    kind = "f16" if dtype == np.float16 and parity is None else "f32"
    whole = values.astype(np.float32)
    expected = pack_float(whole if parity is None else upsample_weights(whole, parity), kind, gated=use == "gated")
    unpacked = Unpacked(weight, kind, use == "gated", parity)
    got = np.full(expected.data.nbytes, 255, np.uint8)
    size = unpacked.panel_bytes
    for first in range(unpacked.panels):
        unpacked.pack(first, first + 1, got[first * size : (first + 1) * size])
    assert got.tobytes() == expected.data.tobytes()
    assert (unpacked.taps, unpacked.steps, unpacked.outputs) == (expected.taps, expected.steps, expected.outputs)
    assert (unpacked.panels, unpacked.panel_bytes) == (expected.panels, expected.panel_bytes)
    together = np.full(expected.data.nbytes, 255, np.uint8)
    unpacked.pack(0, unpacked.panels, together)
    assert together.tobytes() == expected.data.tobytes()
