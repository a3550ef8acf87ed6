"""SIMD vectors as Numba types: an LLVM vector is one typed value, so a micro-kernel is ordinary Python.

A vector is named by its element and its lanes: `f32x8` is eight float32 in 32 bytes. Elements are i8, u8,
i16, u16, i32, u32, f32 (fp16 and bf16 are stored as u16 and computed as f32). Registers are 16, 32 or 64
bytes wide; where the machine's are narrower, LLVM uses several, so a kernel may use `f32x16` everywhere. 128 bytes
are two weight panels side by side, 256 (`f32x64`) four of the widest registers. 4 and 8 byte vectors exist to be
stored, or widened after a load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinydiff_kernels._numba import extending, ir, types

Vector = Any  # a vector inside a kernel; the interpreter never sees one
Scalar = Any

i8, i16, i32, i64 = types.int8, types.int16, types.int32, types.int64
u8, u16, u32 = types.uint8, types.uint16, types.uint32
f32 = types.float32


@dataclass(frozen=True, slots=True)
class Element:
    """One lane: `kind` is "i" (signed), "u" (unsigned), "f" (IEEE float) or "m" (mask bit)."""

    kind: str
    bits: int

    @property
    def name(self) -> str:
        return "mask" if self.kind == "m" else f"{self.kind}{self.bits}"

    @property
    def ir(self) -> Any:
        return ir.FloatType() if self.kind == "f" else ir.IntType(self.bits)


ELEMENTS = {
    e.name: e for e in (Element(k, b) for k, b in [*((k, b) for k in "iu" for b in (8, 16, 32)), ("f", 32), ("m", 1)])
}
WIDTHS = (4, 8, 16, 32, 64, 128, 256)  # bytes


class VectorType(types.Type):  # type: ignore[misc]
    """Numba's type of an LLVM vector. Two are equal when element and lanes are; nothing converts silently."""

    def __init__(self, element: Element, lanes: int) -> None:
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"{element.name}x{lanes}")

    @property
    def nbytes(self) -> int:
        return self.element.bits * self.lanes // 8

    @property
    def ir(self) -> Any:
        return ir.VectorType(self.element.ir, self.lanes)


@extending.register_model(VectorType)
class VectorModel(extending.models.PrimitiveModel):  # type: ignore[misc]
    """A vector lives in a register (or several); it has no parts that Numba could see."""

    def __init__(self, manager: Any, frontend: VectorType) -> None:
        super().__init__(manager, frontend, frontend.ir)


def vector(element: str, lanes: int) -> VectorType:
    """The type of `lanes` elements, for instance `vector("f32", 8)`. Raises ValueError for a width no kernel uses."""
    kind = ELEMENTS[element]
    if kind.kind != "m" and kind.bits * lanes // 8 not in WIDTHS:
        raise ValueError(f"{element}x{lanes} is not {', '.join(map(str, WIDTHS))} bytes wide")
    return VectorType(kind, lanes)


def mask_of(vec: VectorType) -> VectorType:
    """The type of a comparison of two such vectors: one bit per lane."""
    return VectorType(ELEMENTS["mask"], vec.lanes)


f32x4, f32x8, f32x16 = vector("f32", 4), vector("f32", 8), vector("f32", 16)
f32x32, f32x64 = vector("f32", 32), vector("f32", 64)
i32x4, i32x8, i32x16, i32x32 = vector("i32", 4), vector("i32", 8), vector("i32", 16), vector("i32", 32)
u32x4, u32x8, u32x16 = vector("u32", 4), vector("u32", 8), vector("u32", 16)
i16x4, i16x8, i16x16, i16x32 = vector("i16", 4), vector("i16", 8), vector("i16", 16), vector("i16", 32)
u16x4, u16x8, u16x16, u16x32 = vector("u16", 4), vector("u16", 8), vector("u16", 16), vector("u16", 32)
i8x4, i8x8, i8x16 = vector("i8", 4), vector("i8", 8), vector("i8", 16)
i8x32, i8x64, i8x128 = vector("i8", 32), vector("i8", 64), vector("i8", 128)
u8x4, u8x8, u8x16 = vector("u8", 4), vector("u8", 8), vector("u8", 16)
u8x32, u8x64, u8x128 = vector("u8", 32), vector("u8", 64), vector("u8", 128)
