"""What single files are given is what the runtime takes: scheduler configs, and SD 2's still without prediction."""

from __future__ import annotations

from itertools import product

import pytest

from tinydiff import schedulers
from tinydiff_weights.settings import Prediction, scheduler_config

CASES = [
    (family, Prediction(kind, zero_snr), distilled)
    for family, (kind, zero_snr), distilled in product(
        ("sd1", "sd2", "sdxl"),
        (("epsilon", False), ("v_prediction", False), ("v_prediction", True)),
        (False, True),
    )
]


@pytest.mark.parametrize(("family", "predicted", "distilled"), CASES)
def test_schedulers_of_single_files_are_made(family: str, predicted: Prediction, distilled: bool) -> None:
    config = scheduler_config(family, predicted, distilled=distilled)
    scheduler = schedulers.make(config)
    scheduler.set_timesteps(4)
    assert scheduler.config["prediction_type"] == predicted.kind
    assert type(scheduler).__name__ == config["_class_name"].removesuffix("Scheduler").replace("Discrete", "")
    if predicted.zero_snr and config["timestep_spacing"] == "trailing":
        assert scheduler.timesteps[0] == 999  # the step of pure noise


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_model_keeps_its_training_when_the_sampler_changes(family: str) -> None:
    config = scheduler_config(family, Prediction("v_prediction", False), distilled=False)
    other = schedulers.make("DPM++ 2M Karras", base=config)
    assert other.config["prediction_type"] == "v_prediction"
    assert (other.config["beta_start"], other.config["beta_end"]) == (0.00085, 0.012)
