"""The number formats of safetensors files, and their exact conversion to float32.

    name      bytes  layout (sign.exponent.mantissa)   held in NumPy as
    F64       8      1.11.52                           float64   (rounded to nearest: the one inexact row)
    F32       4      1.8.23                            float32
    F16       2      1.5.10                            float16
    BF16      2      1.8.7   the upper half of an F32  uint16
    F8_E4M3   1      1.4.3   bias 7, no infinity       uint8
    F8_E5M2   1      1.5.2   the upper half of an F16  uint8
    I8 ... I64, U8, BOOL                               the integer; BOOL as uint8, true where not zero

F8_E4M3 is the "fn" format of Micikevicius et al., "FP8 formats for deep learning" (2022), as ml_dtypes and
torch read it: S.1111.111 is NaN, there is no infinity, the largest number is 448. F8_E5M2 has infinities and
NaNs as IEEE has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Little-endian on every machine: that is what the format says, and NumPy swaps where the CPU differs.
STORAGE: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "BOOL": np.dtype("u1"),
}

# Formats of the library that no Stable Diffusion checkpoint uses, known so that the refusal can say so.
OTHER_FORMATS = frozenset(
    ["U16", "U32", "U64", "C64", "F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"]
)

FLOATING = frozenset(["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])


def _e4m3_table() -> NDArray[np.float32]:
    """All 256 values of F8_E4M3: (-1)^s * 2^(e-7) * (1 + m/8), at e = 0: 2^-6 * m/8, at e = 15, m = 7 NaN."""
    code = np.arange(256)
    sign, exponent, mantissa = code >> 7, (code >> 3) & 15, code & 7
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * np.exp2(exponent - 10.0))
    magnitude[(code & 127) == 127] = np.nan
    return np.where(sign == 1, -magnitude, magnitude).astype(np.float32)


def _e5m2_table() -> NDArray[np.float32]:
    """All 256 values of F8_E5M2: the byte is the upper half of the F16 of the same value."""
    halves = (np.arange(256, dtype=np.uint16) << 8).view(np.float16)
    with np.errstate(invalid="ignore"):  # signalling NaNs among the 256
        return halves.astype(np.float32)


_BYTE_TABLES = {"F8_E4M3": _e4m3_table(), "F8_E5M2": _e5m2_table()}


def to_float32(raw: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Convert stored numbers (`STORAGE[dtype]`, any strides) to a C-contiguous, aligned float32 array.

    Aligned contiguous F32 comes back as it is, without a copy. Every other format gives a new array.
    """
    if dtype == "F32":
        return np.require(raw.view(np.ndarray), np.float32, ["C_CONTIGUOUS", "ALIGNED"])
    out = np.empty(raw.shape, np.float32)
    if dtype == "BF16":
        np.left_shift(raw, np.uint32(16), out=out.view(np.uint32), dtype=np.uint32)
    elif dtype in _BYTE_TABLES:
        np.take(_BYTE_TABLES[dtype], raw, out=out, mode="clip")  # a byte is never out of range; clip skips a buffer
    elif dtype == "BOOL":
        out[...] = raw != 0
    else:
        with np.errstate(all="ignore"):  # an F64 beyond F32's range becomes infinite; NaNs stay NaNs
            np.copyto(out, raw, casting="same_kind" if dtype in FLOATING else "unsafe")
    return out
