"""exp, erf, log, sine and the activations: error in ulp against float64, and the same bits on every path."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import simd_data
import simd_kernels

from tinydiff_kernels import aot, cpu, dispatch

PATHS = [path.name for path in dispatch.available()]
erf64 = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid64(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


# function -> (float64 reference, largest error in ulp of the result, largest absolute error; one must hold)
EXACT: dict[str, tuple[Callable[[Any], Any], float, float]] = {
    "exp": (np.exp, 1.0, 0.0),
    "exp2_of_negative": (lambda x: np.where(x <= 0, np.exp2(x), np.nan), 2.0, 2.0**-126),
    "log": (np.log, 1.0, 0.0),
    "erf": (erf64, 1.0, 0.0),
    "sin": (np.sin, 1.5, 0.0),
    "cos": (np.cos, 1.5, 0.0),
    "sigmoid": (sigmoid64, 3.0, 2.0**-126),
    "silu": (lambda x: x * sigmoid64(x), 3.0, 2.0**-119),
    "gelu": (lambda x: x / 2 * (1 + erf64(x * math.sqrt(0.5))), 3.0, 3e-7),
    "quick_gelu": (lambda x: x * sigmoid64(1.702 * x), 3.0, 1e-6),
    "soft_clip": (lambda x: 3 * np.tanh(x / 3), 3.0, 6e-7),
}
AT_INFINITY = {
    "exp": (np.inf, 0.0),
    "exp2_of_negative": (np.nan, 0.0),
    "log": (np.inf, np.nan),
    "erf": (1.0, -1.0),
    "sin": (np.nan, np.nan),
    "cos": (np.nan, np.nan),
    "sigmoid": (1.0, 0.0),
    "soft_clip": (3.0, -3.0),
}


@lru_cache(maxsize=8)
def compiled(path: str) -> aot.Loaded:
    names = [name for name in simd_kernels.KERNELS if name.startswith("function_")]
    machine = aot.Machine.of(dispatch.BY_NAME[path], cpu.this_cpu().arch)
    made = aot.compile_object({name: simd_kernels.EXPORTS[name] for name in names}, machine)
    assert made.undefined == []
    return aot.Loaded(made.object, names)


def value(path: str, name: str) -> Any:
    made = simd_data.function(name)
    return simd_data.run(compiled(path).function(f"function_{name}", 5), made)["value"].ravel()


@pytest.mark.parametrize("name", EXACT)
def test_error(name: str) -> None:
    x = simd_data.function_inputs(name)
    got = value(PATHS[0], name).astype(np.float64)
    reference, ulps, absolute = EXACT[name]
    limit = 1e5 if name in ("sin", "cos") else 3e38
    usable = np.isfinite(x) & (np.abs(x) <= limit)
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64))
        usable &= np.isfinite(exact.astype(np.float32))
        error = np.abs(got - exact)
        ulp = np.spacing(np.maximum(np.abs(exact), 2.0**-126).astype(np.float32)).astype(np.float64)
    wrong = usable & ~((error <= ulps * ulp) | (error <= absolute))
    worst = float((error / ulp)[usable & (error > absolute)].max(initial=0.0))
    print(f"{name}: {worst:.3f} ulp, {float(error[usable].max()):.2e} absolute, over {int(usable.sum())} values")
    assert not wrong.any(), (x[wrong][:5], got[wrong][:5], exact[wrong][:5], worst)


@pytest.mark.parametrize("name", EXACT)
def test_special_values(name: str) -> None:
    x = simd_data.function_inputs(name)
    got = value(PATHS[0], name)
    assert np.isnan(got[np.isnan(x)]).all()
    if name in AT_INFINITY:
        up, down = got[x == np.inf], got[x == -np.inf]
        np.testing.assert_array_equal(up, np.float32(AT_INFINITY[name][0]))
        np.testing.assert_array_equal(down, np.float32(AT_INFINITY[name][1]))
    if name == "exp":
        with np.errstate(over="ignore", invalid="ignore"):
            beyond = np.isfinite(x) & np.isinf(np.exp(x.astype(np.float64)).astype(np.float32))
        assert np.isinf(got[beyond]).all()
        assert (got[x < -104] == 0).all()
        assert ((got > 0) & (got < 2.0**-126)).any()  # subnormals are kept
    if name == "exp2_of_negative":
        assert (got[x == 0] == 1).all()
        assert (got[x < -127] == 0).all()
        normal = (x <= 0) & (x >= -126)
        exact = np.exp2(x[normal].astype(np.float64))
        assert np.abs(got[normal] / exact - 1).max() < 2e-7
    if name == "log":
        assert np.isnan(got[x < 0]).all()
        assert (got[x == 0] == -np.inf).all()
        assert (got[x == 1] == 0).all()
    if name in ("sin", "cos"):
        assert np.isnan(got[np.abs(x) > 1e5]).all()


@pytest.mark.parametrize("name", EXACT)
def test_every_path_gives_the_same_bits(name: str) -> None:
    first = value(PATHS[0], name)
    for path in PATHS[1:]:
        other = value(path, name)
        same = (first.view(np.uint32) == other.view(np.uint32)) | (np.isnan(first) & np.isnan(other))
        assert same.all(), (path, int((~same).sum()))
