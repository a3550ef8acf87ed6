"""Which attention a network gets: integers where quantised layers made all of it and it is long, float32 elsewhere."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from compiled_tools import compiled, reference_unet, relative, tensors, unet, unet_inputs
from miniatures import UNETS, network

from tinydiff.recipe import kind_of
from tinydiff_kernels.compiled import lower_simple
from tinydiff_kernels.compiled.dry import Dry
from tinydiff_kernels.compiled.program import Launch

LARGE = (2, 16, 16)  # as many pixels in the first level as integers need keys


def launches(backend: Any) -> Counter[str]:
    program = list(backend.programs.values())[-1]
    return Counter(action.kernel for action in program.actions if isinstance(action, Launch))


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_long_self_attention_of_quantised_layers_is_in_integers(weights: str) -> None:
    """In the first level; neither the text's, nor the deeper levels', which are short."""
    backend = compiled(weights)
    ours = unet("sd1", backend)(**unet_inputs("sd1", LARGE))
    found = launches(backend)
    assert found["attention_i8"] == found["keys_i8"] > 0
    assert found["attention_f32"] > found["attention_i8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lower_simple, "INTEGER_KEYS", 257)
        plain = compiled(weights)
        wide = unet("sd1", plain)(**unet_inputs("sd1", LARGE))
    assert launches(plain)["attention_f32"] == found["attention_f32"] + found["attention_i8"]
    error, without = (relative(x, reference_unet("sd1", LARGE)) for x in (ours, wide))
    assert error != without
    assert error < 1.1 * without


@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_other_weights_keep_float32(weights: str) -> None:
    backend = compiled(weights)
    unet("sd1", backend)(**unet_inputs("sd1", LARGE))
    assert not {"attention_i8", "keys_i8"} & set(launches(backend))


def test_attention_to_a_long_text_stays_in_float32() -> None:
    """The same in the step that makes its keys as in those that find them made."""
    backend = compiled("int8")
    model, given = unet("sd1", backend), unet_inputs("sd1")
    given["context"] = np.random.default_rng(0).standard_normal((2, 300, given["context"].shape[2]), np.float32)
    model(**given)
    assert launches(backend)["attention_i8"] == 0


def test_one_layer_in_float32_keeps_float32() -> None:
    """Keys of an int8 layer, queries of a float32 one."""
    integers = kind_of("unet", "int8")
    backend = compiled("int8")
    backend.kind_of = backend._weights.kind_of = lambda w: "f32" if w.name.endswith("attn1.to_q") else integers(w)
    unet("sd1", backend)(**unet_inputs("sd1", LARGE))
    assert launches(backend)["attention_i8"] == 0


def test_the_number_of_threads_does_not_change_bits() -> None:
    given = unet_inputs("sd1", (1, 16, 17))
    one, *others = (unet("sd1", compiled("int8", threads=n))(**given) for n in (1, 2, 3, 5))
    assert all(np.array_equal(other, one) for other in others)


def test_its_workspace_is_planned() -> None:
    """Dry programs, which plans read, have the arena of those that run; in it lie the bytes of keys and values."""
    given = unet_inputs("sd1", LARGE)
    real, dry = compiled("int8"), Dry(kind_of("unet", "int8"), threads=2)
    unet("sd1", real)(**given)
    network(UNETS["sd1"], None, dry)(**given)
    (ran,), (planned,) = real.programs.values(), dry.programs.values()
    assert ran.arena_bytes == planned.arena_bytes
    lives = [link.buffer.life for a in planned.actions if isinstance(a, Launch) for link in a.links]
    assert all(life.offset + life.nbytes <= planned.arena_bytes for life in lives)


def test_a_watchdog_sees_what_is_not_finite() -> None:
    """An infinite weight of keys: the result is NaN, and the layer that went wrong is shown."""
    shown: list[str] = []

    class Watch:
        def before(self, operation: Any) -> None:
            """Nothing to do."""

        def after(self, operation: Any, result: Any) -> None:
            if not np.isfinite(result.array).all():
                shown.append(type(operation).__name__)

    arrays = dict(tensors("unet", "sd1"))
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight"
    arrays[name] = arrays[name].copy()
    arrays[name][3, 2] = np.inf
    model = network(UNETS["sd1"], arrays, compiled("int8", observers=[Watch()]))
    assert np.isnan(model(**unet_inputs("sd1", LARGE))).all()
    assert shown[:2] == ["Linear", "Attention"]
