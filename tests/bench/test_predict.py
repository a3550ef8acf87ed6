"""The cost model: it meets what was measured, its profiles are complete, and nothing it says looks like a
measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.gate import compare
from tinydiff.bench import predict, text
from tinydiff.errors import InvalidArgumentError

RESULTS = Path(__file__).parents[2] / "bench" / "results"


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*-calibration.json")), ids=lambda file: file.name)
def test_whole_steps_are_predicted_within_a_fifth(file: Path) -> None:
    data = json.loads(file.read_text(encoding="utf-8"))
    device = predict.device(data["device"])
    for run in data["runs"]:
        made = predict.programs("sd15-unet", "unet", run["weights"], run["size"], 1, device.cores)
        assert predict.cost(made, device).total == pytest.approx(run["seconds"], rel=0.2), run


def test_counts_are_those_of_the_gate() -> None:
    """Predictions of a path whose count is missing take another path's: bench/make_rates.py copies all of them."""
    assert predict.rates()["counted"] == compare.read()[0]["instructions"]


@pytest.mark.parametrize("key", predict.devices())
def test_profiles(key: str) -> None:
    device = predict.device(key)
    assert device.cores >= 1
    assert device.assumptions
    assert all(source["url"].startswith("http") and source["what"] for source in (*device.sources, *device.published))
    for kernel in ("matmul_f32", "matmul_f16", "matmul_i8", "matmul_i4", "attention_f32", "attention_i8"):
        assert predict.arithmetic(kernel, 1e9, device) > 0
        assert predict.beside(kernel, device.path) >= 0
    for kernel in predict.MOVERS:
        assert predict.beside(kernel, device.path) > 0


def test_directions() -> None:
    """Fewer bits, fewer pixels, no guidance, faster cores: less time."""
    pi, phone = predict.device("raspberry-pi-5"), predict.device("pixel-8")

    def step(device: predict.Device, weights: str = "int8", size: int = 256, batch: int = 2) -> predict.Cost:
        return predict.cost(predict.programs("sd15-unet", "unet", weights, size, batch, device.cores), device)

    whole = step(pi)
    assert step(phone).total < whole.total < step(pi, "float32").total
    assert step(pi, batch=1).total < whole.total < step(pi, size=512).total
    assert step(pi, "float32").weights > 3.5 * whole.weights
    assert sum(whole.launches.values()) > 500


def test_a_prediction_is_called_one() -> None:
    device = predict.device("raspberry-pi-4")
    stages = predict.picture("bk-tiny", device, weights="int8", size=256, steps=4, guided=True)
    lines = list(text.predicted(device, stages, "bk-tiny", 4))
    assert lines[0].startswith("PREDICTION for Raspberry Pi 4, not a measurement")
    assert all(
        line.strip().startswith("predicted") for line in lines[1 : lines.index("  assumed:")] if "launches" not in line
    )
    assert set(device.assumptions) <= {line.strip() for line in lines}
    assert any(source["url"] in line for source in device.sources for line in lines)


def test_refusals() -> None:
    device = predict.device("raspberry-pi-5")
    with pytest.raises(InvalidArgumentError, match="pixel-8"):
        predict.device("pixel8")
    with pytest.raises(InvalidArgumentError, match="multiple of 64"):
        predict.picture("sd15", device, weights="int8", size=500, steps=1, guided=False)
    with pytest.raises(InvalidArgumentError, match="sd21"):
        predict.picture("sd2", device, weights="int8", size=512, steps=1, guided=False)
